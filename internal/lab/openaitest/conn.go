package openaitest

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

const (
	maxHead = 1 << 20
	// maxAhead bounds what is received while a response waits, so that a slow reader is felt.
	maxAhead = 64 << 10
)

// A Conn is one connection and the head of the request that is served, which is valid until more is received. One
// goroutine serves it; while that one sleeps it receives, so that the peer's leaving is noticed at once.
type Conn struct {
	http1.Request
	s      *Server
	raw    *net.TCPConn
	nc     transport   // raw, or TLS over it once that stands
	origin Request     // what the records of all requests have in common
	closed atomic.Bool // by us

	mu   sync.Mutex
	busy bool // a part of a request is there, or its response is not whole

	in   []byte // what was received
	used int    // how much of that was consumed
	body http1.Body
	cur  *Request // the last request's record
}

// A transport is TCP, or TLS over it.
type transport interface {
	net.Conn
	CloseWrite() error
}

func (c *Conn) run() {
	defer c.shut()
	if c.s.tls != nil && !c.handshake() {
		return
	}
	for c.next() && c.serve() {
	}
}

// connKey is the key of the Conn in a handshake's context.
type connKey struct{}

func (c *Conn) handshake() bool {
	t := tls.Server(c.raw, c.s.tls)
	if t.HandshakeContext(context.WithValue(context.Background(), connKey{}, c)) != nil {
		return false
	}
	state := t.ConnectionState()
	c.origin.TLS = &state
	c.mu.Lock() // closeIdle may use nc
	defer c.mu.Unlock()
	c.nc = t
	return true
}

// Buffered implements http1.Input.
func (c *Conn) Buffered() []byte { return c.in[c.used:] }

// Consume implements http1.Input.
func (c *Conn) Consume(n int) { c.used += n }

// Fill implements http1.Input.
func (c *Conn) Fill() error {
	c.in, c.used = c.in[:copy(c.in, c.Buffered())], 0
	return c.noteEnd(c.receive(16 << 10))
}

// receive adds to the buffer, with space for n bytes, and moves nothing of it.
func (c *Conn) receive(n int) error {
	c.in = slices.Grow(c.in, n)
	n, err := c.nc.Read(c.in[len(c.in):cap(c.in)])
	c.in = c.in[:len(c.in)+n]
	return err
}

// noteEnd closes the request's gone channel if a Read or Write failed before its response was whole.
func (c *Conn) noteEnd(err error) error {
	if r := c.cur; err != nil && r != nil && !c.closed.Load() && !isClosed(r.answered) && !isClosed(r.gone) {
		close(r.gone)
	}
	return err
}

// Read implements io.Reader, for what follows a request's head and body.
func (c *Conn) Read(p []byte) (int, error) {
	if len(c.Buffered()) == 0 {
		if err := c.Fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.Buffered())
	c.Consume(n)
	return n, nil
}

// Write sends p, as a part of a response.
func (c *Conn) Write(p []byte) (int, error) { return c.nc.Write(p) }

// Body returns the next piece of the request's body, as http1.Body.Next does, after 100 Continue if the client waits
// for that.
func (c *Conn) Body() ([]byte, error) {
	if c.Continue {
		c.Continue = false
		io.WriteString(c.nc, "HTTP/1.1 100 Continue\r\n\r\n")
	}
	return c.body.Next(c)
}

const forever = math.MaxInt64

// sleep reports whether d went by with both sides still there. It receives meanwhile, but leaves the buffer where it
// is: parts of it are in use. A time-out of a Read ends neither TCP nor TLS.
func (c *Conn) sleep(d time.Duration) bool {
	until := time.Now().Add(d)
	c.nc.SetReadDeadline(until)
	defer c.nc.SetReadDeadline(time.Time{})
	for len(c.Buffered()) < maxAhead {
		err := c.receive(4 << 10)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return true
		}
		if c.noteEnd(err) != nil {
			return false
		}
	}
	select {
	case <-time.After(time.Until(until)):
		return true
	case <-c.s.done.Done():
		return false
	}
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
func (c *Conn) shut() {
	c.closed.Store(true)
	c.nc.Close()
}

// abort closes as a process does that dies: FIN, and no alert from TLS.
func (c *Conn) abort() {
	c.closed.Store(true)
	c.raw.Close()
}

// linger ends the response but lets the peer finish sending, for a second: a close with unread bytes would reset the
// connection and destroy the response.
func (c *Conn) linger() {
	c.closed.Store(true)
	c.nc.CloseWrite()
	c.nc.SetReadDeadline(time.Now().Add(time.Second))
	io.Copy(io.Discard, c)
}

// next waits for a request's first byte and reports whether there is one.
func (c *Conn) next() bool {
	if len(c.Buffered()) == 0 {
		c.setBusy(false)
		if c.Fill() != nil {
			return false
		}
		c.setBusy(true)
	}
	return true
}

func (c *Conn) setBusy(busy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = busy
}

// closeIdle closes the connection if it waits for a request of which nothing is there.
func (c *Conn) closeIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.busy {
		c.shut()
	}
}

// serve serves one request and reports whether another may follow.
func (c *Conn) serve() bool {
	head, err := http1.ReadHead(c, maxHead)
	if err == nil {
		err = c.Parse(head)
	}
	if err == nil {
		c.body.Begin(c.Length)
		if c.s.opts.Serve != nil {
			return c.s.opts.Serve(c) == nil && c.body.Done() && !c.Close
		}
	}
	var fault string
	malformed, is := errors.AsType[*http1.Error](err)
	switch {
	case is:
		fault = malformed.Reason
		c.Request = http1.Request{}
	case err != nil:
		c.s.fault("connection closed in the middle of a head")
		return false
	}
	if head == nil {
		head = c.Buffered()
	}
	x := &exchange{c: c, r: c.record(head)}
	defer x.r.settle()
	switch {
	case fault != "":
	case c.Minor != 1:
		fault = "version HTTP/1.0"
	case len(x.r.Values("Authorization")) > 1:
		fault = "more than one Authorization"
	case !c.s.opts.Forget:
		fault = disagreement(head, &c.Request)
	}
	if fault != "" {
		x.malformed(fault)
		return false
	}
	return x.conclude(x.respond())
}
