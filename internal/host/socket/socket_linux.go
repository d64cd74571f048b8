package socket

import (
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxStreak is how many reads in a row may find data at once. The next one takes net.Conn's way, which wakes the
// monitor thread: it preempts goroutines, and polls the network while none of them waits.
const maxStreak = 256

// Conn reads and writes one connection. Its socket is non-blocking, as all of package net are, so a system call takes
// no longer than the kernel needs to copy the bytes, and the scheduler loses nothing by treating it as computation.
type Conn struct {
	nc     net.Conn
	raw    syscall.RawConn // nil if nc is no socket: then nc's own methods do everything
	streak int             // reads in a row that found data at once

	// These are of the Read, and of the Write, that is under way. The callbacks of raw are fields, to avoid an allocation
	// for each call.
	in, out         []byte
	received, sent  int
	inErr, outErr   syscall.Errno
	receive, submit func(fd uintptr) (done bool)
}

// New returns a Conn for nc, which remains its owner's: closing it ends a Read or a Write with net.ErrClosed, and its
// deadlines apply, since the waiting is package net's.
func New(nc net.Conn) *Conn {
	c := &Conn{nc: nc}
	c.receive, c.submit = c.doReceive, c.doSubmit
	if socket, ok := nc.(syscall.Conn); ok {
		c.raw, _ = socket.SyscallConn() // fails only for a nil connection
	}
	return c
}

// Read implements io.Reader. It blocks until there is something to read.
func (c *Conn) Read(p []byte) (int, error) {
	if c.streak++; c.streak > maxStreak || c.raw == nil || len(p) == 0 {
		c.streak = 0
		return c.nc.Read(p)
	}
	// RawConn.Read has one reader at a time, so that the fields of the Read under way need no lock. It returns an error
	// if the connection was closed, or its deadline has passed, before or during the wait.
	c.in = p
	err := c.raw.Read(c.receive)
	c.in = nil
	switch {
	case err != nil:
		return 0, err
	case c.inErr != 0:
		return 0, c.failed("read", c.inErr)
	case c.received == 0: // the peer's FIN; p is not empty
		return 0, io.EOF
	}
	return c.received, nil
}

// doReceive is RawConn.Read's callback. After EAGAIN it is called again once the socket is readable: RawConn.Read has
// reset the poller's readiness before the first call, so what arrives between the two wakes it.
func (c *Conn) doReceive(fd uintptr) (done bool) {
	c.received, c.inErr = call(unix.SYS_RECVFROM, fd, c.in, 0)
	if c.inErr == syscall.EAGAIN {
		c.streak = 0
		return false
	}
	if raceDetector { // package syscall reports reads to it: what precedes the peer's write happens before this
		syscall.Read(int(fd), nil)
	}
	return true
}

// Write implements io.Writer. It blocks only if the kernel has no space for all of p. No copy of p is made, as p may be
// secret memory.
func (c *Conn) Write(p []byte) (int, error) {
	if c.raw == nil || len(p) == 0 {
		return c.nc.Write(p)
	}
	// The lock for writing is not that for reading: a Write never waits for a Read.
	c.out = p
	err := c.raw.Write(c.submit)
	c.out = nil
	switch {
	case err != nil:
		return 0, err
	// EAGAIN means that nothing was accepted, a short count that the send buffer is full (send(2)): the rest goes package
	// net's way, which waits until the socket is writable.
	case c.outErr != 0 && c.outErr != syscall.EAGAIN:
		return 0, c.failed("write", c.outErr)
	case c.sent == len(p):
		return c.sent, nil
	}
	n, err := c.nc.Write(p[c.sent:]) // waits for space
	return c.sent + n, err
}

// doSubmit is RawConn.Write's callback. It is called once. MSG_NOSIGNAL (send(2)) reports a closed connection as EPIPE
// alone: SIGPIPE would go to the calling thread, where the runtime would have to drop it.
func (c *Conn) doSubmit(fd uintptr) (done bool) {
	if raceDetector {
		syscall.Write(-1, nil)
	}
	c.sent, c.outErr = call(unix.SYS_SENDTO, fd, c.out, unix.MSG_NOSIGNAL)
	return true
}

// Quiet reports whether there is nothing to read from the socket fd, neither data nor the connection's end (recv(2): 0)
// nor an error such as ECONNRESET. It does not block. A byte that it reads is lost.
func Quiet(fd uintptr) bool {
	var p [1]byte
	_, errno := call(unix.SYS_RECVFROM, fd, p[:], 0)
	return errno == syscall.EAGAIN
}

// call is recv(2) or send(2), of which the scheduler is not notified. After an error n is 0. A signal may interrupt even a
// call that does not wait (EINTR, signal(7)). p cannot be moved or collected meanwhile: the conversion to uintptr is in
// the call's argument list (package unsafe, rule 4), and the kernel does not keep the address.
func call(number, fd uintptr, p []byte, flags uintptr) (n int, errno syscall.Errno) {
	for {
		r, _, errno := syscall.RawSyscall6(number, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags, 0, 0)
		switch errno {
		case 0:
			return int(r), 0
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}

// failed returns the error that net.Conn would have returned, so that logs have the same text whichever way was taken.
func (c *Conn) failed(op string, errno syscall.Errno) error {
	return &net.OpError{Op: op, Net: c.nc.LocalAddr().Network(), Source: c.nc.LocalAddr(), Addr: c.nc.RemoteAddr(), Err: os.NewSyscallError(op, errno)}
}
