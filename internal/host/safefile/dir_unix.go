//go:build unix

package safefile

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Dir is an open directory. Names are looked up in it with openat(2) and never lead out of it: they have no slash, and
// links are not followed. Renaming or replacing it, or a directory above it, changes nothing for the holder of the
// descriptor (openat(2), "Rationale for openat() and other directory file descriptor APIs").
type Dir struct {
	fd    int
	path  string // the path by which it was reached, for messages
	owner int    // its files are trusted besides those of root and the effective user; -1 is none
}

// FD returns the directory's descriptor, which Close closes. It may be O_PATH, and then serves only as the directory of
// an *at system call: such a descriptor needs no permission to read the directory, as the kernel needs none to pass it.
func (d *Dir) FD() int { return d.fd }

// Close closes the directory, and releases its lock.
func (d *Dir) Close() error { return unix.Close(d.fd) }

// Remove removes a file, never a directory. A link's target stays (unlink(2)).
func (d *Dir) Remove(name string) error {
	return d.fail("remove", name, unix.Unlinkat(d.fd, name, 0))
}

// Rename renames a file, and replaces a file named to. There is no time at which that name does not exist (rename(2)).
func (d *Dir) Rename(from, to string) error {
	return d.fail("rename", from, unix.Renameat(d.fd, from, d.fd, to))
}

// fail adds the operation and the path to an error of the kernel, as package os does.
func (d *Dir) fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: filepath.Join(d.path, name), Err: err}
}

