//go:build unix

package dump

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// makeDirectory makes what is missing of the path, and gives it to owner.
func makeDirectory(path string, owner int) error {
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		return fmt.Errorf("%s is not a directory; name another", path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent, name := filepath.Split(filepath.Clean(path))
	if parent == "" {
		parent = "."
	} else if err := makeDirectory(filepath.Clean(parent), owner); err != nil {
		return err
	}
	root, err := os.OpenRoot(parent)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Mkdir(name, 0o700); err != nil {
		return err
	}
	return giveTo(root, name, owner)
}

// giveTo gives a new directory away by its descriptor: by its name it could be
// another one by now.
func giveTo(parent *os.Root, name string, owner int) error {
	if owner < 0 {
		return nil
	}
	f, err := parent.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := checkOwnership(f, -1); err != nil {
		return err
	}
	return f.Chown(owner, -1)
}

// checkOwnership refuses a directory that others can look into or own.
func checkOwnership(dir *os.File, owner int) error {
	info, err := dir.Stat()
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("it has no owner (bug)")
	}
	if owner < 0 {
		owner = os.Geteuid()
	}
	return checkMode(int(st.Uid), owner, info.Mode().Perm())
}

func checkMode(uid, wanted int, mode fs.FileMode) error {
	switch {
	case uid != wanted:
		return fmt.Errorf("it belongs to uid %d, not to uid %d, which is to write there; name one that does not exist yet, or chown it", uid, wanted)
	case mode&0o077 != 0:
		return fmt.Errorf("it is open to others (mode %04o), who could read prompts and answers; chmod 700 it, or name another", mode)
	case mode&0o700 != 0o700:
		return fmt.Errorf("its owner cannot write there (mode %04o); chmod 700 it", mode)
	}
	return nil
}

// lock keeps a second process out, whose unfinished files we would remove. It
// ends with the descriptor.
func lock(dir *os.File) error {
	for {
		switch err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err {
		case unix.EINTR:
		case unix.EWOULDBLOCK:
			return errLocked
		default:
			return err
		}
	}
}
