//go:build unix

package budget

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

var jobs = map[string]proctest.Job{"add": jobAdd}

func TestMain(m *testing.M) { proctest.Main(m, jobs) }

func write(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, []byte(header1+"\n1 5\nend\n"), 0o600), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

func TestModes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "b")
	for mode, ok := range map[os.FileMode]bool{
		0o600: true, 0o700: true, 0o640: false, 0o620: false, 0o604: false, 0o602: false, 0o666: false, 0o601: false,
	} {
		write(t, file, mode)
		b, err := Open(Config{Limit: 1, File: file})
		switch {
		case ok && err != nil:
			t.Errorf("%o: %v", mode, err)
		case !ok && (err == nil || !strings.Contains(err.Error(), "chmod 600")):
			t.Errorf("%o: %v", mode, err)
		}
		if b != nil {
			b.Close()
		}
	}
}

func TestForeignFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "b")
	write(t, file, 0o600)
	if err := os.Chown(file, 65534, -1); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root: ", err)
		}
		t.Skip("needs root: ", err)
	}
	if b, err := Open(Config{Limit: 1, File: file}); b != nil || err == nil || !strings.Contains(err.Error(), "another user (uid 65534)") {
		t.Errorf("%v", err)
	}
}

// TestNotRegular: links and pipes are refused at once, and a link's target is unchanged.
func TestNotRegular(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	write(t, target, 0o600)
	for name, make := range map[string]func(string) error{
		"link":     func(p string) error { return os.Symlink(target, p) },
		"dangling": func(p string) error { return os.Symlink(filepath.Join(dir, "nowhere"), p) },
		"pipe":     func(p string) error { return unix.Mkfifo(p, 0o600) },
	} {
		for _, at := range []string{name, "." + name + "2.lock"} {
			if err := make(filepath.Join(dir, at)); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, strings.TrimSuffix(strings.TrimPrefix(at, "."), ".lock"))
			if b, err := Open(Config{Limit: 1, File: file}); b != nil || err == nil || !strings.Contains(err.Error(), "not a regular file") {
				t.Errorf("%s: %v", at, err)
			}
		}
	}
	wantSpent(t, target, 1, 5)
	if _, err := os.Lstat(filepath.Join(dir, "nowhere")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a link was followed")
	}
}

// TestOneLedgerPerFile: two ledgers of one file would overwrite each other's sums.
func TestOneLedgerPerFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "b")
	first := mustOpen(t, Config{Limit: 1, File: file})
	if b, err := Open(Config{Limit: 1, File: file}); b != nil || err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("%v", err)
	}
	mustOpen(t, Config{Limit: 1, File: filepath.Join(dir, "c")})
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, Config{Limit: 1, File: file})
}

func TestMadeForUsAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "b")
	b := mustOpen(t, Config{Limit: 1, File: file})
	b.Charge(1, 0, 1)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file, filepath.Join(filepath.Dir(file), ".b.lock")} {
		if info, err := os.Stat(name); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(file), ".b.tmp")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary file is still there (%v)", err)
	}
}

// TestMovedDirectory: the directory is used by its descriptor, not by its name.
func TestMovedDirectory(t *testing.T) {
	dir := t.TempDir()
	here, there := filepath.Join(dir, "here"), filepath.Join(dir, "there")
	if err := os.Mkdir(here, 0o700); err != nil {
		t.Fatal(err)
	}
	b := mustOpen(t, Config{Limit: 1, File: filepath.Join(here, "b")})
	if err := errors.Join(os.Rename(here, there), os.Mkdir(here, 0o700)); err != nil {
		t.Fatal(err)
	}
	b.Charge(1, 0, 5)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	wantSpent(t, filepath.Join(there, "b"), 1, 5)
	if names, err := os.ReadDir(here); err != nil || len(names) > 0 {
		t.Errorf("%v, %v in the folder that took its name", names, err)
	}
}

// jobAdd adds as fast as it can and prints how much it has certainly added.
func jobAdd(args []string) error {
	file := args[0]
	rest, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	b, err := Open(Config{Limit: 1, File: file, Report: func(err error) { fmt.Println(err) }})
	if err != nil {
		return err
	}
	b.pause = rest
	for range 2 {
		go func() {
			for uid := uint32(1000); ; uid++ {
				b.Charge(uid%64, 0, 1) // uid 64 counts what is printed
			}
		}()
	}
	for n := int64(1); ; n++ {
		b.Charge(64, 0, 1)
		if _, err := fmt.Println(n); err != nil {
			return err // the parent has ended
		}
	}
}

// progress reads a child's output.
type progress struct {
	mu   sync.Mutex
	last int64
	odd  string
	end  chan struct{}
}

func listen(r io.Reader) *progress {
	s := &progress{end: make(chan struct{})}
	go func() {
		defer close(s.end)
		for in := bufio.NewScanner(r); in.Scan(); {
			var n int64
			_, err := fmt.Sscan(in.Text(), &n)
			s.mu.Lock()
			if s.last = n; err != nil {
				s.odd = in.Text()
			}
			s.mu.Unlock()
		}
	}()
	return s
}

func (s *progress) get() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// TestKilled: a process that is killed while it adds leaves a complete file with all but the last moments, and the next
// one continues from there.
func TestKilled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "b")
	base := int64(0)
	for _, pause := range []string{"0s", "0s", "0s", "0s", "0s", "0s", "500ms"} {
		base = killOne(t, file, pause, base)
	}
}

// killOne returns the file's sum of uid 64 after the end.
func killOne(t *testing.T, file, pause string, base int64) int64 {
	c := proctest.Command("add", file, pause)
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Process.Kill()
	s := listen(out)
	until(t, "the child has begun", func() bool { return s.get() > 0 })
	var seen int64
	for range 2 { // what it had added is in the file soon
		done, since := s.get(), time.Now()
		until(t, "its work is in the file", func() bool { seen = inFile(t, file); return seen >= base+done })
		if late := time.Since(since); late > time.Second {
			t.Logf("the file was %v late", late)
		}
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-s.end
	c.Wait() // it was killed
	after := inFile(t, file)
	if after < seen || after > base+s.last+1 || s.odd != "" {
		t.Fatalf("the file had %d, then %d; the child progress of %d; %s", seen, after, base+s.last, s.odd)
	}
	return after
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came true that %s", what)
		}
	}
}

// inFile reads the file, which must always be complete.
func inFile(t *testing.T, file string) int64 {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, spent, err := parse(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return spent[64]
}
