//go:build unix

package safefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// OpenPrivate opens the directory at path and locks it. It must belong to owner, a uid, or to the effective user if that
// is -1, and be closed to everybody else: it is checked once it is open, so that no other can be put in its place in
// between. Directories that are missing are made with mode 0700 and given to owner. The error is [ErrLocked] if another
// process has it.
func OpenPrivate(path string, owner int) (*Dir, *Lock, error) {
	if err := makePrivate(path, owner); err != nil {
		return nil, nil, err
	}
	d, err := OpenDir(path, Walk{})
	if err != nil {
		return nil, nil, err
	}
	f, err := d.open(".", os.O_RDONLY, 0)
	if err == nil {
		if err = checkPrivate(f, owner); err == nil {
			err = control(f, flock)
		}
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		if err == nil {
			return d, &Lock{dir: d, name: ".", file: f}, nil
		}
		f.Close()
	}
	d.Close()
	return nil, nil, err
}

// makePrivate makes what is missing of the path.
func makePrivate(path string, owner int) error {
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		return fmt.Errorf("%s is not a directory; name another", path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent, name := filepath.Split(filepath.Clean(path))
	if parent != "" {
		if err := makePrivate(filepath.Clean(parent), owner); err != nil {
			return err
		}
	}
	d, err := OpenDir(parent, Walk{})
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Mkdirat(d.fd, name, 0o700); err != nil {
		return d.fail("mkdir", name, err)
	}
	return d.give(name, owner)
}

// give gives a new directory to owner by its descriptor: by its name it could be another one by now.
func (d *Dir) give(name string, owner int) error {
	if owner < 0 {
		return nil
	}
	f, err := d.open(name, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := checkPrivate(f, -1); err != nil {
		return err
	}
	return f.Chown(owner, -1)
}

// checkPrivate refuses a directory that does not belong to owner alone.
func checkPrivate(dir *os.File, owner int) error {
	var st unix.Stat_t
	if err := control(dir, func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
		return err
	}
	if owner < 0 {
		owner = os.Geteuid()
	}
	return privateMode(int(st.Uid), owner, uint32(st.Mode)&0o777)
}

func privateMode(uid, owner int, mode uint32) error {
	switch {
	case uid != owner:
		return fmt.Errorf("it belongs to uid %d, not to uid %d, which is to write there; name one that does not exist yet, or chown it", uid, owner)
	case mode&0o077 != 0:
		return fmt.Errorf("it is open to others (mode %04o), who could read what is written there; chmod 700 it, or name another", mode)
	case mode&0o700 != 0o700:
		return fmt.Errorf("its owner cannot write there (mode %04o); chmod 700 it", mode)
	}
	return nil
}
