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

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/safefile"
)

// maxUnixPath is the longest path of a socket in bytes: the size of sun_path, less a terminating zero (unix(7)). It is
// 107 on Linux and 103 on macOS.
const maxUnixPath = len(unix.RawSockaddrUnix{}.Path) - 1

var errInUse = errors.New("another process listens on it; stop that process, or choose another path")

// UnixSocket is a listener on a path. Its connections are of type *net.UnixConn.
type UnixSocket struct {
	*net.UnixListener               // nil until listen succeeds
	path, name        string        // the path as given, and its last element, looked up in dir
	dir               *safefile.Dir // checked and held open
	made              unix.Stat_t   // identifies the socket's file, whose inode is not that of the listener's descriptor
	removed           sync.Once
}

// Unix creates a stream socket at cfg.Path and listens on it.
//
// It replaces a socket that an earlier run of the same user left behind, once no process listens on it: bind(2) fails
// with EADDRINUSE as long as the file exists, and no option such as SO_REUSEADDR changes that. It refuses to replace
// anything else. If several processes start at the same time, one succeeds and the others fail.
//
// The socket is created with mode 0600, then given its group, and then its final mode. At no moment can a user connect
// who is not admitted in the end; until then the others get "permission denied": on Linux connect(2) needs the
// permission to write to the file (unix(7)).
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

// Close removes the path, unless it is another file by now, and closes the listener. Under Landlock it needs the right
// to remove files from the socket's directory. The path is removed first: while this process still listens, no other
// proxy considers the socket stale and replaces it, and its inode number is not reused.
func (s *UnixSocket) Close() error {
	// The listener is closed also if the path cannot be removed: the next start replaces a stale socket.
	var err error
	s.removed.Do(func() { err = errors.Join(s.remove(), s.dir.Close()) })
	return errors.Join(err, s.UnixListener.Close())
}

// find checks path and opens its directory, which must be trusted.
func find(path string) (*UnixSocket, error) {
	slash := strings.LastIndexByte(path, '/')
	s := &UnixSocket{path: path, name: path[slash+1:]}
	switch {
	case path == "":
		return nil, errors.New("the path is empty; name a file for the socket")
	// Once the proxy has ended, another user could bind the same abstract name and impersonate it (unix(7)).
	case path[0] == '@' || strings.Contains(path, "\x00"):
		return nil, errors.New("abstract names have no file mode to exclude other users; use a path in a directory")
	case len(path) > maxUnixPath:
		return nil, fmt.Errorf("the path is %d bytes long, and the limit is %d; choose a shorter one", len(path), maxUnixPath)
	case s.name == "" || s.name == "." || s.name == "..":
		return nil, errors.New("the path names a directory; add a name for the socket")
	}
	// The directory stays open: Close finds the socket there even if the directory is renamed, and in the sandbox,
	// which may not allow it to be opened.
	var err error
	s.dir, err = safefile.OpenTrusted(path[:slash+1])
	return s, err
}

// listen creates the socket and sets its mode. It holds a lock, for two reasons. A socket between bind(2) and listen(2)
// refuses connections like a stale one. And two processes that replace the same stale socket could both remove it, the
// second one after the first has put its live socket there. The lock is a file beside the socket that only this user
// can open: one on the directory could be taken by any user who may read it (flock(2)), and a socket's file cannot be
// opened to be locked (open(2), ENXIO). It is removed in the end; one that a killed process left behind is used again.
func (s *UnixSocket) listen(cfg UnixConfig) (err error) {
	name := "." + s.name + ".lock"
	held, err := s.dir.Lock(name)
	switch {
	case errors.Is(err, safefile.ErrLocked):
		return errInUse // or will in a moment
	case err != nil:
		return fmt.Errorf("cannot lock %s beside it: %w; choose another path", name, err)
	}
	// Released after listen(2), when the socket no longer looks stale.
	defer held.Close()
	defer s.dir.Remove(name) // while still locked: see safefile.Dir.Lock
	if err := s.removeStale(); err != nil {
		return err
	}
	// bind(2) takes a path and no directory, so that the path is looked up again; the trusted directories lead to the
	// same place. It fails if another user has taken the name in a sticky directory.
	if s.UnixListener, err = listenNarrow(s.path); err != nil {
		return fmt.Errorf("%w; check the directory, or choose another path", errors.Unwrap(err)) // Unwrap omits the path, which Unix adds
	}
	// Package net would remove the path on Close without checking which file it is by then.
	s.SetUnlinkOnClose(false)
	if err := s.open(cfg); err != nil {
		return errors.Join(err, s.remove(), s.UnixListener.Close())
	}
	return nil
}

// umaskLock prevents concurrent calls from restoring each other's umask: there is no call that reads it without setting
// it (umask(2)).
var umaskLock sync.Mutex

