package openaitest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A conn is one connection. Two goroutines serve it: pump always reads, so that
// the peer's leaving is noticed at once; run parses and responds.
type conn struct {
	s      *Server
	raw    net.Conn
	nc     net.Conn // raw, or TLS over it once that stands
	number int
	state  *tls.ConnectionState
	alpn   []string
	closed atomic.Bool   // by us
	ended  chan struct{} // closed when run ends

	in   chan []byte   // what pump has read; bounded, so that a slow reader is felt
	rest []byte        // of the last piece
	br   *bufio.Reader // of the conn itself, for run

	mu    sync.Mutex
	cur   *Request // the last request
	begun bool     // a part of another request has been read
	left  bool     // by the peer
}

func newConn(s *Server, raw net.Conn) *conn {
	c := &conn{s: s, raw: raw, nc: raw, ended: make(chan struct{}), in: make(chan []byte, 4)}
	c.br = bufio.NewReader(c)
	return c
}

func (c *conn) run() {
	defer c.shut()
	defer close(c.ended)
	if c.s.tls != nil && !c.handshake() {
		return
	}
	c.s.wg.Go(c.pump)
	for c.serve() {
	}
}

func (c *conn) handshake() bool {
	config := c.s.tls.Clone()
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c.alpn = slices.Clone(hello.SupportedProtos)
		return nil, nil
	}
	t := tls.Server(c.raw, config)
	if t.Handshake() != nil {
		return false
	}
	state := t.ConnectionState()
	c.nc, c.state = t, &state
	return true
}

func (c *conn) pump() {
	defer close(c.in)
	p := make([]byte, 16<<10)
	for {
		n, err := c.nc.Read(p)
		if err != nil {
			c.peerLeft()
		}
		select {
		case c.in <- bytes.Clone(p[:n]):
		case <-c.ended:
			return
		}
		if err != nil {
			return
		}
	}
}

// Read implements io.Reader for br.
func (c *conn) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		var ok bool
		if c.rest, ok = <-c.in; !ok {
			return 0, io.EOF
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// peerLeft waits for a response's last write to end: the peer may leave as soon
// as it has read that, before finish has marked it.
func (c *conn) peerLeft() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = true
	c.markGone()
}

func (c *conn) hasLeft() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.left
}

// markGone needs c.mu.
func (c *conn) markGone() {
	if r := c.cur; r != nil && c.left && !c.closed.Load() && !isClosed(r.answered) && !isClosed(r.gone) {
		close(r.gone)
	}
}

// begin makes r the current request.
func (c *conn) begin(r *Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cur, c.begun = r, false
	c.markGone()
}

// idle reports whether the connection waits for a request of which nothing is
// there.
func (c *conn) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.begun && len(c.in) == 0 && (c.cur == nil || isClosed(c.cur.answered) && isClosed(c.cur.bodyDone))
}

// await waits for a request's first byte and reports whether there is one.
func (c *conn) await() bool {
	_, err := c.br.Peek(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun = true
	return err == nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// shut closes the connection in order: with TLS it sends close_notify first.
func (c *conn) shut() {
	c.closed.Store(true)
	c.nc.Close()
}

// abort closes as a process does that dies: FIN, and no alert from TLS.
func (c *conn) abort() {
	c.closed.Store(true)
	c.raw.Close()
}

func (c *conn) reset() {
	if t, ok := c.raw.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.abort()
}

// linger ends the response but lets the peer finish sending, for a second: a
// close with unread bytes would reset the connection and destroy the response.
func (c *conn) linger() {
	c.closed.Store(true)
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	t := time.AfterFunc(time.Second, c.abort)
	defer t.Stop()
	io.Copy(io.Discard, c.br)
}

// serve handles one request and reports whether another may follow.
func (c *conn) serve() bool {
	if !c.await() {
		return false
	}
	head, err := c.readHead()
	switch {
	case errors.Is(err, errHeadTooLong):
		c.s.fault(err.Error())
		return false
	case err != nil:
		c.s.fault("connection closed in the middle of a head")
		return false
	}
	r, faults := parseHead(head)
	r.Conn, r.TLS, r.ALPN = c.number, c.state, c.alpn
	c.begin(r)
	c.s.record(r, faults)
	defer r.settle()
	x := &exchange{c: c, r: r}
	if len(faults) > 0 {
		x.malformed(faults[0])
		return false
	}
	return x.conclude(x.respond())
}

const forever = math.MaxInt64

// sleep reports whether d went by with both sides still there.
func (c *conn) sleep(r *Request, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.gone:
	case <-c.s.done:
	}
	return false
}
