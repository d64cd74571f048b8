package server

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/socket"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/relay"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

const (
	maxHead     = 256 << 10 // of a request, in bytes
	firstBuffer = 4 << 10   // holds the heads of ordinary clients
	maxUnread   = 256 << 10 // of a refused request's body, read for the next request's sake

	// lingerTimeout is how long a client that was refused may take to read it.
	lingerTimeout = time.Second
)

// conn is a client's connection. All but nc, ctx, state and the closing belong to the goroutine of serve, and to the
// one that copies the body upwards while serve waits for it.
type conn struct {
	nc     net.Conn
	rw     *socket.Conn // of nc
	server *Server
	ctx    *clientContext
	state  atomic.Int32 // fresh, waiting, busy or dropped
	id     uint64       // its number among the server's connections

	session *policy.Session
	in      *input    // nil while nothing is there that was not used
	limited bool      // HeadTimeout runs for the head that is being read
	expires time.Time // when reads fail
	request relay.Request
	body    body
	out     responseWriter

	// mu guards what both goroutines use at the same time: request.Entry.Status, expires, and the body's state.
	mu sync.Mutex
}

const (
	fresh   = int32(iota) // no request has come yet
	waiting               // for the rest of a refused body, for another request, or for the rest of its head
	busy                  // with a request, until its response has been sent
	dropped               // by a drain
)

// input is what was read from the client: buf[used:] is not used yet. It comes from a pool, and goes back there while a
// connection idles or streams.
type input struct {
	buf  []byte
	used int
	req  http1.Request // its head may lie in an array that buf has outgrown
}

// poison is called with memory that no one may read any more, before it is used again. It is nil but in tests.
var poison func(b []byte)

var inputs = sync.Pool{New: func() any { return &input{buf: make([]byte, 0, firstBuffer)} }}

// serve responds to request after request until one of them ends the connection.
func (c *conn) serve() {
	defer c.close()
	if denial := c.session.Denial(); denial != nil {
		c.deny(denial)
		return
	}
	for c.readHead() == nil && c.exchange() == nil {
	}
}

// deny responds to the first request, whatever it is, or a client that sends none. It waits for the method: the
// response to a HEAD has no body.
func (c *conn) deny(denial *apierror.Error) {
	c.limitReads(lingerTimeout)
	for c.unused() < len("HEAD ") && c.readMore() == nil {
	}
	if !c.turnBusy() {
		return
	}
	var head *http1.Request // for the log, if all of it is there already
	if end, err := http1.HeadEnd(c.Buffered(), 0); err == nil && end > 0 && c.in.req.Parse(c.Buffered()[:end]) == nil {
		head = &c.in.req
	}
	c.respondAndClose(head, denial)
}

// turnBusy fails if a drain has dropped the connection.
func (c *conn) turnBusy() bool {
	return c.state.CompareAndSwap(waiting, busy) || c.state.CompareAndSwap(fresh, busy)
}

// respondAndClose sends the last response, to a request whose head is nil if it is incomplete or malformed.
func (c *conn) respondAndClose(head *http1.Request, e *apierror.Error) {
	c.begin(head, 1, bytes.HasPrefix(c.Buffered(), []byte("HEAD ")), true)
	if c.respond(func() error { return c.server.cfg.Relay.Refuse(&c.request, &c.out, e) }) == nil {
		c.releaseInput()
		linger(c.nc)
	}
}

// begin begins an exchange with an HTTP/1.minor client, and its record. isHead reports whether the request is a HEAD, and
// last whether the response ends the connection.
func (c *conn) begin(head *http1.Request, minor int, isHead, last bool) {
	c.request = relay.Request{Head: head, Body: &c.body, Buffer: c, Session: c.session}
	c.request.Entry.Time, c.request.Entry.Caller = time.Now(), c.session.Caller()
	c.out.c, c.out.minor, c.out.head, c.out.closeAfter, c.out.hijacked = c, minor, isHead, last, false
}

// respond has write respond to the request, sends the rest of the response, unless an error ends it, and ends the
// exchange, also after a panic.
func (c *conn) respond(write func() error) error {
	c.server.Running.Add(1)
	failure := apierror.InternalError // a panic
	defer func() { c.end(failure) }()
	err := write()
	if err == nil {
		err = c.out.finish()
	}
	failure = ""
	if err != nil {
		failure = apierror.ClientLeft // before the last write
		c.out.Flush()                 // what came before the cut is the client's; the cut counts more than an error here
	}
	return err
}

// end counts the exchange off and hands over its record: no other place does either. failure is the record's code if
// it has none so far.
func (c *conn) end(failure apierror.Code) {
	c.server.Running.Add(-1)
	c.request.Entry.Code = cmp.Or(c.request.Entry.Code, string(failure))
	if f := c.server.cfg.Observe; f != nil {
		c.request.Entry.Duration = time.Since(c.request.Entry.Time)
		f(&c.request.Entry)
	}
}

