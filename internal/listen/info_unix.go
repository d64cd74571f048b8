//go:build unix

package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// openInfo opens path for writing, and follows links one by one, so that each
// is judged by the inode that is then used.
func openInfo(path string) (*os.File, error) {
	for range maxLinks {
		f, err := openNoFollow(path)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.ELOOP) && !errors.Is(err, unix.EMLINK) {
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		if path, err = followLink(path); err != nil {
			return nil, err
		}
	}
	return nil, &fs.PathError{Op: "open", Path: path, Err: unix.ELOOP}
}

// openNoFollow truncates only after the file was found to be ours to write.
// Non-blocking, so that a FIFO without a reader is an error and not a wait.
func openNoFollow(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0o666)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	if err := prepareInfo(f, path); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func prepareInfo(f *os.File, path string) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := checkOwner(path, st, "file"); err != nil {
		return err
	}
	if st.Mode().IsRegular() {
		return f.Truncate(0)
	}
	return nil
}

// followLink returns where the link at path leads to.
func followLink(path string) (string, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	if err := checkOwner(path, st, "link"); err != nil {
		return "", err
	}
	target, err := os.Readlink(path)
	if err != nil {
		return "", err
	}
	after, err := os.Lstat(path)
	if err != nil || !os.SameFile(st, after) {
		return "", fmt.Errorf("%s changed while it was being opened", path)
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(path), target)
	}
	return target, nil
}

// checkOwner refuses what another user has put into a folder where everybody
// may: the rule of protected_symlinks and protected_regular (proc_sys_fs(5)),
// which is not switched on everywhere. root and the folder's owner are trusted.
func checkOwner(path string, st fs.FileInfo, what string) error {
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	if dir.Mode()&os.ModeSticky == 0 || dir.Mode()&0o022 == 0 {
		return nil
	}
	owner := st.Sys().(*syscall.Stat_t).Uid
	if owner == uint32(os.Geteuid()) || owner == 0 || owner == dir.Sys().(*syscall.Stat_t).Uid {
		return nil
	}
	return fmt.Errorf("the %s %s belongs to another user (uid %d) and lies in a folder that everybody may write to; use a folder of your own", what, path, owner)
}
