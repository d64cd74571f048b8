// Package listen creates the sockets that clients connect to, and the file that names their port.
package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// An Address is the path of a unix socket, or a loopback address with a port.
type Address struct {
	Path string // of a unix socket, or ""
	TCP  netip.AddrPort
}

const wantAddress = "use 127.0.0.1:PORT, [::1]:PORT or unix:PATH"

// ParseAddress parses "127.0.0.1:8080", "[::1]:8080", "localhost:8080" (which is 127.0.0.1), or "unix:PATH". Every
// other address is refused: users of other hosts cannot be identified. No resolver is asked for localhost: it could
// return the address of an interface, or ::1, whose ports are others than those of 127.0.0.1, so that clients would
// connect to what another user has bound there. A zone (RFC 4007) has no meaning on the loopback interface.
func ParseAddress(s string) (a Address, err error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if path == "" {
			return a, errors.New("the path is empty; name a file for the socket, as in unix:/run/responses-api-proxy/proxy.sock")
		}
		return Address{Path: path}, nil
	}
	host, number, err := net.SplitHostPort(s)
	port, bad := strconv.ParseUint(number, 10, 16)
	if err != nil || bad != nil {
		return a, errors.New("it is no address with a port; " + wantAddress)
	}
	if strings.EqualFold(host, "localhost") {
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if ip = ip.Unmap(); err != nil || !ip.IsLoopback() || ip.Zone() != "" {
		return a, errors.New("it is no loopback address, and other hosts could connect; " + wantAddress)
	}
	return Address{TCP: netip.AddrPortFrom(ip, uint16(port))}, nil
}

// Network returns the address as package net takes it.
func (a Address) Network() (network, address string) {
	if a.Path != "" {
		return "unix", a.Path
	}
	return "tcp", a.TCP.String()
}

// Loopback returns the address of a port of 127.0.0.1, which every host has; some have no ::1.
func Loopback(port uint16) Address {
	return Address{TCP: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)}
}

// Listen listens on a; who is for a unix socket, and its path is a's.
func Listen(a Address, who UnixConfig) (net.Listener, error) {
	if a.Path == "" {
		return TCP(a)
	}
	who.Path = a.Path
	return Unix(who)
}

// TCP listens on a TCP address; port 0 selects a free port. The caller owns the listener, and creates it before the
// sandbox, which allows neither bind(2) nor listen(2). Multipath TCP, Go's default since 1.24, is disabled, because
// Landlock's TCP rules do not cover its sockets.
func TCP(a Address) (*net.TCPListener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", a.TCP.String())
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w; choose another port (--port, --listen, --metrics), or 0 for a free one", a.TCP, err)
	}
	return l.(*net.TCPListener), nil
}

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
