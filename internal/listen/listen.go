// Package listen creates the sockets that clients connect to, and the file that names their port.
package listen

import (
	"context"
	"fmt"
	"net"
	"strconv"
)

// TCP listens on port of 127.0.0.1; 0 selects a free port. Multipath TCP is disabled, because Landlock's TCP rules do
// not cover its sockets.
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

// Port returns the TCP port on which l listens.
func Port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

// UnixConfig describes a unix socket.
type UnixConfig struct {
	// Path is the socket's path; required. Clients connect to it as it is, so the kernel's limit on its length
	// (unix(7)) applies to it unchanged. A user who can write to its directory or to one above could replace the
	// socket; so each must belong to root or the effective user, and be writable by no other user unless it is sticky.
	Path string

	// Users and Groups must be able to connect besides the effective user; none by default. The socket gets the
	// narrowest mode that admits them: 0600 for the effective user alone; 0660 for one group that this process may give
	// the socket to; and 0666 for anything else, including root, which may lack CAP_DAC_OVERRIDE. The mode is only a
	// first filter: peer.OfUnix decides who is served.
	Users, Groups []uint32
	Everyone      bool // sets the mode to 0666
}
