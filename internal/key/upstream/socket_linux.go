package upstream

import (
	"errors"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// userTimeout is how long sent bytes may stay unacknowledged before the kernel closes the connection (TCP_USER_TIMEOUT,
// Linux 2.6.37, tcp(7)): it detects a peer that has vanished during a transfer. Without it TCP retransmits for 13 to 30
// minutes (tcp_retries2), in which the client waits for nothing.
const userTimeout = 30 * time.Second

// setUserTimeout is a net.Dialer's Control: it sets the option, in milliseconds, before the socket is connected.
func setUserTimeout(_, _ string, raw syscall.RawConn) error {
	var err error
	ctlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
	})
	return errors.Join(ctlErr, err)
}

// acknowledged reports whether the peer's kernel has acknowledged every byte that was written. It reads the size of the
// write queue with SO_MEMINFO (Linux 4.12), because the sandbox refuses ioctl(2) and so SIOCOUTQ. A connection with
// bytes in the queue must not be used again: the next user's request would wait behind a body that the upstream does
// not read. Anything unexpected counts as not acknowledged. x/sys has no function for the option.
func (c *conn) acknowledged() bool {
	var info [unix.SK_MEMINFO_VARS]uint32
	size := uint32(unsafe.Sizeof(info))
	var errno syscall.Errno
	err := c.raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	})
	return err == nil && errno == 0 && size > 4*unix.SK_MEMINFO_WMEM_QUEUED && info[unix.SK_MEMINFO_WMEM_QUEUED] == 0
}
