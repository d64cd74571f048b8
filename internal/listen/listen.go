// Package listen makes the sockets that clients connect to, and writes their port to a file.
package listen

import (
	"context"
	"fmt"
	"net"
	"strconv"
)

// TCP listens on port of 127.0.0.1; 0 lets the kernel choose one. Plain TCP on purpose: Multipath TCP sockets escape
// Landlock's rules.
func TCP(port uint16) (*net.TCPListener, error) {
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp4", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w; choose another --port, or leave it out for a free one", addr, err)
	}
	return l.(*net.TCPListener), nil
}

// Port is the port that l listens on.
func Port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

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
	Everyone      bool // makes the mode 0666
}
