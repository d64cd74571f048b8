package upstream

import (
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/tlsrecord"
)

// conn is a TCP connection for one request after another.
type conn struct {
	*net.TCPConn
	raw   syscall.RawConn
	taken atomic.Int64    // bytes that the kernel has taken: without one, the peer cannot have seen any of a request
	layer tlsrecord.Layer // nil for plain http
	in    reader
	idle  time.Time // since when it waits in the pool
}

// Write sends bytes as they are, below TLS.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	c.taken.Add(int64(n))
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

// sendInPlace sends the n bytes at buf[tlsrecord.HeaderSize:], which may be secret, from where they lie: over TLS as
// one record, for which buf has room and in which it is overwritten.
func (c *conn) sendInPlace(buf []byte, n int) error {
	if c.layer != nil {
		return c.layer.WriteInPlace(buf, n)
	}
	secret.Scrub() // the bytes were copied to buf, and the write may block
	_, err := c.Write(buf[tlsrecord.HeaderSize:][:n])
	return err
}

// close ends the connection at once, whatever is being read or written, and without an alert of TLS, which might wait
// to be sent. It may be called twice.
func (c *conn) close() { c.Close() }

const (
	// idleLimit is shorter than the idle time-outs of common edges (nginx 75 s, AWS ALB 60 s), so that we close a
	// connection before they do.
	idleLimit = 45 * time.Second
	// sweepEvery bounds how long a connection that the upstream has closed stays open on our side.
	sweepEvery = 5 * time.Second
	maxIdle    = 256
)

// pool keeps connections between requests. The zero value is ready.
type pool struct {
	mu     sync.Mutex
	conns  []*conn // the longest idle first
	timer  *time.Timer
	closed bool
}

// get returns the connection that was used last and is still open, or nil.
func (p *pool) get() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := len(p.conns) - 1; n >= 0; n-- {
		c := p.conns[n]
		p.conns[n] = nil
		p.conns = p.conns[:n]
		if c.quiet() {
			return c
		}
		c.close()
	}
	return nil
}

// put keeps c, which must have nothing unread.
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

// sweep closes what is idle for too long or dead, and comes again as long as anything is left.
func (p *pool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = slices.DeleteFunc(p.conns, func(c *conn) bool {
		dead := p.closed || time.Since(c.idle) >= idleLimit || !c.quiet()
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

// close closes all connections, and those that come later.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.sweep()
}
