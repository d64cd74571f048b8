package systemd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const supported = true

// check reports what is wrong with a descriptor, and makes it close on exec. It changes nothing else.
func check(d descriptor) error {
	if _, err := unix.FcntlInt(uintptr(d.fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return d.errorf("is not open (%w); LISTEN_FDS says too much", err)
	}
	option := func(name int) int {
		value, err := unix.GetsockoptInt(d.fd, unix.SOL_SOCKET, name)
		if err != nil {
			return -1
		}
		return value
	}
	address, err := unix.Getsockname(d.fd)
	switch {
	case errors.Is(err, unix.ENOTSOCK):
		return d.errorf("is no socket; only sockets can be passed")
	case option(unix.SO_TYPE) != unix.SOCK_STREAM:
		return d.errorf("is no stream socket; use ListenStream= in its unit")
	case option(unix.SO_ACCEPTCONN) != 1:
		return d.errorf("does not listen; use ListenStream= and Accept=no in its unit")
	}
	var at netip.AddrPort
	switch a := address.(type) {
	case *unix.SockaddrUnix:
		return nil
	case *unix.SockaddrInet4:
		at = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		at = netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	default:
		return d.errorf("is neither a TCP nor a unix socket; set ListenStream=127.0.0.1:PORT or a path")
	}
	switch {
	case option(unix.SO_PROTOCOL) != unix.IPPROTO_TCP: // by which callers are looked up
		return d.errorf("speaks another protocol than TCP; leave SocketProtocol= out of its unit")
	case !at.Addr().IsLoopback():
		return d.errorf("listens on %s, which other hosts may reach; set ListenStream=127.0.0.1:%d", at, at.Port())
	}
	return nil
}

// take makes a listener of a checked descriptor, which it replaces by another that Go's poller knows.
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

// write sends a datagram, and waits up to wait for room in the receiver's queue. With 0 it tries once: conn's own Write
// would wait or, with a deadline that has passed, not even try.
func write(conn *net.UnixConn, message string, wait time.Duration) error {
	if wait > 0 {
		conn.SetWriteDeadline(time.Now().Add(wait))
		defer conn.SetWriteDeadline(time.Time{})
		_, err := conn.Write([]byte(message))
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) (done bool) {
		_, failed = unix.Write(int(fd), []byte(message))
		return true
	})
	return errors.Join(err, os.NewSyscallError("write", failed))
}
