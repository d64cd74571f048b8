package openaitest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// A conn is one connection. Two goroutines serve it: pump always reads, so
// that a peer's leaving is noticed at once; run parses and answers.
type conn struct {
	s      *Server
	raw    net.Conn
	nc     net.Conn // raw, or TLS over it once that stands; guarded by mu until pump runs
	number int
	state  *tls.ConnectionState
	alpn   []string
	in     *inbox

	mu      sync.Mutex
	cur     *Request // the last request
	waiting bool     // for a request: none yet, or the last is answered and read
	closed  bool     // by us
	left    bool     // by the peer
}

func newConn(s *Server, raw net.Conn) *conn {
	return &conn{s: s, raw: raw, nc: raw, in: newInbox(), waiting: true}
}

func (c *conn) run() {
	defer c.s.farewell(c)
	defer c.shut()
	if !c.handshake() {
		return
	}
	c.s.wg.Go(c.pump)
	defer c.in.discard()
	for c.serve() {
	}
}

func (c *conn) handshake() bool {
	if c.s.tls == nil {
		return true
	}
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
	c.state = &state
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nc = t
	return true
}

func (c *conn) pump() {
	p := make([]byte, 16<<10)
	for {
		n, err := c.nc.Read(p)
		if err != nil {
			c.peerLeft()
		}
		c.in.put(p[:n], err)
		if err != nil {
			return
		}
	}
}

// peerLeft waits for an answer's last write to end: the peer may leave as soon
// as it has read that, before we know that it is written.
func (c *conn) peerLeft() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = true
	c.markGone()
}

// markGone needs c.mu.
func (c *conn) markGone() {
	if r := c.cur; r != nil && c.left && !c.closed && !r.isAnswered && !r.isGone {
		r.isGone = true
		close(r.gone)
	}
}

// begin makes r the request being answered.
func (c *conn) begin(r *Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cur = r
	c.markGone()
}

func (c *conn) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting && c.in.empty()
}

func (c *conn) setWaiting(to bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = to
}

// await reports whether a request begins.
func (c *conn) await() bool {
	c.setWaiting(true)
	if d := c.s.opts.IdleTimeout; d > 0 {
		t := time.AfterFunc(d, func() {
			if c.idle() {
				c.shut()
			}
		})
		defer t.Stop()
	}
	ok := c.in.wait()
	c.setWaiting(false)
	return ok
}

func (c *conn) closing() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.nc
}

// shut closes in good order: with TLS it says so first.
func (c *conn) shut() { c.closing().Close() }

// abort closes as a process does that dies: FIN, and no word from TLS.
func (c *conn) abort() {
	c.closing()
	c.raw.Close()
}

func (c *conn) reset() {
	c.closing()
	if t, ok := c.raw.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.raw.Close()
}

// linger ends the answer but lets the peer finish talking, for a second: a
// close with unread bytes would reset the connection and destroy the answer.
func (c *conn) linger() {
	half, ok := c.closing().(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	t := time.AfterFunc(time.Second, c.abort)
	defer t.Stop()
	io.Copy(io.Discard, c.in)
}

// serve handles one request and reports whether another may follow.
func (c *conn) serve() bool {
	if !c.await() {
		return false
	}
	head, err := c.readHead()
	if err != nil {
		c.headFailed(err)
		return false
	}
	r, faults := parseHead(head)
	r.Conn, r.Remote, r.TLS, r.ALPN = c.number, c.raw.RemoteAddr().String(), c.state, c.alpn
	for _, f := range faults {
		c.s.fault(f)
	}
	c.begin(r)
	c.s.record(r)
	defer r.settle()
	x := &exchange{c: c, r: r}
	if len(faults) > 0 {
		x.malformed(faults[0])
		return false
	}
	return x.conclude(x.play())
}

func (c *conn) headFailed(err error) {
	switch {
	case errors.Is(err, errHeadTooLong):
		c.s.fault(err.Error())
	case errors.Is(err, io.EOF):
		c.s.fault("connection closed in the middle of a head")
	}
}

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

// hold waits until the peer leaves.
func (c *conn) hold(r *Request) {
	select {
	case <-r.gone:
	case <-c.s.done:
	}
}

// maxInbox bounds what is read ahead, so that a slow reader is felt.
const maxInbox = 64 << 10

// An inbox holds what was read but not used.
type inbox struct {
	mu     sync.Mutex
	change sync.Cond
	buf    bytes.Buffer
	err    error
	drop   bool
}

func newInbox() *inbox {
	in := &inbox{}
	in.change.L = &in.mu
	return in
}

// put adds p, when there is room, and an error that ends everything.
func (in *inbox) put(p []byte, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.buf.Len() >= maxInbox && !in.drop {
		in.change.Wait()
	}
	if !in.drop {
		in.buf.Write(p)
	}
	in.err = err
	in.change.Broadcast()
}

// discard lets put go on when nobody reads any more.
func (in *inbox) discard() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.drop = true
	in.change.Broadcast()
}

func (in *inbox) empty() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.buf.Len() == 0
}

// wait reports whether there is something to read.
func (in *inbox) wait() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.block()
}

// block needs in.mu.
func (in *inbox) block() bool {
	for in.buf.Len() == 0 && in.err == nil {
		in.change.Wait()
	}
	return in.buf.Len() > 0
}

// Read implements io.Reader.
func (in *inbox) Read(p []byte) (int, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.block() {
		return 0, in.err
	}
	defer in.change.Broadcast()
	return in.buf.Read(p)
}

// line appends to dst up to and including the next LF, or as much as is there.
func (in *inbox) line(dst []byte) ([]byte, bool, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.block() {
		return dst, false, in.err
	}
	defer in.change.Broadcast()
	n := bytes.IndexByte(in.buf.Bytes(), '\n') + 1
	if n == 0 {
		return append(dst, in.buf.Next(in.buf.Len())...), false, nil
	}
	return append(dst, in.buf.Next(n)...), true, nil
}
