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