// readHead reads until a whole head is there and turns busy. It responds itself to what is wrong with a head.
func (c *conn) readHead() error {
	c.ReleaseHead()
	timeout := c.server.cfg.IdleTimeout
	if c.state.Load() == fresh {
		timeout = c.server.cfg.HeadTimeout
	}
	c.limitReads(timeout)
	c.limited = false
	head, err := http1.ReadHead(c, maxHead)
	for err == nil && len(head) == len("\r\n") { // a blank line: some clients send one behind a body (RFC 9112, section 2.2)
		head, err = http1.ReadHead(c, maxHead)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && c.unused() > 0 {
		err = &http1.Error{Status: 408, Reason: "the head did not arrive in time"}
	}
	if err == nil {
		if err = c.in.req.Parse(head); err != nil {
			c.in.used -= len(head) // a malformed head is unread
		}
	}
	if malformed, ok := errors.AsType[*http1.Error](err); ok && c.turnBusy() {
		c.respondAndClose(nil, apierror.OfHead(malformed))
	}
	if err == nil && !c.turnBusy() {
		err = io.EOF // a drain was faster
	}
	return err
}

// Buffered and Consume are http1.Input's.
func (c *conn) Buffered() []byte {
	if c.in == nil {
		return nil
	}
	return c.in.buf[c.in.used:]
}

// Consume drops n bytes.
func (c *conn) Consume(n int) { c.in.used += n }

// Fill is http1.Input's, for a head. From its first byte on the head has HeadTimeout to arrive.
func (c *conn) Fill() error {
	if c.unused() > 0 && !c.limited {
		c.limited = true
		c.limitReads(c.server.cfg.HeadTimeout)
	}
	c.ReleaseHead()
	return c.readMore()
}

// limitReads lets reads fail after timeout, or up to a 256th of it earlier: to set a deadline for each request costs more
// than to read the clock.
func (c *conn) limitReads(timeout time.Duration) {
	at := time.Now().Add(timeout)
	if late := at.Sub(c.expires); late < 0 || late > timeout/256 {
		c.expires = at
		c.nc.SetReadDeadline(at)
	}
}

// unused is how many bytes were read and not used.
func (c *conn) unused() int { return len(c.Buffered()) }

// ReleaseHead drops what was used, which no one may read any more, and keeps what came behind it: it is for relay.Request's
// Buffer. While the client waits for its response the memory of the head, which may be large, serves others.
func (c *conn) ReleaseHead() {
	var kept *input
	if rest := c.Buffered(); len(rest) > 0 {
		if c.in.used == 0 {
			return
		}
		kept = inputs.Get().(*input)
		kept.buf = append(kept.buf, rest...)
	}
	c.releaseInput()
	c.in = kept
}

// releaseInput gives the buffer back. Nothing may point into it.
func (c *conn) releaseInput() {
	if c.in == nil {
		return
	}
	if poison != nil {
		poison(c.in.buf[:cap(c.in.buf)])
	}
	if cap(c.in.buf) == firstBuffer {
		c.in.buf, c.in.used = c.in.buf[:0], 0
		inputs.Put(c.in)
	}
	c.in = nil
}

// takeInput makes sure that there is a buffer.
func (c *conn) takeInput() {
	if c.in == nil {
		c.in = inputs.Get().(*input)
	}
}

// readMore appends to the buffer what one read gives.
func (c *conn) readMore() error {
	c.takeInput()
	b := c.in.buf
	if len(b) == cap(b) {
		b = append(make([]byte, 0, 4*cap(b)), b...) // in few steps: each leaves garbage behind
	}
	n, err := c.rw.Read(b[len(b):cap(b)])
	c.in.buf = b[:len(b)+n]
	if n > 0 {
		return nil
	}
	return err
}

// exchange has the relay respond to the request. An error means that the connection must end.
func (c *conn) exchange() error {
	c.begin(&c.in.req, c.in.req.Minor, string(c.in.req.Method) == "HEAD", c.in.req.Close)
	c.body.begin(c)
	err := c.respond(c.serveRequest)
	if err != nil && !c.out.hijacked { // what came before the cut of a WebSocket is the client's
		return err
	}
	if !c.out.closeAfter {
		c.state.Store(waiting)
		// After Store: Drain, once it has begun, closes connections that wait.
		if !c.server.isDraining() && c.body.discard() == nil {
			return nil
		}
	}
	c.releaseInput()
	linger(c.nc)
	return io.EOF
}

// serveRequest has the relay respond, and refuses the request after a panic, unless a response has begun.
func (c *conn) serveRequest() (err error) {
	if !guarded(c.server.cfg.Log, func() { err = c.server.cfg.Relay.Serve(c.ctx, &c.request, &c.out) }) {
		return err
	}
	if c.request.Entry.Status != 0 {
		c.request.Entry.Code = string(apierror.InternalError)
		return relay.ErrAbort
	}
	c.out.closeAfter = true
	return c.server.cfg.Relay.Refuse(&c.request, &c.out, apierror.New(apierror.InternalError, ""))
}

// linger lets the client read the response before the connection is reset because of unread data from the client (RFC
// 9112, section 9.6).
func linger(nc net.Conn) {
	if half, ok := nc.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		nc.SetReadDeadline(time.Now().Add(lingerTimeout))
		io.CopyN(io.Discard, nc, maxUnread) // whatever comes, the connection ends
	}
}

// setLinger is (*net.TCPConn).SetLinger: 0 makes the closing of nc an error at the client, and leaves nothing in the
// kernel; -1 undoes that. A unix socket has nothing like it. If it fails, closing is all that can be done.
func setLinger(nc net.Conn, seconds int) {
	if tcp, ok := nc.(interface{ SetLinger(int) error }); ok {
		tcp.SetLinger(seconds)
	}
}

// forceClose closes the socket from another goroutine, which ends any wait of serve.
func (c *conn) forceClose() {
	c.ctx.cancel()
	c.nc.Close()
}

// leave gives up the connection's socket, and its place among its user's. The request may go on without its client.
// Further calls do nothing.
func (c *conn) leave() {
	c.nc.Close()
	c.session.Close()
}

// close ends the connection for good.
func (c *conn) close() {
	c.leave()
	c.ctx.cancel()
	c.server.remove(c)
	c.releaseInput()
}
