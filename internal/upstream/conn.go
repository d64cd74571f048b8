package upstream

import (
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/tlsrecord"
)

// socket is a TCP connection that counts the bytes which the kernel has taken: until it has taken one, the peer cannot
// have seen any of a request.
type socket struct {
	*net.TCPConn
	raw   syscall.RawConn
	taken atomic.Int64
}

func (s *socket) Write(p []byte) (int, error) {
	n, err := s.TCPConn.Write(p)
	s.taken.Add(int64(n))
	return n, err
}

// conn is a connection for one request after another.
type conn struct {
	socket
	layer tlsrecord.Layer // nil for plain http
	in    reader
	vec   [4][]byte // of a plain request's writev
	idle  time.Time // since when it waits in the pool
}

func newConn(tcp *net.TCPConn) *conn {
	c := &conn{socket: socket{TCPConn: tcp}}
	c.raw, _ = tcp.SyscallConn() // fails only for a nil connection
	c.in.src = tcp
	return c
}

// close ends the connection at once, whatever is being read or written, and without an alert of TLS, which might wait
// to be sent. It may be called twice.
func (c *conn) close() { c.Close() }

// send writes bytes that are not secret.
func (c *conn) send(p []byte) (n int, err error) {
	if c.layer != nil {
		return c.layer.Write(p)
	}
	return c.socket.Write(p)
}
