package server

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/relay"
)

const (
	maxHead     = 256 << 10 // of a request, in bytes
	firstBuffer = 4 << 10   // holds the heads of ordinary clients
	maxUnread   = 256 << 10 // of a refused request's body, read for the next request's sake

	// lingerTimeout is how long a client that was refused may take to read it.
	lingerTimeout = time.Second
)

// conn is a client's connection. All but nc, ctx, state and the closing belong
// to the goroutine of serve, and to the one that copies the body upwards while
// serve waits for it.
type conn struct {
	nc     net.Conn
	server *Server
	ctx    context.Context // ends when the client leaves
	cancel context.CancelFunc
	state  atomic.Int32 // fresh, waiting, busy or dropped
	once   sync.Once    // of close
	gone   sync.Once    // of leave
	watch  uint64       // the watcher's name for it; 0 if it is not watched

	visitor *policy.Visitor // nil where everybody is admitted
	denial  *policy.Denial  // of the connection; nil if it may send requests
	served  bool            // a request
	in      *input          // nil while nothing is there that was not used
	body    body
	out     responseWriter
	entry   audit.Entry // of the current exchange
}

const (
	fresh   = int32(iota) // no request has come yet
	waiting               // for another request, or for the rest of its head
	busy                  // with a request, until its answer has been sent
	dropped               // by a drain
)

// input is what was read from the client: buf[used:] is not used yet. It comes
// from a pool, and goes back there while a connection idles or streams.
type input struct {
	buf  []byte
	used int
	req  http1.Request

	headless bool // the head of req is not in buf, but in an array before it
}

var inputs = sync.Pool{New: func() any { return &input{buf: make([]byte, 0, firstBuffer)} }}

// serve answers request after request until one of them ends the connection.
func (c *conn) serve() {
	defer c.close()
	defer c.leave()
	if c.denial != nil {
		c.deny()
		return
	}
	for c.readHead() == nil {
		if c.exchange() != nil || !c.server.resume(c) {
			return
		}
	}
}

// deny answers the first request, whatever it is, or a client that sends none.
// It waits for the method: the response to a HEAD has no body.
func (c *conn) deny() {
	c.nc.SetReadDeadline(time.Now().Add(lingerTimeout))
	for c.unused() < len("HEAD ") && c.readMore() == nil {
	}
	if c.turnBusy() {
		c.dismiss(func() error { return c.server.cfg.Proxy.Deny(&c.out, c.denial) })
	}
}

// turnBusy fails if a drain has dropped the connection.
func (c *conn) turnBusy() bool {
	return c.state.CompareAndSwap(waiting, busy) || c.state.CompareAndSwap(fresh, busy)
}

// dismiss gives the last answer, to what is no request.
func (c *conn) dismiss(answer func() error) {
	c.out.begin(c, true)
	c.record()
	err := answer()
	if err == nil {
		err = c.out.finish()
	}
	c.report()
	if err == nil {
		c.linger()
	}
}

// record begins the record of an exchange.
func (c *conn) record() {
	c.entry = audit.Entry{Time: time.Now(), Caller: c.entry.Caller}
	if o := c.server.observer; o != nil {
		o.Begin()
	}
}

// report hands in the record.
func (c *conn) report() {
	if o := c.server.observer; o != nil {
		c.entry.Duration = time.Since(c.entry.Time)
		o.End(&c.entry)
	}
}

// readHead reads until a whole head is there and turns busy. What is wrong with
// a head is answered here.
func (c *conn) readHead() error {
	c.recycle()
	patience := c.server.cfg.IdleTimeout
	if !c.served {
		patience = c.server.cfg.HeadTimeout
	}
	c.nc.SetReadDeadline(time.Now().Add(patience))
	for seen, limited := 0, false; ; {
		end, err := c.findHead(seen)
		switch {
		case err != nil:
			return c.refuse(err)
		case end > 0:
			return c.begin(end)
		}
		if seen = c.unused(); seen > 0 && !limited {
			limited = true
			c.nc.SetReadDeadline(time.Now().Add(c.server.cfg.HeadTimeout))
		}
		if err := c.readMore(); err != nil {
			return c.giveUp(err)
		}
		if seen == 0 {
			c.skipBlankLines()
		}
	}
}

// findHead returns the length of the head that is there, parsed, or 0.
func (c *conn) findHead(seen int) (end int, err error) {
	if c.in == nil {
		return 0, nil
	}
	if end, err = http1.HeadEnd(c.in.buf, seen); end > 0 {
		return end, c.in.req.Parse(c.in.buf[:end])
	}
	if err == nil && len(c.in.buf) >= maxHead {
		err = &http1.Error{Status: 431, Reason: "it is larger than 256 KiB"}
	}
	return 0, err
}

// unused is how many bytes were read and not used.
func (c *conn) unused() int {
	if c.in == nil {
		return 0
	}
	return len(c.in.buf) - c.in.used
}

