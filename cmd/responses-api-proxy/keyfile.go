package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key"
	"github.com/responses-api-proxy/responses-api-proxy/internal/safefile"
)

// A keyFile is the file of --key-file, from which the key is read at start and at each SIGHUP.
type keyFile struct {
	path   string
	file   *safefile.InputFile
	public bool // when it was first read, every user could read it
	key    *key.Key
	errs   *errorLog
	newKey func() // called when another key is in use

	mu sync.Mutex // held from when the file is opened until its key is in use, so that no older key follows it
}

// credential returns the path of the key that systemd has left for this service (LoadCredential=key:FILE), unless
// standard input is a pipe or a file, and so brings one.
func credential() string {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	info, err := os.Stdin.Stat()
	if dir == "" || err == nil && info.Mode()&os.ModeCharDevice == 0 {
		return ""
	}
	return filepath.Join(dir, "key")
}

// findKeyFile finds the file at path; owners are trusted. The key may only be in a directory of its own: files in that
// can be read from within the sandbox, since another key may be another file.
func findKeyFile(path string, errs *errorLog, owners ...uint32) (*keyFile, error) {
	f, err := safefile.FindInput(path, owners...)
	if err != nil {
		return nil, fmt.Errorf("--key-file: %w", err)
	}
	if slices.Contains(f.Directories(), "/") {
		f.Close()
		return nil, fmt.Errorf("--key-file: %s lies in the root directory; put it into a directory of its own", path)
	}
	return &keyFile{path: path, file: f, errs: errs}, nil
}

// read calls use with the file that has the name now.
func (k *keyFile) read(use func(*os.File) error) error {
	f, err := k.file.Open()
	if err != nil {
		return fmt.Errorf("--key-file: %w", err)
	}
	defer f.Close()
	return use(f)
}

// openKey reads the key from the file.
func (k *keyFile) openKey(cfg key.Config) error {
	cfg.File, cfg.Replaceable = k.path, true
	return k.read(func(f *os.File) error {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		// Windows has access lists, of which the mode shows nothing.
		k.public = runtime.GOOS != "windows" && info.Mode().Perm()&0o004 != 0
		k.key, err = key.Open(int(f.Fd()), cfg)
		return err
	})
}

// openKeyFile prepares for SIGHUP.
func (s *service) openKeyFile() error {
	k := s.keyFile
	k.newKey = s.rejections.newKey
	s.needs.Read = append(s.needs.Read, k.file.Directories()...)
	s.onStart(s.tryKeyFile)
	s.onHangup(func() { go k.reload() })
	s.onClose(func() { k.file.Close() })
	if !k.public {
		return nil
	}
	return s.warn(fmt.Sprintf("every user of this host can read --key-file %s; chmod 600 it", k.path))
}

// tryKeyFile warns if the file cannot be read from within the sandbox, and by --user's user.
func (s *service) tryKeyFile() error {
	if err := s.keyFile.read(func(*os.File) error { return nil }); err != nil {
		s.warnings = append(s.warnings, fmt.Sprintf("SIGHUP will not reload the API key: %v; let the proxy's user read it, or restart the proxy for another key", err))
	}
	return nil
}

// warnOfMore logs a warning if more than a key was given.
func (l *errorLog) warnOfMore(k *key.Key) {
	if k.More() {
		l.Warn("only the first line is used as the API key, and others follow it", "hint", "give one key, alone")
	}
}

// reload replaces the key. It waits until the old one is wiped.
func (k *keyFile) reload() {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.read(func(f *os.File) error { return k.key.Replace(int(f.Fd())) })
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s is empty; the old key stays in use", k.path)
	}
	if err != nil {
		k.errs.warning("API key not reloaded: " + err.Error())
		return
	}
	k.newKey()
	k.errs.warnOfMore(k.key)
	k.errs.Info("API key reloaded")
}
