//go:build unix

package safefile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Dir is an open directory. Names are looked up in it and never lead out of it.
type Dir struct {
	fd   int
	path string // as it was reached, for messages
}

// FD returns the directory's descriptor, which Close closes. It can be used to look names up, and may be good for
// nothing else (O_PATH).
func (d *Dir) FD() int { return d.fd }

// Close closes the directory.
func (d *Dir) Close() error { return unix.Close(d.fd) }

// Remove removes a file.
func (d *Dir) Remove(name string) error {
	return d.fail("remove", name, unix.Unlinkat(d.fd, name, 0))
}

func (d *Dir) rename(from, to string) error {
	return d.fail("rename", from, unix.Renameat(d.fd, from, d.fd, to))
}

func (d *Dir) fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: filepath.Join(d.path, name), Err: err}
}

// open opens name, which must be no link. It never waits for the other end of a FIFO. The sandbox allows these flags.
func (d *Dir) open(name string, flags int, mode uint32) (*os.File, error) {
	for {
		fd, err := unix.Openat(d.fd, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, mode)
		switch err {
		case nil:
			return os.NewFile(uintptr(fd), filepath.Join(d.path, name)), nil
		case unix.EINTR:
		default:
			return nil, d.fail("open", name, err)
		}
	}
}

// openAgain opens a regular file that is open as f for reading. It returns nil if it cannot, or if name is another file
// by now.
func (d *Dir) openAgain(name string, f *os.File) (read *os.File, info fs.FileInfo) {
	a, err := f.Stat()
	if err != nil || !a.Mode().IsRegular() {
		return nil, nil
	}
	if read, err = d.open(name, os.O_RDONLY, 0); err != nil {
		return nil, nil
	}
	if info, err = read.Stat(); err != nil || !os.SameFile(a, info) {
		read.Close()
		return nil, nil
	}
	return read, info
}

// check refuses an open file that p does not trust.
func (d *Dir) check(f *os.File, name string, p Policy, owners []uint32) error {
	var dir, file unix.Stat_t
	if err := unix.Fstat(d.fd, &dir); err != nil {
		return d.fail("fstat", ".", err)
	}
	if err := control(f, func(fd int) error { return unix.Fstat(fd, &file) }); err != nil {
		return d.fail("fstat", name, err)
	}
	return p.check(filepath.Join(d.path, name), &dir, &file, owners)
}

// control calls use with f's descriptor, and leaves f as it is: os.File.Fd would make it block.
func control(f *os.File, use func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := raw.Control(func(fd uintptr) { result = use(int(fd)) }); err != nil {
		return err
	}
	return result
}

// check is the table in the package's comment.
func (p Policy) check(path string, dir, file *unix.Stat_t, owners []uint32) error {
	regular := file.Mode&unix.S_IFMT == unix.S_IFREG
	trusted := trusted(file.Uid) || slices.Contains(owners, file.Uid)
	switch mode := fs.FileMode(file.Mode & 0o777); {
	case shared(dir) && !trusted && file.Uid != dir.Uid:
		return planted("file", path, file.Uid)
	case shared(dir) && regular && file.Nlink > 1:
		return &nameError{path + " has another hard link, and lies in a directory that others may write to: " +
			"it may be any file; remove it, or use a directory of your own", unix.EMLINK}
	case p.regular && !regular:
		return notRegular(path)
	case !regular:
		return nil
	case !p.anyOwner && !trusted:
		return &nameError{fmt.Sprintf("%s belongs to another user (uid %d), who could change it; name another", path, file.Uid), unix.EPERM}
	case mode&p.forbid != 0 && p.forbid == 0o022:
		return &nameError{fmt.Sprintf("%s can be written to by others (mode %04o); chmod go-w", path, mode), unix.EPERM}
	case mode&p.forbid != 0:
		return &nameError{fmt.Sprintf("%s can be used by others (mode %04o); check its content, then chmod 600", path, mode), unix.EPERM}
	}
	return nil
}

func notRegular(path string) error {
	return &nameError{path + " is not a regular file; remove it, or name another", unix.EINVAL}
}

// shared reports whether others than root and we may put files into a directory.
func shared(dir *unix.Stat_t) bool { return dir.Mode&0o022 != 0 || !trusted(dir.Uid) }

func trusted(uid uint32) bool { return uid == 0 || uid == uint32(os.Geteuid()) }

func planted(what, path string, uid uint32) error {
	return &nameError{fmt.Sprintf("the %s %s belongs to another user (uid %d) and lies in a directory that others may write to; "+
		"use a directory of your own", what, path, uid), unix.EPERM}
}