// listenNarrow creates a socket file with mode 0600. The umask belongs to the process, so that a file that another
// goroutine creates at the same time may get a narrower mode than it should, never a wider one. Linux alone also takes
// the mode from the socket (fchmod(2) before bind(2)).
func listenNarrow(path string) (*net.UnixListener, error) {
	umaskLock.Lock()
	defer umaskLock.Unlock()
	defer unix.Umask(unix.Umask(0o177))
	return net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
}

// open sets the group and mode for the users and groups in cfg. The directory is trusted, so the name still refers to
// the socket that was bound there. The listener's descriptor does not help: the file is another inode, in the file
// system and not in that of sockets.
func (s *UnixSocket) open(cfg UnixConfig) error {
	if err := s.stat(&s.made); err != nil {
		return fmt.Errorf("the new socket has been removed: %w; find out which program removes files from its directory", err)
	}
	mode, group := cfg.mode(uint32(os.Geteuid()))
	// The group is set first: mode 0660 would admit the group of the process, or of a set-group-id directory, until
	// then.
	if mode == 0o660 {
		err := unix.Fchownat(s.dir.FD(), s.name, -1, int(group), unix.AT_SYMLINK_NOFOLLOW)
		switch {
		case group == math.MaxUint32: // the kernel takes this gid as "unchanged", and 0660 would admit the wrong group
			return fmt.Errorf("cannot give the socket to group %d: no such group; choose another", group)
		case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL): // EINVAL: no such group in this user namespace
			// This process may not give the file to that group: without CAP_CHOWN only to groups of which it is a
			// member (chown(2)). The mode can only admit all users; peer.OfUnix decides.
			mode = 0o666
		case err != nil:
			return fmt.Errorf("cannot give the socket to group %d: %w; choose another path", group, err)
		}
	}
	// fchmod(2) on the listener would not change the file's mode. fchmodat(2) follows links, but there can be none: the
	// directory is trusted, and the name was just found to be the socket.
	if err := unix.Fchmodat(s.dir.FD(), s.name, mode, 0); err != nil {
		return fmt.Errorf("cannot give the socket mode %04o: %w; choose another path", mode, err)
	}
	return nil
}

// mode returns the narrowest mode that admits everyone in c, given that self owns the socket. If it is 0660, the socket
// must be given to group. A file has one owner and one group only, so that any other list needs 0666; access lists are
// not used, since not every file system and system has them. peer.OfUnix decides in any case.
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

// removeStale removes a stale socket of the effective user, and refuses to remove anything else: the path may be a
// mistake, and root could remove any file.
func (s *UnixSocket) removeStale() error {
	var st unix.Stat_t
	err := s.stat(&st)
	switch kind := st.Mode & unix.S_IFMT; {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return fmt.Errorf("cannot stat the path: %w; choose another path", err)
	case kind == unix.S_IFLNK:
		return errors.New("the path is a symbolic link; use its target, or remove it")
	case kind != unix.S_IFSOCK:
		return errors.New("the path exists and is not a socket; remove it, or choose another path")
	case st.Uid != uint32(os.Geteuid()):
		return fmt.Errorf("the existing socket belongs to another user (uid %d); choose another path", st.Uid)
	}
	if err := s.checkStale(); err != nil {
		return err
	}
	// The lock and the trusted directory exclude that the name has become another file since it was checked.
	if err := unix.Unlinkat(s.dir.FD(), s.name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot remove the stale socket: %w; remove it, or choose another path", err)
	}
	return nil
}

// checkStale returns an error unless the socket has certainly no listener: to remove the socket of a running proxy
// would take its clients away, without an error on its side. ECONNREFUSED means that no listener has it, EAGAIN a
// listener with a full queue, EPROTOTYPE a socket that is not a stream, ENOENT that its owner has just removed it
// (unix(7), connect(2)). It does not block, since package net's sockets are non-blocking.
func (s *UnixSocket) checkStale() error {
	c, err := net.Dial("unix", s.path)
	switch {
	case errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT):
		return nil
	case err == nil:
		c.Close()
	case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EPROTOTYPE):
		return fmt.Errorf("cannot determine whether another process listens on it: %w; remove it, or choose another path", errors.Unwrap(err))
	}
	return errInUse
}

// remove removes this listener's socket and nothing else. No other proxy changes the name while this one listens; only
// a user who removes the socket by hand and starts another proxy between the two calls loses the new socket's path.
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

// stat returns the status of the socket's name in its directory, not that of a link's target.
func (s *UnixSocket) stat(st *unix.Stat_t) error {
	return unix.Fstatat(s.dir.FD(), s.name, st, unix.AT_SYMLINK_NOFOLLOW)
}
