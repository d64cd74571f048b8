//go:build unix

package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// appending is how a file is opened. O_NONBLOCK keeps a FIFO that takes its
// place from holding us up. The jail allows these flags and no other.
const appending = unix.O_WRONLY | unix.O_APPEND | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK

// open opens what cfg names, and tells whether it ends in a part of a line.
func open(cfg Config) (f *os.File, torn bool, err error) {
	if cfg.Path == "-" {
		f, err = standardOutput()
		return f, false, err
	}
	if f, err = openPath(cfg); err != nil {
		return nil, false, err
	}
	info, err := f.Stat()
	if err == nil {
		err = judge(info, cfg)
	}
	if err != nil {
		f.Close()
		return nil, false, err
	}
	return f, info.Mode().IsRegular() && endsTorn(cfg.Path, info), nil
}

// standardOutput returns a descriptor of our own: Go ends a process that writes
// to 1 when nobody reads there. Whether it blocks is left as it is: others may
// share it.
func standardOutput() (*os.File, error) {
	fd, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("standard output: %w", err)
	}
	return os.NewFile(uintptr(fd), "standard output"), nil
}

// openPath opens a FIFO for reading too, which needs no reader then; and makes
// a file, which it gives away.
func openPath(cfg Config) (*os.File, error) {
	if info, err := os.Lstat(cfg.Path); err == nil && info.Mode()&fs.ModeNamedPipe != 0 {
		return openFile(cfg.Path, appending&^unix.O_WRONLY|unix.O_RDWR)
	}
	f, err := openFile(cfg.Path, appending|unix.O_CREAT|unix.O_EXCL)
	if errors.Is(err, unix.EEXIST) {
		return openFile(cfg.Path, appending)
	}
	if err != nil || cfg.Owner < 0 {
		return f, err
	}
	if err := f.Chown(cfg.Owner, -1); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func openFile(path string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Open(path, flags, 0o600)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), path), nil
		case err == unix.EINTR:
		case err == unix.EISDIR:
			return nil, fmt.Errorf("%s is a folder; name a file in it", path)
		case err == unix.ELOOP:
			return nil, fmt.Errorf("%s is a symbolic link; name the file itself", path)
		default:
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// judge trusts files of our own, of root and of the owner-to-be, that nobody
// else can write to. A FIFO or a device is whoever's it is.
func judge(info fs.FileInfo, cfg Config) error {
	if !info.Mode().IsRegular() {
		return nil
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s has no owner (bug)", cfg.Path)
	}
	if uid := int(st.Uid); uid != 0 && uid != os.Geteuid() && uid != cfg.Owner {
		return fmt.Errorf("%s belongs to another user (uid %d), who could change it; name another", cfg.Path, uid)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("%s can be written to by others (mode %04o); chmod go-w", cfg.Path, mode)
	}
	return nil
}

// endsTorn tells whether a file ends without a line feed. One that cannot be
// read is taken for whole.
func endsTorn(path string, info fs.FileInfo) bool {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var last [1]byte
	if same, err := f.Stat(); err != nil || !os.SameFile(same, info) || info.Size() == 0 {
		return false
	}
	_, err = f.ReadAt(last[:], info.Size()-1)
	return err == nil && last[0] != '\n'
}

// canReopen tells whether the log is a file. One of which the kernel will not
// say so is taken for one.
func canReopen(cfg Config, f *os.File) bool {
	if cfg.Path == "-" {
		return false
	}
	info, err := f.Stat()
	return err != nil || info.Mode().IsRegular()
}

// reopen opens the file from within the jail: with one system call, and with
// others only to look at it, as far as they are allowed.
func reopen(cfg Config) (*os.File, error) {
	f, err := openFile(cfg.Path, appending|unix.O_CREAT)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if errors.Is(err, unix.EPERM) {
		return f, nil
	}
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no longer a file", cfg.Path)
	}
	if err == nil {
		err = judge(info, cfg)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
