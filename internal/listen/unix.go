//go:build unix

package listen

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/safefile"
)

// maxUnixPath is how long a socket's path may be: the kernel's field for it, less a closing zero byte.
const maxUnixPath = len(unix.RawSockaddrUnix{}.Path) - 1

// lockWait is how long a start waits for others that are under way on the same path. They hold the lock for a few
// system calls only.
const lockWait = 10 * time.Second

// UnixSocket is a listener on a path. Its connections are of type *net.UnixConn.
type UnixSocket struct {
	*net.UnixListener             // nil until it listens
	path, name        string      // as it was given, and in dir
	made              unix.Stat_t // the socket's file

	mu  sync.Mutex
	dir *safefile.Dir // found to be safe and held open; nil once the socket is closed
}

// Unix makes a stream socket at cfg.Path and listens on it.
//
// A socket that an earlier run of the same user has left there is replaced once no process listens on it; anything else
// that is there is left alone and refused. Of several callers that start at the same moment, in whatever process, one
// wins and the others fail.
//
// The socket is made with mode 0600, is given its group, and is opened to others last. So at no moment may more users
// connect than in the end, and those who may not yet get "permission denied".
func Unix(cfg UnixConfig) (*UnixSocket, error) {
	s, err := find(cfg.Path)
	if err == nil {
		if err = s.listen(cfg); err != nil {
			s.dir.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot listen on the socket %s: %w", cfg.Path, err)
	}
	return s, nil
}

// Close removes the path, unless something other than our socket is there by now, and stops listening. Under Landlock
// it needs the right to remove files from the socket's directory. The path goes first: while we still listen, no other
// proxy takes our socket for a stale one and puts its own there, and our inode's number is not given to another file.
func (s *UnixSocket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if s.dir != nil {
		err = errors.Join(s.remove(), s.dir.Close())
		s.dir = nil
	}
	return errors.Join(err, s.UnixListener.Close())
}

// find opens the directory of path, which must be safe.
func find(path string) (*UnixSocket, error) {
	slash := strings.LastIndexByte(path, '/')
	s := &UnixSocket{path: path, name: path[slash+1:]}
	switch {
	case path == "":
		return nil, errors.New("the path is empty; name a file for the socket")
	case path[0] == '@' || strings.Contains(path, "\x00"):
		return nil, errors.New("it has no mode that could keep other users out, being an abstract name; use a path in a directory")
	case len(path) > maxUnixPath:
		return nil, fmt.Errorf("the path has %d bytes, and the kernel takes %d at most; choose a shorter one", len(path), maxUnixPath)
	case s.name == "" || s.name == "." || s.name == "..":
		return nil, errors.New("the path names a directory; add a name for the socket")
	}
	var err error
	s.dir, err = safefile.OpenDir(path[:slash+1], safefile.Walk{Trusted: true})
	return s, err
}

// listen works under a lock, because a socket that is being made cannot be distinguished from a stale one (between bind
// and listen it refuses connections), and because a stale one that two want to replace could be removed twice, the
// second time together with the live one that the first has put there.
func (s *UnixSocket) listen(cfg UnixConfig) (err error) {
	unlock, err := s.lock(lockWait)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.removeStale(); err != nil {
		return err
	}
	if s.UnixListener, err = listenNarrow(s.path); err != nil {
		return fmt.Errorf("%w; check the directory, or choose another path", errors.Unwrap(err)) // without the path once more
	}
	// net would remove the path without asking whose it is by then.
	s.SetUnlinkOnClose(false)
	if err := s.open(cfg); err != nil {
		return errors.Join(err, s.remove(), s.UnixListener.Close())
	}
	return nil
}

// open lets in those whom cfg names. The directory is safe, so what is found at the name is what was bound there, and
// stays it.
func (s *UnixSocket) open(cfg UnixConfig) error {
	if err := s.stat(&s.made); err != nil {
		return fmt.Errorf("the new socket is gone: %w; see what takes files out of its directory", err)
	}
	mode, group := cfg.mode(uint32(os.Geteuid()))
	if mode == 0o660 {
		err := unix.Fchownat(s.dir.FD(), s.name, -1, int(group), unix.AT_SYMLINK_NOFOLLOW)
		switch {
		case group == math.MaxUint32: // none to the kernel: the group is as it was, and 0660 would be for the wrong one
			return fmt.Errorf("cannot give the socket to group %d: there is no such group; choose another", group)
		case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL): // EINVAL: unknown in our user namespace
			mode = 0o666
		case err != nil:
			return fmt.Errorf("cannot give the socket to group %d: %w; choose another path", group, err)
		}
	}
	if err := unix.Fchmodat(s.dir.FD(), s.name, mode, 0); err != nil {
		return fmt.Errorf("cannot give the socket mode %04o: %w; choose another path", mode, err)
	}
	return nil
}

// mode returns the mode that lets in everybody that c names, self aside. If it is 0660, the socket must be given to
// group.
func (c UnixConfig) mode(self uint32) (mode, group uint32) {
	others := slices.ContainsFunc(c.Users, func(uid uint32) bool { return uid != self })
	groups := slices.Compact(slices.Sorted(slices.Values(c.Groups)))
	switch {
	case c.Everyone || others || len(groups) > 1:
		return 0o666, 0
	case len(groups) == 1:
		return 0o660, groups[0]
	}
	return 0o600, 0
}

// removeStale removes a stale socket of our own user. Anything else stays.
func (s *UnixSocket) removeStale() error {
	var st unix.Stat_t
	err := s.stat(&st)
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
	if err := s.checkStale(); err != nil {
		return err
	}
	if err := unix.Unlinkat(s.dir.FD(), s.name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot remove the dead socket there: %w; remove it, or choose another path", err)
	}
	return nil
}

// checkStale returns an error if another process listens on the socket, or might. EAGAIN comes from one with many
// clients waiting, EPROTOTYPE from one that is not a stream, ENOENT if the owner has just removed it.
func (s *UnixSocket) checkStale() error {
	c, err := net.Dial("unix", s.path)
	switch {
	case errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT):
		return nil
	case err == nil:
		c.Close()
	case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EPROTOTYPE):
		return fmt.Errorf("cannot tell whether another process listens on it: %w; remove it, or choose another path", errors.Unwrap(err))
	}
	return errors.New("another process listens on it; stop that one, or choose another path")
}

// lock keeps others of our user from working on the same name. The lock is on a file beside the socket that only we can
// open, for a lock on the directory could be held by anybody who may read it. The file is gone afterwards; one that a
// killed process leaves behind is used again.
func (s *UnixSocket) lock(wait time.Duration) (unlock func(), err error) {
	name := "." + s.name + ".lock"
	for end := time.Now().Add(wait); ; time.Sleep(time.Millisecond) {
		held, err := s.dir.Lock(name)
		switch {
		case err == nil:
			return func() {
				s.dir.Remove(name) // before it is unlocked: see safefile.Dir.Lock
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
func (s *UnixSocket) remove() error {
	var st unix.Stat_t
	err := s.stat(&st)
	if err == nil && safefile.Same(&st, &s.made) {
		err = unix.Unlinkat(s.dir.FD(), s.name, 0)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot remove %s: %w; remove it by hand", s.path, err)
	}
	return nil
}

func (s *UnixSocket) stat(st *unix.Stat_t) error {
	return unix.Fstatat(s.dir.FD(), s.name, st, unix.AT_SYMLINK_NOFOLLOW)
}
