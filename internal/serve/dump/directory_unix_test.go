//go:build unix

package dump

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func refuse(t *testing.T, dir string, owner int, words ...string) {
	t.Helper()
	d, err := Open(dir, owner, func(error) {})
	if err == nil {
		d.Close()
		t.Fatalf("%s was taken", dir)
	}
	for _, w := range append(words, "dump directory") {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error %q does not have %q", err, w)
		}
	}
}

func TestDirectoryMode(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	for mode, ok := range map[fs.FileMode]bool{
		0o700: true, 0o701: false, 0o710: false, 0o740: false, 0o755: false, 0o777: false, 0o770: false, 0o500: false,
	} {
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chmod(dir, mode)); err != nil {
			t.Fatal(err)
		}
		if ok {
			mustOpen(t, config{dir: dir}).Close()
		} else if os.Geteuid() == 0 || mode&0o400 != 0 {
			refuse(t, dir, -1, "chmod 700")
		}
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != mode {
			t.Errorf("the mode of a directory that was there was changed: %v, %v", info.Mode(), err)
		}
	}
}

func TestDirectoryOwner(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	mustOpen(t, config{dir: dir}).Close()
	refuse(t, dir, os.Geteuid()+1, "belongs to uid")
}

// TestNewDirectoryIsGivenAway: new directories are given to the owner, with those above that were created.
func TestNewDirectoryIsGivenAway(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("this test needs root")
		}
		t.Skip("this test needs root")
	}
	top := t.TempDir()
	d, err := Open(filepath.Join(top, "a", "b", "..", "b", "c"), 12345, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	for path, want := range map[string]uint32{"": 0, "a": 12345, "a/b": 12345, "a/b/c": 12345} {
		info, err := os.Stat(filepath.Join(top, path))
		if err != nil {
			t.Fatal(err)
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; uid != want || path != "" && info.Mode().Perm() != 0o700 {
			t.Errorf("%s belongs to %d, mode %o", path, uid, info.Mode().Perm())
		}
	}
}

func TestDirectoryInUse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	d := mustOpen(t, config{dir: dir})
	refuse(t, dir, -1, "another process")
	d.Close()
	mustOpen(t, config{dir: dir}).Close()
}

func TestNoDirectory(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink("nowhere", filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	refuse(t, file, -1, "not a directory")
	refuse(t, filepath.Join(file, "x"), -1, "not a directory")
	refuse(t, filepath.Join(dir, "link"), -1, "no such file")
	refuse(t, filepath.Join(dir, "link", "x"), -1, "no such file")
	if _, err := os.Lstat(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("a directory was made where a link leads")
	}
	refuse(t, "", -1)
}

// TestRelativeDirectory: a relative path works.
func TestRelativeDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, dir := range []string{"d", "./e/f/", "d/../g"} {
		d, err := Open(dir, -1, func(error) {})
		if err != nil {
			t.Fatal(err)
		}
		whole(d, "a", "b")
		d.Close()
		if len(names(t, dir)) != 2 {
			t.Errorf("%s: %q", dir, names(t, dir))
		}
	}
}

// TestLinksAreNotFollowed: links with names of dumps are not followed.
func TestLinksAreNotFollowed(t *testing.T) {
	top := t.TempDir()
	dir, outside := filepath.Join(top, "d"), filepath.Join(top, "outside")
	for _, err := range []error{
		os.Mkdir(dir, 0o700), os.WriteFile(outside, make([]byte, 9000), 0o600),
		os.Symlink("../outside", filepath.Join(dir, "000001-5-request.json")),
		os.Symlink("../outside", filepath.Join(dir, ".000001-5-request.json.part")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	mustOpen(t, config{dir: dir, max: 1}).Close()
	wantNames(t, dir, ".000001-5-request.json.part", "000001-5-request.json")
	if info, err := os.Stat(outside); err != nil || info.Size() != 9000 {
		t.Error(info, err)
	}
}
