package listen

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
)

// UnixConfig says how a socket is made.
type UnixConfig struct {
	// Path is the socket's path; required. Clients must be able to name it as it stands, so the kernel's limit on its
	// length holds for it unchanged. Its directory and every one above are trusted: a user who can write to one of them
	// can put another socket in its place, so they must belong to root or to us, and no other user may write to them
	// unless they are sticky.
	Path string

	// Users and Groups must be able to connect besides our own user; none by default. The mode is the narrowest that
	// lets them all in: 0600 for our own user alone, 0660 for one group that we may give the socket to, and 0666 for
	// anything else, a group that we are not in and root (who may lack the capability to pass by the mode) included. So
	// the mode only narrows: who is served must be decided by peer.OfUnix.
	Users, Groups []uint32

	// Everyone makes the mode 0666.
	Everyone bool
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

// Unix makes a stream socket at cfg.Path and listens on it.
//
// A socket that an earlier run of the same user has left there is replaced once no process listens on it; anything else
// that is there is left alone and refused. Of several callers that start at the same moment, in whatever process, one
// wins and the others fail.
//
// The socket is made with mode 0600, is given its group, and is opened to others last. So at no moment may more users
// connect than in the end, and those who may not yet get "permission denied".
func Unix(cfg UnixConfig) (*UnixSocket, error) {
	s, err := makeUnix(cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on the socket %s: %w", cfg.Path, err)
	}
	return s, nil
}

// UnixSocket is a [net.Listener] on a path.
type UnixSocket struct {
	l   *net.UnixListener
	mu  sync.Mutex
	own *entry // nil once the socket is closed
}

// Accept waits for the next client; its connection is a *net.UnixConn.
func (s *UnixSocket) Accept() (net.Conn, error) { return s.l.Accept() }

// Addr is the socket's path.
func (s *UnixSocket) Addr() net.Addr { return s.l.Addr() }

// Remove takes the path away, unless something other than our socket is there by now, and keeps listening: clients that
// have connected are still accepted. It may be called again, and does nothing once the socket is closed. Under Landlock
// it needs the right to remove files from the socket's directory.
func (s *UnixSocket) Remove() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.own == nil {
		return nil
	}
	return s.own.remove()
}

// Close takes the path away as Remove does, and stops listening. The path goes first: while we still listen, no other
// proxy takes our socket for a stale one and puts its own there, and our inode's number is not given to another file.
func (s *UnixSocket) Close() error {
	err := s.Remove()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.own != nil {
		s.own.close()
		s.own = nil
	}
	return errors.Join(err, s.l.Close())
}