// recycle drops the message before, and keeps what came behind it.
func (c *conn) recycle() {
	if c.unused() == 0 {
		c.releaseInput()
		return
	}
	c.in.buf = c.in.buf[:copy(c.in.buf, c.in.buf[c.in.used:])]
	c.in.used = 0
	c.skipBlankLines()
}

// releaseInput gives the buffer back. Nothing may point into it.
func (c *conn) releaseInput() {
	if c.in == nil {
		return
	}
	if cap(c.in.buf) == firstBuffer {
		c.in.buf, c.in.used = c.in.buf[:0], 0
		inputs.Put(c.in)
	}
	c.in = nil
}

// skipBlankLines drops line ends in front of a request line (RFC 9112, section
// 2.2): some clients send one behind a body.
func (c *conn) skipBlankLines() {
	b := c.in.buf
	for len(b) > 1 && b[0] == '\r' && b[1] == '\n' {
		b = b[2:]
	}
	c.in.buf = c.in.buf[:copy(c.in.buf, b)]
}

// readMore appends to the buffer what one read gives.
func (c *conn) readMore() error {
	if c.in == nil {
		c.in = inputs.Get().(*input)
	}
	b := c.in.buf
	if len(b) == cap(b) {
		b = append(make([]byte, 0, 4*cap(b)), b...) // in few steps: each leaves garbage behind
	}
	n, err := c.nc.Read(b[len(b):cap(b)])
	c.in.buf = b[:len(b)+n]
	if n > 0 {
		return nil
	}
	return err
}

// begin turns busy with the request whose head is the buffer's first end bytes.
func (c *conn) begin(end int) error {
	if !c.turnBusy() {
		return io.EOF // a drain was faster
	}
	c.served = true
	c.record()
	c.in.used, c.in.headless = end, false
	c.body.begin(c)
	c.out.begin(c, c.in.req.Close)
	return nil
}

// refuse answers a head that is none, and ends the connection.
func (c *conn) refuse(err error) error {
	var e *http1.Error
	if errors.As(err, &e) && c.turnBusy() {
		c.dismiss(func() error { return c.server.cfg.Proxy.RefuseSyntax(&c.out, e) })
	}
	return err
}

// giveUp ends a connection on which no head came.
func (c *conn) giveUp(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && c.unused() > 0 {
		return c.refuse(&http1.Error{Status: 408, Reason: "the head did not arrive in time"})
	}
	return err
}

// exchange has the proxy answer the request. An error means that the
// connection must end.
func (c *conn) exchange() error {
	err := c.server.guarded(func() error {
		return c.server.cfg.Proxy.Serve(c.ctx, &relay.Request{Head: &c.in.req, Body: &c.body, Visitor: c.visitor}, &c.out)
	})
	if errors.Is(err, errPanic) && !c.out.begun {
		c.out.last = true
		err = c.server.cfg.Proxy.Refuse(&c.out, relay.InternalError, "")
	}
	if err == nil {
		err = c.out.finish()
	}
	if err != nil {
		c.out.flushPending() // what came before the cut is the client's; the cut counts more than an error here
		c.reset()
	}
	c.report()
	switch {
	case c.out.line != nil:
		c.linger() // also over a cut: what came before it is the client's
		err = io.EOF
	case err != nil:
	case c.out.last && c.body.complete() && c.unused() == 0:
		err = io.EOF
	case c.out.last:
		c.linger()
		err = io.EOF
	case !c.body.complete():
		err = c.body.discard()
	}
	return err
}

// linger lets the client read the answer before the connection is reset over
// what it has sent and nobody will read (RFC 9112, section 9.6).
func (c *conn) linger() {
	if half, ok := c.nc.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
		return
	}
	c.releaseInput()
	c.nc.SetReadDeadline(time.Now().Add(lingerTimeout))
	io.CopyN(io.Discard, c.nc, maxUnread) // whatever comes, the connection ends
}

// reset makes the closing an error at the client where the answer's framing
// would let a cut answer look complete: where it ends with the connection.
func (c *conn) reset() {
	if tcp, ok := c.nc.(interface{ SetLinger(int) error }); ok && c.out.begun && c.out.framing == untilClose {
		tcp.SetLinger(0) // best effort: closing is all that can be done else
	}
}

// abandon cuts the connection from outside: it closes the socket, which ends
// whatever serve waits for.
func (c *conn) abandon() {
	c.cancel()
	c.nc.Close()
}

// leave gives up the connection's socket, and its place among its user's. The
// request may go on without its client.
func (c *conn) leave() {
	c.gone.Do(func() {
		c.nc.Close()
		c.visitor.Leave()
	})
}

// close ends the connection for good.
func (c *conn) close() {
	c.once.Do(func() {
		c.cancel()
		c.server.remove(c)
		c.nc.Close()
		c.releaseInput()
	})
}