// OpenInPlace opens the file at path for writing, under the policy InPlace, and empties it. Missing directories are
// made, and a missing file is made with mode 0666 less the umask. The file's directory need not be writable if the file
// is there. read is the same file for reading; nil if it cannot be read, or is not a regular file.
func OpenInPlace(path string) (file, read *os.File, err error) {
	d, name, err := Parent(path, Walk{Make: true, Follow: true})
	if err != nil {
		return nil, nil, err
	}
	defer d.Close()
	if file, err = d.open(name, os.O_WRONLY|os.O_CREATE|unix.O_NOCTTY, 0o666); err != nil {
		return nil, nil, err
	}
	if err = d.check(file, name, InPlace, nil); err == nil {
		err = empty(file)
	}
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	read, _ = d.openAgain(name, file)
	return file, read, nil
}

// empty truncates only what was found to be ours to write.
func empty(file *os.File) error {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	return file.Truncate(0)
}

// appending is how a log is opened.
const appending = os.O_WRONLY | os.O_APPEND

// open opens the file, or makes it.
func (a *Appender) open() (*os.File, error) {
	var st unix.Stat_t
	if unix.Fstatat(a.dir.fd, a.name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO {
		return a.checked(a.dir.open(a.name, os.O_RDWR|os.O_APPEND, 0)) // needs no reader
	}
	f, err := a.dir.open(a.name, appending|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, unix.EEXIST) {
		return a.checked(a.dir.open(a.name, appending|unix.O_NOCTTY, 0))
	}
	if err == nil && a.owner >= 0 {
		err = f.Chown(a.owner, -1)
	}
	return a.checked(f, err)
}

// checked refuses a file that is not trusted, or that could not be opened.
func (a *Appender) checked(f *os.File, err error) (*os.File, error) {
	if err == nil {
		err = a.dir.check(f, a.name, Log, a.owners)
	}
	if err == nil {
		return f, nil
	}
	if f != nil {
		f.Close()
	}
	switch path := filepath.Join(a.dir.path, a.name); {
	case errors.Is(err, unix.EISDIR):
		err = &nameError{path + " is a directory; name a file in it", unix.EISDIR}
	case errors.Is(err, unix.ELOOP):
		err = &nameError{path + " is a symbolic link; name the file itself", unix.ELOOP}
	}
	return nil, err
}

// Reopen opens the file by its name again, which must be a regular file, or makes it. It is one call of openat(2) for
// writing at the end, so that the sandbox can allow that and nothing else.
func (a *Appender) Reopen() (*os.File, error) {
	f, err := a.checked(a.dir.open(a.name, appending|os.O_CREATE, 0o600))
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(fmt.Errorf("%s is no longer a file", f.Name()), err)
	}
	return f, nil
}

// Lock locks the file name, which is made if it is missing and must be trusted, as under Private. It does not wait: it
// returns ErrLocked if another has the lock. The lock ends with Lock.Close or the process. A lock on a file that
// its last holder has removed is none, for others lock the next file: that is ErrLocked, too.
func (d *Dir) Lock(name string, owners ...uint32) (*Lock, error) {
	f, err := d.open(name, os.O_RDWR|os.O_CREATE, 0o600)
	switch {
	case errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EISDIR):
		return nil, notRegular(filepath.Join(d.path, name))
	case err != nil:
		return nil, err
	}
	if err = d.check(f, name, Private, owners); err == nil {
		err = control(f, func(fd int) error { return d.lock(name, fd) })
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Lock{dir: d, name: name, file: f}, nil
}

func (d *Dir) lock(name string, fd int) error {
	switch err := flock(fd); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return ErrLocked
	case err != nil:
		return err
	}
	var held, there unix.Stat_t
	if unix.Fstat(fd, &held) != nil || unix.Fstatat(d.fd, name, &there, unix.AT_SYMLINK_NOFOLLOW) != nil || !Same(&held, &there) {
		return ErrLocked
	}
	return nil
}

// Same reports whether two files are one.
func Same(a, b *unix.Stat_t) bool { return a.Dev == b.Dev && a.Ino == b.Ino }

// flock does not wait. A signal may interrupt it all the same.
func flock(fd int) error {
	for {
		if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != unix.EINTR {
			return err
		}
	}
}

// Read returns the file's content. The error is fs.ErrNotExist if there is no file.
func (s *Store) Read() ([]byte, error) {
	f, err := s.dir.open(s.name, os.O_RDONLY, 0)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, notRegular(filepath.Join(s.dir.path, s.name))
	case err != nil:
		return nil, err
	}
	defer f.Close()
	if err := s.dir.check(f, s.name, Private, s.owners); err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}

// syncDir makes a new name survive a crash of the system, where the file system can do that.
func syncDir(dir *os.File) error {
	if err := dir.Sync(); !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}
