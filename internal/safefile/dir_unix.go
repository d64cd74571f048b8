//go:build unix

package safefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Dir is an open directory. Names are looked up in it and never lead out of it.
type Dir struct {
	fd     int
	path   string   // as it was reached, for messages
	owners []uint32 // see Walk
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

// Rename gives the file from the name to, in place of a file that has it.
func (d *Dir) Rename(from, to string) error {
	return d.fail("rename", from, unix.Renameat(d.fd, from, d.fd, to))
}

func (d *Dir) fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: filepath.Join(d.path, name), Err: err}
}

// open opens name, which must be no link, and which trusts trusts. It never waits for the other end of a FIFO. The
// sandbox allows these flags.
func (d *Dir) open(name string, flags int, mode uint32, trusts Policy) (*os.File, error) {
	path := filepath.Join(d.path, name)
	fd, err := unix.Openat(d.fd, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, mode)
	for err == unix.EINTR {
		fd, err = unix.Openat(d.fd, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, mode)
	}
	switch {
	case err == nil:
	case err == unix.EISDIR && !trusts.anyOwner:
		return nil, refuse(err, "%s is not a regular file: it is a directory; name a file in it", path)
	case err == unix.ELOOP && !trusts.anyOwner:
		return nil, refuse(err, "%s is not a regular file: it is a symbolic link; name the file itself", path)
	default:
		return nil, d.fail("open", name, err)
	}
	var dir, file unix.Stat_t
	if err = errors.Join(unix.Fstat(d.fd, &dir), unix.Fstat(fd, &file)); err == nil {
		err = trusts.check(path, &dir, &file, d.owners)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openAgain opens a regular file that is open as f for reading. It returns nil if it cannot, or if name is another file
// by now.
func (d *Dir) openAgain(name string, f *os.File) (read *os.File, info fs.FileInfo) {
	a, err := f.Stat()
	if err != nil || !a.Mode().IsRegular() {
		return nil, nil
	}
	if read, err = d.open(name, os.O_RDONLY, 0, InPlace); err != nil {
		return nil, nil
	}
	if info, err = read.Stat(); err != nil || !os.SameFile(a, info) {
		read.Close()
		return nil, nil
	}
	return read, info
}

// check is the table in the package's comment.
func (p Policy) check(path string, dir, file *unix.Stat_t, owners []uint32) error {
	regular := file.Mode&unix.S_IFMT == unix.S_IFREG
	trusted := trusted(file.Uid) || slices.Contains(owners, file.Uid)
	switch mode := fs.FileMode(file.Mode & 0o777); {
	case shared(dir) && !trusted && file.Uid != dir.Uid:
		return planted("file", path, file.Uid)
	case shared(dir) && regular && file.Nlink > 1:
		return refuse(unix.EMLINK, "%s has another hard link, and lies in a directory that others may write to: "+
			"it may be any file; remove it, or use a directory of your own", path)
	case p.regular && !regular:
		return refuse(unix.EINVAL, "%s is not a regular file; remove it, or name another", path)
	case !regular:
		return nil
	case !p.anyOwner && !trusted:
		return refuse(unix.EPERM, "%s belongs to another user (uid %d), who could change it; name another", path, file.Uid)
	case mode&p.forbid != 0 && p.forbid == 0o022:
		return refuse(unix.EPERM, "%s can be written to by others (mode %04o); chmod go-w", path, mode)
	case mode&p.forbid != 0:
		return refuse(unix.EPERM, "%s can be used by others (mode %04o); check its content, then chmod 600", path, mode)
	}
	return nil
}

func planted(what, path string, uid uint32) error {
	return refuse(unix.EPERM, "the %s %s belongs to another user (uid %d) and lies in a directory that others may write to; "+
		"use a directory of your own", what, path, uid)
}

// shared reports whether others than root and we may put files into a directory.
func shared(dir *unix.Stat_t) bool { return dir.Mode&0o022 != 0 || !trusted(dir.Uid) }

func trusted(uid uint32) bool { return uid == 0 || uid == uint32(os.Geteuid()) }

// OpenInPlace opens the file at path for writing, under the policy InPlace, and empties it. Missing directories are
// made, and a missing file is made with mode 0666 less the umask. The file's directory need not be writable if the file
// is there. read is the same file for reading; nil if it cannot be read, or is not a regular file.
func OpenInPlace(path string) (file, read *os.File, err error) {
	d, name, err := Parent(path, Walk{Make: 0o755, Owner: -1, Follow: true})
	if err != nil {
		return nil, nil, err
	}
	defer d.Close()
	if file, err = d.open(name, os.O_WRONLY|os.O_CREATE|unix.O_NOCTTY, 0o666, InPlace); err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err == nil && info.Mode().IsRegular() {
		err = file.Truncate(0)
	}
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	read, _ = d.openAgain(name, file)
	return file, read, nil
}

// appending is how a log is opened.
const appending = os.O_WRONLY | os.O_APPEND

// open opens the file, or makes it.
func (a *Appender) open() (*os.File, error) {
	var st unix.Stat_t
	if unix.Fstatat(a.dir.fd, a.name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO {
		return a.dir.open(a.name, os.O_RDWR|os.O_APPEND, 0, Log) // needs no reader
	}
	f, err := a.dir.open(a.name, appending|os.O_CREATE|os.O_EXCL, 0o600, Log)
	if errors.Is(err, unix.EEXIST) {
		return a.dir.open(a.name, appending|unix.O_NOCTTY, 0, Log)
	}
	if err == nil && a.owner >= 0 {
		if err = f.Chown(a.owner, -1); err != nil {
			f.Close()
		}
	}
	return f, err
}

// Reopen opens the file by its name again, which must be a regular file, or makes it. It is one call of openat(2) for
// writing at the end, so that the sandbox can allow that and nothing else.
func (a *Appender) Reopen() (*os.File, error) {
	return a.dir.open(a.name, appending|os.O_CREATE, 0o600, Policy{forbid: Log.forbid, regular: true})
}

// Lock locks the file name, which is made if it is missing and must be trusted, as under Private. It does not wait: it
// returns ErrLocked if another has the lock. Closing the file, or the end of the process, gives the lock back; a file
// that is to go must be removed before. A lock on a file that its last holder has removed is none, for others lock the
// next file: that is ErrLocked, too.
func (d *Dir) Lock(name string) (*os.File, error) {
	f, err := d.open(name, os.O_RDWR|os.O_CREATE, 0o600, Private)
	if err != nil {
		return nil, err
	}
	return d.lock(name, f)
}

// lock returns f, which is name, once it is locked, and closes it otherwise.
func (d *Dir) lock(name string, f *os.File) (*os.File, error) {
	var held, there unix.Stat_t
	raw, err := f.SyscallConn() // Fd would make it block
	if err == nil {
		closed := raw.Control(func(fd uintptr) {
			err = errors.Join(unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB), unix.Fstat(int(fd), &held))
		})
		err = errors.Join(err, closed)
	}
	gone := unix.Fstatat(d.fd, name, &there, unix.AT_SYMLINK_NOFOLLOW) != nil || !Same(&held, &there)
	if errors.Is(err, unix.EWOULDBLOCK) || err == nil && gone {
		err = ErrLocked
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Same reports whether two files are one.
func Same(a, b *unix.Stat_t) bool { return a.Dev == b.Dev && a.Ino == b.Ino }

// syncDir makes a new name survive a crash of the system, where the file system can do that.
func syncDir(dir *os.File) error {
	if err := dir.Sync(); !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// OpenPrivate opens the directory at path and locks it. It must belong to owner, a uid, or to the effective user if
// that is -1, and be closed to everybody else: it is checked once it is open, so that no other can be put in its place
// in between. Directories that are missing are made with mode 0700 and given to owner. The error is [ErrLocked] if
// another process has it.
func OpenPrivate(path string, owner int) (d *Dir, lock *os.File, err error) {
	if d, err = OpenDir(path, Walk{Make: 0o700, Owner: owner}); err != nil {
		return nil, nil, err
	}
	if err = d.checkPrivate(owner); err == nil {
		lock, err = d.open(".", os.O_RDONLY, 0, InPlace)
	}
	if err == nil {
		lock, err = d.lock(".", lock)
	}
	if err != nil {
		d.Close()
		return nil, nil, err
	}
	return d, lock, nil
}

// chown gives a new directory, which must still be ours alone, to owner. It does so by its descriptor: by its name it
// could be another one by now.
func (d *Dir) chown(owner int) error {
	if err := d.checkPrivate(-1); err != nil {
		return err
	}
	f, err := d.open(".", os.O_RDONLY, 0, InPlace)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Chown(owner, -1)
}

// checkPrivate refuses a directory that does not belong to owner alone.
func (d *Dir) checkPrivate(owner int) error {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return d.fail("fstat", ".", err)
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
	case mode != 0o700:
		return fmt.Errorf("it is not its owner's alone to read and write (mode %04o); chmod 700 it, or name another", mode)
	}
	return nil
}