// open opens name, which must not be a link unless p follows one, and applies the policy p to the open file.
// O_NONBLOCK keeps it from waiting for the other end of a FIFO (fifo(7)), where a user could stop the start by planting
// one, and makes NewFile register the file with the poller, so that writes can have a deadline. It has no effect on
// regular files. O_CLOEXEC keeps the file from other programs. The sandbox's filter allows exactly these flags. The
// caller owns the file.
func (d *Dir) open(name string, flags int, mode uint32, p policy) (*os.File, error) {
	path := filepath.Join(d.path, name)
	flags |= unix.O_CLOEXEC | unix.O_NONBLOCK
	if !p.follow {
		flags |= unix.O_NOFOLLOW
	} else if err := d.checkLink(name); err != nil {
		return nil, err
	}
	// Opening can be interrupted by a signal on slow file systems (open(2), EINTR), in spite of SA_RESTART.
	fd, err := unix.Openat(d.fd, name, flags, mode)
	for err == unix.EINTR {
		fd, err = unix.Openat(d.fd, name, flags, mode)
	}
	switch {
	case err == nil:
	case err == unix.EISDIR && !p.anyOwner:
		return nil, fmt.Errorf("%s is not a regular file: it is a directory; name a file in it", path)
	case err == unix.ELOOP && !p.anyOwner:
		return nil, fmt.Errorf("%s is not a regular file: it is a symbolic link; name the file itself", path)
	default:
		return nil, d.fail("open", name, err)
	}
	// fstat(2) describes the opened file; the name may refer to another one by now. The directory's owner and mode are
	// read at the same time, since they decide which files in it are suspect.
	var dir, file unix.Stat_t
	if err = errors.Join(unix.Fstat(d.fd, &dir), unix.Fstat(fd, &file)); err == nil {
		err = p.check(path, &dir, &file, d.owner)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// checkLink refuses another user's link in the place of a file. A link that replaces it before the file is opened makes
// no difference: what it leads to must belong to a trusted user.
func (d *Dir) checkLink(name string) error {
	var st unix.Stat_t
	err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK && !trusted(st.Uid, d.owner) {
		return planted("link", filepath.Join(d.path, name), st.Uid)
	}
	return nil // opening it shows what else is wrong
}

// openAgain opens for reading the regular file that is open as f: one descriptor for both would need the permission to
// read even where only writing is necessary. It returns nil if that is not permitted, or if name is another file by
// now.
func (d *Dir) openAgain(name string, f *os.File) (read *os.File, info fs.FileInfo) {
	a, err := f.Stat()
	if err != nil || !a.Mode().IsRegular() {
		return nil, nil
	}
	if read, err = d.open(name, os.O_RDONLY, 0, inPlace); err != nil {
		return nil, nil
	}
	if info, err = read.Stat(); err != nil || !os.SameFile(a, info) {
		read.Close()
		return nil, nil
	}
	return read, info
}

// check applies the package comment's table to an open file, so that the file cannot be replaced between check and use.
// In a shared directory another user may have created the file before us, to read a log, to forge lines in it, or to
// have it erased; or may have linked a file of root's there, which we would truncate (link(2) needs no permission for
// the file itself, unless fs.protected_hardlinks is 1). fs.protected_regular (Linux 4.19) refuses another user's file
// too, but only with O_CREAT in sticky directories.
func (p policy) check(path string, dir, file *unix.Stat_t, owner int) error {
	regular := file.Mode&unix.S_IFMT == unix.S_IFREG
	trusted := trusted(file.Uid, owner)
	switch mode := fs.FileMode(file.Mode & 0o777); {
	case shared(dir) && !trusted && file.Uid != dir.Uid:
		return planted("file", path, file.Uid)
	case shared(dir) && regular && file.Nlink > 1:
		return fmt.Errorf("%s has another hard link, and lies in a directory that other users may write to: "+
			"it may be a link to any file; remove it, or use a directory of your own", path)
	case p.regular && !regular:
		return fmt.Errorf("%s is not a regular file; name another file", path)
	case !regular:
		return nil
	case !p.anyOwner && !trusted:
		return fmt.Errorf("%s belongs to another user (uid %d), who could change it; name another file", path, file.Uid)
	case mode&p.forbid != 0 && p.forbid == 0o022:
		return fmt.Errorf("%s is writable by other users (mode %04o); run chmod go-w", path, mode)
	case mode&p.forbid != 0:
		return fmt.Errorf("%s is accessible to other users (mode %04o); check its content, then run chmod 600", path, mode)
	}
	return nil
}

// planted returns the error for a file or link by which another user could direct what we write, or see it.
func planted(what, path string, uid uint32) error {
	return fmt.Errorf("the %s %s belongs to another user (uid %d) and lies in a directory that other users may write to; "+
		"use a directory of your own", what, path, uid)
}

// shared reports whether users other than root and the effective user can create files in a directory. The sticky bit
// does not matter: it only restricts who may remove and rename what is there (inode(7)).
func shared(dir *unix.Stat_t) bool { return dir.Mode&0o022 != 0 || !trusted(dir.Uid, -1) }

// trusted reports whether uid is root, who can change every file in any case, the effective user, or owner.
func trusted(uid uint32, owner int) bool {
	return uid == 0 || uid == uint32(os.Geteuid()) || int64(uid) == int64(owner)
}

// OpenInPlace opens the file at path for writing, under the policy inPlace, and truncates it. It creates missing
// directories, and a missing file with mode 0666 less the umask. The file's directory need not be writable if the file
// exists. read is the same file open for reading; nil if it is not readable or not a regular file. The caller owns
// both. The file is not truncated by O_TRUNC, which would come before the check. O_NOCTTY keeps a terminal from
// becoming the controlling one of this process, which could then get its signals (open(2)).
func OpenInPlace(path string) (file, read *os.File, err error) {
	// Links are followed, as the kernel would; each is checked as the package comment describes.
	d, name, err := inPlace.parent(path, -1, true)
	if err != nil {
		return nil, nil, err
	}
	defer d.Close()
	if file, err = d.open(name, os.O_WRONLY|os.O_CREATE|unix.O_NOCTTY, 0o666, inPlace); err != nil {
		return nil, nil, err
	}
	// A pipe or a terminal has no content to be removed, and ftruncate(2) fails on it (EINVAL).
	if err = file.Truncate(0); err != nil && !errors.Is(err, unix.EINVAL) {
		file.Close()
		return nil, nil, err
	}
	read, _ = d.openAgain(name, file)
	return file, read, nil
}

// appending are the flags of a log. For logs the sandbox's filter allows opening for writing with O_APPEND only, so
// that a process that is taken over cannot overwrite what it has logged.
const appending = os.O_WRONLY | os.O_APPEND

// open opens the file or creates it. With O_APPEND the kernel sets the offset at each write(2), so that several
// processes do not overwrite each other's lines.
func (a *Appender) open() (*os.File, error) {
	// If the name becomes another file after this, the policy still applies to what is opened.
	var st unix.Stat_t
	if unix.Fstatat(a.dir.fd, a.name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO {
		// O_RDWR opens a FIFO without a reader (fifo(7)). As this process is a reader then too, a write does not fail
		// with EPIPE when the last other one leaves, and a new one can be started.
		return a.dir.open(a.name, os.O_RDWR|os.O_APPEND, 0, logged)
	}
	return a.dir.openOrCreate(a.name, appending, logged)
}

// openOrCreate opens the file name, or creates it with mode 0600 and gives it to the directory's owner. O_EXCL shows
// whether it is new: another user's file must not be given away. O_CREAT alone would be refused in a sticky directory
// for a file of that owner (protected_regular in proc_sys_fs(5)).
func (d *Dir) openOrCreate(name string, flags int, p policy) (*os.File, error) {
	f, err := d.open(name, flags|os.O_CREATE|os.O_EXCL, 0o600, p)
	if errors.Is(err, unix.EEXIST) {
		return d.open(name, flags|unix.O_NOCTTY, 0, p)
	}
	if err == nil && d.owner >= 0 {
		if err = f.Chown(d.owner, -1); err != nil {
			f.Close()
		}
	}
	return f, err
}

// Reopen opens the regular file by its name again, or creates it. It makes a single openat(2) call that can only
// append, so that the sandbox need allow nothing else. It needs no O_EXCL, since a new file belongs to this process's
// user, who is the owner by then. A FIFO is not opened again.
func (a *Appender) Reopen() (*os.File, error) {
	return a.dir.open(a.name, appending|os.O_CREATE, 0o600, policy{forbid: logged.forbid, regular: true})
}

// Lock locks the file name, which it creates if it is missing, under the policy private. It does not block: it returns
// ErrLocked if another process holds the lock. Closing the file, or the end of the process, releases the lock; a file
// that is to be removed must be removed before that. A lock on a file that its last holder has removed excludes nobody,
// since others lock a new file; Lock returns ErrLocked in that case too.
func (d *Dir) Lock(name string) (*os.File, error) {
	f, err := d.openOrCreate(name, os.O_RDWR, private)
	if errors.Is(err, unix.ENOENT) { // removed between the two attempts to open it
		return nil, ErrLocked
	}
	if err != nil {
		return nil, err
	}
	var held, there unix.Stat_t
	fd := int(f.Fd()) // makes it blocking, which has no effect on a regular file
	err = cmp.Or(flock(fd), unix.Fstat(fd, &held))
	// The last holder may have removed the file between open and lock.
	if err == nil && (unix.Fstatat(d.fd, name, &there, unix.AT_SYMLINK_NOFOLLOW) != nil || !Same(&held, &there)) {
		err = ErrLocked
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// flock locks a descriptor. A lock of flock(2) belongs to the open file description, so that another descriptor of this
// process cannot take it either. One of fcntl(2) would belong to the process, and end when it closes any descriptor of
// the file. The kernel ends both with the process, however that ends; the existence of a file would outlast it.
func flock(fd int) error {
	err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		return ErrLocked
	}
	return err
}

// Same reports whether a and b describe the same file. Inode numbers are reused: both statuses must be from a time at
// which one of the files was open or had its name.
func Same(a, b *unix.Stat_t) bool { return a.Dev == b.Dev && a.Ino == b.Ino }

// reopen replaces the descriptor by one for reading, which fchown(2), flock(2) and fsync(2) need: they refuse O_PATH
// (open(2)).
func (d *Dir) reopen() error {
	fd, err := unix.Openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(d.fd)
		d.fd = fd
	}
	return d.fail("open", ".", err)
}

// sync makes a new name durable, unless the file system does not support it (EINVAL): to sync the file does not sync
// the entry of its directory (fsync(2)).
func (d *Dir) sync() error {
	if err := unix.Fsync(d.fd); err != unix.EINVAL {
		return d.fail("sync", ".", err)
	}
	return nil
}

// OpenPrivate opens the directory at path and locks it until Close, so that no second proxy deletes or counts the files
// of the first. It must belong to owner, a uid, or to the effective user if owner is -1, and be accessible to no other
// user, who therefore cannot lock it. It is checked after it was opened, so that it cannot be replaced in between.
// Missing directories are created with mode 0700 and given to owner. The error is [ErrLocked] if another process holds
// the lock.
func OpenPrivate(path string, owner int) (*Dir, error) {
	d, err := dumps.open(path, owner)
	if err != nil {
		return nil, err
	}
	if err = cmp.Or(d.checkPrivate(owner), d.reopen()); err == nil {
		err = flock(d.fd)
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// chown gives a new directory, which no other user may access yet, to owner. It uses the descriptor: the name could
// refer to another directory by now.
func (d *Dir) chown(owner int) error {
	if err := cmp.Or(d.checkPrivate(-1), d.reopen()); err != nil {
		return err
	}
	return d.fail("chown", ".", unix.Fchown(d.fd, owner, -1))
}

// checkPrivate returns an error unless the directory belongs to owner and only to owner: other users must not even see
// the names of dumps, and who can write to it can replace them.
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

// privateMode requires exactly 0700: with fewer bits the owner itself could not write there.
func privateMode(uid, owner int, mode uint32) error {
	switch {
	case uid != owner:
		return fmt.Errorf("it belongs to uid %d, not to uid %d, which writes there; name a new directory, or run chown", uid, owner)
	case mode != 0o700:
		return fmt.Errorf("other users may access it (mode %04o); name a directory of its own, with mode 0700 (chmod 700)", mode)
	}
	return nil
}
