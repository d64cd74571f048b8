//go:build unix

package listen

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/safefile"
)

// maxUnixPath is how long a socket's path may be: the kernel's field for it, less a closing zero byte.
const maxUnixPath = len(unix.RawSockaddrUnix{}.Path) - 1

// lockWait is how long a start waits for others that are under way on the same path. They hold the lock for a few
// system calls only.
const lockWait = 10 * time.Second

// entry is a name in a directory that was found to be safe and is held open.
type entry struct {
	path string // as it was given
	dir  *safefile.Dir
	name string      // in dir
	made unix.Stat_t // our socket, once there is one
}

// makeUnix works under a lock, because a socket that is being made cannot be distinguished from a stale one (between
// bind and listen it refuses connections), and because a stale one that two want to replace could be taken away twice,
// the second time together with the live one that the first has put there.
func makeUnix(cfg UnixConfig) (*UnixSocket, error) {
	e, err := openEntry(cfg.Path)
	if err != nil {
		return nil, err
	}
	s, err := e.listenLocked(cfg)
	if err != nil {
		e.close()
	}
	return s, err
}

func openEntry(path string) (*entry, error) {
	slash := strings.LastIndexByte(path, '/')
	e := &entry{path: path, name: path[slash+1:]}
	switch {
	case path == "":
		return nil, errors.New("the path is empty; name a file for the socket")
	case path[0] == '@' || strings.Contains(path, "\x00"):
		return nil, errors.New("it has no mode that could keep other users out, being an abstract name; use a path in a directory")
	case len(path) > maxUnixPath:
		return nil, fmt.Errorf("the path has %d bytes, and the kernel takes %d at most; choose a shorter one", len(path), maxUnixPath)
	case e.name == "" || e.name == "." || e.name == "..":
		return nil, errors.New("the path names a directory; add a name for the socket")
	}
	var err error
	e.dir, err = safefile.OpenDir(path[:slash+1], safefile.Walk{Trusted: true})
	return e, err
}

func (e *entry) listenLocked(cfg UnixConfig) (*UnixSocket, error) {
	unlock, err := e.lock(lockWait)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := e.removeStale(); err != nil {
		return nil, err
	}
	l, err := listenNarrow(e.path)
	if err != nil {
		return nil, fmt.Errorf("%w; check the directory, or choose another path", unwrap(err))
	}
	// net would remove the path without asking whose it is by then.
	l.SetUnlinkOnClose(false)
	if err := e.open(cfg); err != nil {
		return nil, errors.Join(err, e.remove(), l.Close())
	}
	return &UnixSocket{l: l, own: e}, nil
}

// open lets in those whom cfg names. The directory is safe, so what is found at the name is what was bound there, and
// stays it.
func (e *entry) open(cfg UnixConfig) error {
	if err := e.stat(&e.made); err != nil {
		return fmt.Errorf("the new socket is gone: %w; see what takes files out of its directory", err)
	}
	mode, group := cfg.mode(uint32(os.Geteuid()))
	if mode == 0o660 {
		err := e.chgrp(group)
		switch {
		case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL): // EINVAL: unknown in our user namespace
			mode = 0o666
		case err != nil:
			return fmt.Errorf("cannot give the socket to group %d: %w; choose another path", group, err)
		}
	}
	if err := unix.Fchmodat(e.dir.FD(), e.name, mode, 0); err != nil {
		return fmt.Errorf("cannot give the socket mode %04o: %w; choose another path", mode, err)
	}
	return nil
}

// chgrp gives the socket to group. Its highest number is none to the kernel: it would leave the group as it is, and
// 0660 would be for the wrong one.
func (e *entry) chgrp(group uint32) error {
	if group == math.MaxUint32 {
		return errors.New("there is no such group")
	}
	return unix.Fchownat(e.dir.FD(), e.name, -1, int(group), unix.AT_SYMLINK_NOFOLLOW)
}

// removeStale removes a stale socket of our own user. Anything else stays.
func (e *entry) removeStale() error {
	var st unix.Stat_t
	err := e.stat(&st)
	switch kind := st.Mode & unix.S_IFMT; {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return fmt.Errorf("cannot see what is there: %w; choose another path", err)
	case kind == unix.S_IFLNK:
		return errors.New("it is a symbolic link; name the place that it leads to, or remove it")
	case kind != unix.S_IFSOCK:
		return errors.New("something other than a socket is there; remove it, or choose another path")
	case st.Uid != uint32(os.Geteuid()):
		return fmt.Errorf("the socket there belongs to another user (uid %d); choose another path", st.Uid)
	}
	if err := e.checkStale(); err != nil {
		return err
	}
	if err := unix.Unlinkat(e.dir.FD(), e.name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot remove the dead socket there: %w; remove it, or choose another path", err)
	}
	return nil
}

// checkStale returns an error if another process listens on the socket, or might. EAGAIN comes from one with many
// clients waiting, EPROTOTYPE from one that is not a stream, ENOENT if the owner has just removed it.
func (e *entry) checkStale() error {
	c, err := net.Dial("unix", e.path)
	switch {
	case errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT):
		return nil
	case err == nil:
		c.Close()
	case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EPROTOTYPE):
		return fmt.Errorf("cannot tell whether another process listens on it: %w; remove it, or choose another path", unwrap(err))
	}
	return errors.New("another process listens on it; stop that one, or choose another path")
}

// lock keeps others of our user from working on the same name. The lock is on a file beside the socket that only we can
// open, for a lock on the directory could be held by anybody who may read it. The file is gone afterwards; one that a
// killed process leaves behind is used again.
func (e *entry) lock(wait time.Duration) (unlock func(), err error) {
	name := "." + e.name + ".lock"
	for end := time.Now().Add(wait); ; time.Sleep(time.Millisecond) {
		held, err := e.dir.Lock(name)
		switch {
		case err == nil:
			return func() {
				e.dir.Remove(name) // before it is unlocked: see safefile.Dir.Lock
				held.Close()
			}, nil
		case !errors.Is(err, safefile.ErrLocked):
			return nil, fmt.Errorf("cannot lock %s beside it: %w; choose another path", name, err)
		case time.Now().After(end):
			return nil, fmt.Errorf("another process has been starting there for %v (it holds %s); stop that one, or choose another path", wait, name)
		}
	}
}

// remove removes our socket, and nothing else that may be there by now. Other proxies do not touch the name while we
// listen; only who removes it by hand and starts another just between the two calls loses that one's path.
func (e *entry) remove() error {
	var st unix.Stat_t
	err := e.stat(&st)
	if err == nil && safefile.Same(&st, &e.made) {
		err = unix.Unlinkat(e.dir.FD(), e.name, 0)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot remove %s: %w; remove it by hand", e.path, err)
	}
	return nil
}

func (e *entry) stat(st *unix.Stat_t) error {
	return unix.Fstatat(e.dir.FD(), e.name, st, unix.AT_SYMLINK_NOFOLLOW)
}

func (e *entry) close() { e.dir.Close() }

// unwrap removes what net says around an error: the path once more.
func unwrap(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}
