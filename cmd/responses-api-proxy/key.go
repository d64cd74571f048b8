package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/safefile"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/upstream"
)

// openKey opens the key, from a file if there is one. Standard input is closed when it has been read, or when there is
// nothing to be read.
func openKey(o *options, errs *errorLog) (k *key.Key, file *keyFile, err error) {
	var cfg key.Config
	cfg.Header = o.authHeader
	cfg.Require = o.protection == strict || o.protection == available && key.HasSecretMemory()
	path := o.keyFile
	if o.identity.enabled() {
		cfg.Exchange = &o.identity.Exchange
	} else if path == "" {
		path = credential()
	}
	if path == "" {
		k, err = readKey(cfg, errs)
	} else {
		k, file, err = openKeyFile(path, o.owner, cfg)
	}
	if err != nil {
		return nil, nil, err
	}
	if err := detach(0); err != nil {
		k.Wipe()
		return nil, nil, fmt.Errorf("cannot close standard input: %w", err)
	}
	return k, file, nil
}

// readKey opens the key, and reads from standard input what it needs. At a terminal it prints a prompt.
func readKey(cfg key.Config, errs *errorLog) (*key.Key, error) {
	if !cfg.HasInput() {
		return key.Open(0, cfg)
	}
	restore, tty, err := key.NoEcho(0)
	if err != nil {
		return nil, err
	}
	cfg.Terminal = tty
	if tty {
		ctx, done := signal.NotifyContext(context.Background(), stopSignals...)
		forget := context.AfterFunc(ctx, func() {
			restore()
			os.Exit(130)
		})
		defer restore() // while descriptor 0 is still the terminal
		defer done()
		defer forget()
		errs.Write([]byte("OpenAI API key (it is not shown): ")) // typed on the same line
	} else {
		defer time.AfterFunc(2*time.Second, func() { errs.plain(linePrefix, "waiting for the key on standard input") }).Stop()
	}
	return key.Open(0, cfg)
}

// A keyFile is the file of --key-file, from which the key is read at start and at each SIGHUP.
type keyFile struct {
	path   string
	file   *safefile.InputFile
	public bool       // when it was first read, every user could read it
	mu     sync.Mutex // held from when the file is opened until its key is in use, so that no older key follows it
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

// openKeyFile reads the key from the file at path; owner is trusted. The key may only be in a directory of its own:
// files in that can be read from within the sandbox, since another key may be another file.
func openKeyFile(path string, owner int, cfg key.Config) (opened *key.Key, k *keyFile, err error) {
	in, err := safefile.FindInput(path, owner)
	if err != nil {
		return nil, nil, fmt.Errorf("--key-file: %w", err)
	}
	if slices.Contains(in.Directories(), "/") {
		in.Close()
		return nil, nil, fmt.Errorf("--key-file: %s lies in the root directory; put it into a directory of its own", path)
	}
	k = &keyFile{path: path, file: in}
	cfg.File, cfg.Spare = path, true
	err = k.read(func(f *os.File) error {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		// Windows has access lists, of which the mode shows nothing.
		k.public = runtime.GOOS != "windows" && info.Mode().Perm()&0o004 != 0
		opened, err = key.Open(int(f.Fd()), cfg)
		return err
	})
	return opened, k, err
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

// reloadable prepares for SIGHUP.
func (s *service) reloadable() error {
	k := s.keyFile
	s.needs.Read = append(s.needs.Read, k.file.Directories()...)
	s.onStart(func() error { // from within the sandbox, and by --user's user
		if err := k.read(func(*os.File) error { return nil }); err != nil {
			s.warnings = append(s.warnings, fmt.Sprintf("SIGHUP will not reload the API key: %v; let the proxy's user read it, or restart the proxy for another key", err))
		}
		return nil
	})
	s.onHangup(func() { go s.reloadKey() })
	s.onClose(func() { k.file.Close() })
	if !k.public {
		return nil
	}
	return s.warn(fmt.Sprintf("every user of this host can read --key-file %s; chmod 600 it", k.path))
}

// warnOfMore logs a warning if more than a key was given.
func (l *errorLog) warnOfMore(k *key.Key) {
	if k.More() {
		l.Warn("only the first line is used as the API key, and others follow it", "hint", "give one key, alone")
	}
}

// reloadKey replaces the key by that in its file. It waits until the old one is wiped.
func (s *service) reloadKey() {
	k := s.keyFile
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.read(func(f *os.File) error { return s.key.Replace(int(f.Fd())) })
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s is empty; the old key stays in use", k.path)
	}
	if err != nil {
		s.errs.warning("API key not reloaded: " + err.Error())
		return
	}
	s.rejections.newKey()
	s.errs.warnOfMore(s.key)
	s.errs.Info("API key reloaded")
}

// exchange gets the first access token, and renews it from then on. It blocks until that is there, for a minute at
// most.
func (s *service) exchange(roots *x509.CertPool) (err error) {
	if s.opts.upstreamURL != upstream.DefaultURL {
		return errors.New("workload identity requires the default OpenAI Responses endpoint; leave --upstream-url out")
	}
	ctx, done := signal.NotifyContext(context.Background(), stopSignals...)
	defer done()
	if len(s.stop) == 0 { // else the stop came before this context
		err = s.key.Exchange(ctx, roots, s.errs.warning)
	}
	if ctx.Err() != nil || len(s.stop) > 0 {
		return errors.New("stopped before there was an access token")
	}
	ports, dirs := s.key.Needs()
	s.needs.Ports, s.needs.Read = append(s.needs.Ports, ports...), append(s.needs.Read, dirs...)
	if file := s.opts.identity.TokenFile; file != "" {
		// When the first access token expires, it is read from within the sandbox, and by --user's user.
		s.onStart(func() error {
			f, err := os.Open(file)
			if err != nil {
				return fmt.Errorf("cannot read --oidc-token-file again: %w; let --user's user read it and its directory", err)
			}
			return f.Close()
		})
	}
	return err
}
