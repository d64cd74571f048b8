//go:build !unix

package safefile

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Dir is a directory, identified by its name. On Windows directories of other users are protected by their access
// lists, which os.FileInfo does not show, so that there is no owner or mode to check.
type Dir struct{ path string }

// parent returns the directory of path's last element.
func (p policy) parent(path string, _ int, _ bool) (*Dir, string, error) {
	dir, name := filepath.Split(filepath.Clean(path))
	if p.makeDirs != 0 {
		if err := os.MkdirAll(filepath.Clean(dir), fs.FileMode(p.makeDirs)); err != nil {
			return nil, "", err
		}
	}
	return &Dir{dir}, name, nil
}

// Close does nothing.
func (d *Dir) Close() error { return nil }

// Remove removes a file.
func (d *Dir) Remove(name string) error { return os.Remove(d.path + name) }

// Rename renames a file, and replaces a file named to.
func (d *Dir) Rename(from, to string) error { return os.Rename(d.path+from, d.path+to) }

// open opens name, and returns an error if it exists and is not a regular file.
func (d *Dir) open(name string, flags int, mode uint32, p policy) (*os.File, error) {
	path, stat := d.path+name, os.Lstat
	if p.follow {
		stat = os.Stat
	}
	if info, err := stat(path); err == nil && !info.Mode().IsRegular() && name != "." {
		return nil, fmt.Errorf("%s is not a regular file; name another", path)
	}
	return os.OpenFile(path, flags, fs.FileMode(mode))
}

// OpenPrivate opens the directory at path, which it creates if it is missing. Access is left to the directory's access
// list, and it is not locked.
func OpenPrivate(path string, _ int) (*Dir, error) {
	return &Dir{filepath.Clean(path) + string(filepath.Separator)}, os.MkdirAll(path, 0o700)
}

// openAgain returns nil: OpenInPlace opens the file for reading itself, and a log's end is not looked at.
func (d *Dir) openAgain(string, *os.File) (*os.File, fs.FileInfo) { return nil, nil }

// OpenInPlace opens the file at path for writing, and truncates it. It creates missing directories. read is the same
// file open for reading; nil if it is not readable.
func OpenInPlace(path string) (file, read *os.File, err error) {
	if _, _, err := inPlace.parent(path, -1, true); err != nil {
		return nil, nil, err
	}
	if file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666); err == nil {
		read, _ = os.Open(path)
	}
	return file, read, err
}

// open opens the file or creates it; there is no owner that it could be given to.
func (a *Appender) open() (*os.File, error) { return a.Reopen() }

// Reopen opens the file by its name again, or creates it.
func (a *Appender) Reopen() (*os.File, error) {
	if info, err := os.Stat(a.dir.path + a.name); err == nil && info.IsDir() {
		return nil, fmt.Errorf("%s is a directory; name a file in it", a.dir.path+a.name)
	}
	return os.OpenFile(a.dir.path+a.name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
}

// Lock creates the file but does not lock it: the operator must start one process for each file.
func (d *Dir) Lock(name string) (*os.File, error) {
	return d.open(name, os.O_RDWR|os.O_CREATE, 0o600, private)
}

// reopen and sync do nothing: directories cannot be synced on this system.
func (d *Dir) reopen() error { return nil }

func (d *Dir) sync() error { return nil }
