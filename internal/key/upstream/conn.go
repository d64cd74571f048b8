package upstream

import (
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/socket"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/tlsrecord"
)

// conn is a TCP connection that carries one request after another.
type conn struct {
	*net.TCPConn
	raw          syscall.RawConn
	socket       *socket.Conn
	bytesWritten atomic.Int64    // bytes that the kernel has accepted: at 0 the peer cannot have received anything
	layer        tlsrecord.Layer // nil for plain http
	in           reader
	idle         time.Time // when it was put into the pool
	current      *Response

	// Fields, to avoid an allocation for each request:
	abort func()                       // close
	start func(fd uintptr) (done bool) // current.start
}

// Write sends bytes unchanged, below TLS.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.socket.Write(p)
	c.bytesWritten.Add(int64(n))
	return n, err
}

// send sends bytes that are not secret.
func (c *conn) send(p []byte) (n int, err error) {
	switch {
	case len(p) == 0:
		return 0, nil
	case c.layer != nil:
		return c.layer.Write(p)
	}
	return c.Write(p)
}

// sendInPlace sends the n bytes at buf[tlsrecord.HeaderSize:], which may be secret, in place: over TLS as one record,
// which overwrites them and for which buf has space.
func (c *conn) sendInPlace(buf []byte, n int) error {
	if c.layer != nil {
		return c.layer.WriteInPlace(buf, n)
	}
	secret.Scrub() // the bytes were copied to buf, and the write may block
	_, err := c.Write(buf[tlsrecord.HeaderSize:][:n])
	return err
}

// close closes the connection at once, even during a read or write, and without a TLS alert, which might block. It may
// be called more than once.
func (c *conn) close() { c.Close() }

// idleAndOpen reports whether nothing has arrived on an idle connection, neither its end nor unexpected bytes. It does
// not block. What has arrived is lost.
func (c *conn) idleAndOpen() (ok bool) {
	err := c.raw.Control(func(fd uintptr) { ok = socket.Quiet(fd) })
	return err == nil && ok
}

const (
	// idleLimit is shorter than the idle time-outs of common load balancers (nginx 75 s, AWS ALB 60 s), so that this
	// side closes a connection first.
	idleLimit = 45 * time.Second
	// sweepEvery is the maximum time for which a connection that the upstream has closed stays open on this side.
	sweepEvery = 5 * time.Second
	maxIdle    = 256
)

// pool keeps idle connections. The zero value is ready to use.
type pool struct {
	mu     sync.Mutex
	conns  []*conn // the longest idle first
	timer  *time.Timer
	closed bool
}

// get returns the connection that was used last, or nil. It may have been closed by the peer.
func (p *pool) get() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.conns) - 1
	if n < 0 {
		return nil
	}
	c := p.conns[n]
	p.conns[n] = nil
	p.conns = p.conns[:n]
	return c
}

// put keeps c, which must have no unread data.
func (p *pool) put(c *conn) {
	c.in.shrink()
	c.idle = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.conns) >= maxIdle {
		c.close()
		return
	}
	p.conns = append(p.conns, c)
	if p.timer == nil {
		p.timer = time.AfterFunc(sweepEvery, p.sweep)
	}
}

// sweep closes connections that are idle for too long or closed by the peer. It runs again while any are left.
func (p *pool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = slices.DeleteFunc(p.conns, func(c *conn) bool {
		dead := p.closed || time.Since(c.idle) >= idleLimit || !c.idleAndOpen()
		if dead {
			c.close()
		}
		return dead
	})
	if len(p.conns) > 0 {
		p.timer.Reset(sweepEvery)
	} else {
		p.timer = nil
	}
}

// close closes all connections, and those that are put later.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.sweep()
}
