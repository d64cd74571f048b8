package systemd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// check looks at a descriptor, and makes it close on exec. Nothing else is
// changed.
func check(d descriptor) error {
	if _, err := unix.FcntlInt(uintptr(d.fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return d.errorf("is not open (%w); LISTEN_FDS says too much", err)
	}
	kind, err := unix.GetsockoptInt(d.fd, unix.SOL_SOCKET, unix.SO_TYPE)
	switch {
	case errors.Is(err, unix.ENOTSOCK):
		return d.errorf("is no socket; only sockets can be passed")
	case err != nil:
		return d.errorf("cannot be looked at: %w", err)
	case kind != unix.SOCK_STREAM:
		return d.errorf("is no stream socket; use ListenStream= in its unit")
	}
	listening, err := unix.GetsockoptInt(d.fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	switch {
	case err != nil:
		return d.errorf("cannot be looked at: %w", err)
	case listening != 1:
		return d.errorf("does not listen; use ListenStream= and Accept=no in its unit")
	}
	return checkAddress(d)
}

// checkAddress lets nothing pass that another host could connect to.
func checkAddress(d descriptor) error {
	address, err := unix.Getsockname(d.fd)
	if errors.Is(err, unix.EAFNOSUPPORT) { // x/sys does not know the family
		return d.errorf("is neither a TCP nor a unix socket; set ListenStream=127.0.0.1:PORT or a path")
	}
	if err != nil {
		return d.errorf("cannot be looked at: %w", err)
	}
	switch a := address.(type) {
	case *unix.SockaddrUnix:
		return nil
	case *unix.SockaddrInet4:
		return checkTCP(d, netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)))
	case *unix.SockaddrInet6:
		return checkTCP(d, netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port)))
	}
	return d.errorf("is neither a TCP nor a unix socket; set ListenStream=127.0.0.1:PORT or a path")
}

// checkTCP wants plain TCP: callers are looked up as such.
func checkTCP(d descriptor, at netip.AddrPort) error {
	protocol, err := unix.GetsockoptInt(d.fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	switch {
	case err != nil:
		return d.errorf("cannot be looked at: %w", err)
	case protocol != unix.IPPROTO_TCP:
		return d.errorf("speaks another protocol than TCP; leave SocketProtocol= out of its unit")
	case !at.Addr().IsLoopback():
		return d.errorf("listens on %s, which other hosts may reach; set ListenStream=127.0.0.1:%d", at, at.Port())
	}
	return nil
}

// take makes a listener of a checked descriptor, in whose place comes another
// that Go's poller knows.
func take(d descriptor) (net.Listener, error) {
	f := os.NewFile(uintptr(d.fd), fmt.Sprintf("systemd's socket %s", d.name))
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, d.errorf("cannot be used: %w", err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // the path is systemd's
	}
	return l, nil
}
