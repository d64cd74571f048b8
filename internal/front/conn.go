package front

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
)

const (
	// MaxHead is the largest request head that is read, in bytes.
	MaxHead = 256 << 10
	// maxAhead is how much a client may send behind a request that has not
	// been answered yet, in bytes.
	maxAhead = 64 << 10
	// firstBuffer holds the heads of ordinary clients.
	firstBuffer = 4 << 10
)

// conn stands between the socket and net/http. It reads heads with our own
// strict parser, and lets net/http see a head only once it is complete and
// beyond reproach, and never a byte beyond the end of the message that it
// belongs to. net/http thus cannot see another message than the one that the
// rules were applied to.
type conn struct {
	net.Conn
	engine *Engine

	// All below belong to the goroutine that reads: net/http has one at a
	// time, and hands over between them.
	buf     []byte // head being read, or handed on; then what came behind it
	used    int    // of buf, already given to net/http
	end     int    // of the head in buf; 0 while it is not complete
	req     http1.Request
	left    int64 // body bytes still to come; http1.Chunked: ask decoder
	decoder http1.Decoder

	state atomic.Int32 // waiting, busy or dropped
	once  sync.Once    // of Close
}

const (
	waiting = int32(iota) // for a request, or for the rest of its head
	busy                  // with a request, until its answer has been sent
	dropped               // by a drain
)

// Read gives net/http the current message, and nothing behind it.
func (c *conn) Read(p []byte) (int, error) {
	if c.state.Load() == busy {
		if c.used < c.end {
			return c.handOn(p, c.buf[c.used:c.end]), nil
		}
		if c.complete() {
			return 0, c.watch()
		}
		return c.readBody(p)
	}
	if err := c.readHead(); err != nil {
		return 0, err
	}
	return c.handOn(p, c.buf[:c.end]), nil
}

func (c *conn) handOn(p, from []byte) int {
	n := copy(p, from)
	c.used += n
	return n
}

// readHead reads until a whole head is there and turns busy. Whatever is wrong
// with the head is answered here.
func (c *conn) readHead() error {
	c.forget()
	limited := false
	for seen := 0; ; {
		end, err := http1.HeadEnd(c.buf, seen)
		if err == nil && end == 0 && len(c.buf) >= MaxHead {
			err = &http1.Error{Status: 431, Reason: "the head is too large"}
		}
		if err == nil && end > 0 {
			err = c.req.Parse(c.buf[:end])
		}
		switch {
		case err != nil:
			return c.refuse(err)
		case end > 0:
			return c.begin(end)
		}
		if seen = len(c.buf); seen == 0 {
			c.rest()
		} else if !limited { // net/http lifts the limit with the head's end
			limited = true
			c.SetReadDeadline(time.Now().Add(c.engine.cfg.HeadTimeout))
		}
		if err := c.readMore(); err != nil {
			return c.giveUp(err)
		}
		if seen == 0 {
			c.skipBlankLines()
		}
	}
}

// forget drops the message before, and keeps what came behind it.
func (c *conn) forget() {
	c.buf = c.buf[:copy(c.buf, c.buf[c.used:])]
	c.used, c.end, c.left = 0, 0, 0
	c.decoder = http1.Decoder{}
	c.skipBlankLines()
}

// skipBlankLines drops line ends in front of a request line (RFC 9112, section
// 2.2): some clients send one behind a body.
func (c *conn) skipBlankLines() {
	n := 0
	for n+1 < len(c.buf) && c.buf[n] == '\r' && c.buf[n+1] == '\n' {
		n += 2
	}
	c.buf = c.buf[:copy(c.buf, c.buf[n:])]
}

// rest gives the buffer back while the connection has nothing to do.
func (c *conn) rest() {
	if cap(c.buf) > firstBuffer {
		c.buf = nil
	}
}

// readMore appends to buf what one read gives.
func (c *conn) readMore() error {
	if c.buf == nil {
		c.buf = make([]byte, 0, firstBuffer)
	}
	if len(c.buf) == cap(c.buf) {
		c.buf = append(make([]byte, 0, 2*cap(c.buf)), c.buf...)
	}
	n, err := c.Conn.Read(c.buf[len(c.buf):cap(c.buf)])
	c.buf = c.buf[:len(c.buf)+n]
	if n > 0 {
		return nil
	}
	return err
}

// begin turns busy with the request whose head is buf[:end].
func (c *conn) begin(end int) error {
	if !c.state.CompareAndSwap(waiting, busy) {
		return io.EOF // a drain was faster
	}
	c.end, c.left = end, c.req.Length
	return nil
}

// refuse answers a head that is none, and ends the connection. net/http is told
// that the client has left.
func (c *conn) refuse(err error) error {
	var e *http1.Error
	if errors.As(err, &e) && c.state.CompareAndSwap(waiting, busy) {
		c.engine.refuse(c.Conn, e)
		c.linger()
	}
	return io.EOF
}

// giveUp ends a connection on which no head came.
func (c *conn) giveUp(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && len(c.buf) > 0 {
		return c.refuse(&http1.Error{Status: 408, Reason: "the head did not arrive in time"})
	}
	return err
}

// linger lets the client read the answer before the connection is reset over
// what it has sent and nobody will read (RFC 9112, section 9.6).
func (c *conn) linger() {
	if tcp, ok := c.Conn.(interface{ CloseWrite() error }); !ok || tcp.CloseWrite() != nil {
		return
	}
	c.SetReadDeadline(time.Now().Add(lingerTimeout))
	io.CopyN(io.Discard, c.Conn, maxAhead)
}

// readBody reads into p what belongs to the body.
func (c *conn) readBody(p []byte) (int, error) {
	from := max(c.used, c.end)
	if from < len(c.buf) {
		n, err := c.count(c.buf[from:min(len(c.buf), from+len(p))])
		copy(p, c.buf[from:from+n])
		c.used = from + n
		return n, err
	}
	n, err := c.Conn.Read(p)
	used, bad := c.count(p[:n])
	if used < n { // the next message has begun
		c.keep(p[used:n])
	}
	if bad != nil {
		err = bad
	}
	return used, err
}

// keep puts what was read beyond the message behind the head that is in use.
func (c *conn) keep(p []byte) {
	c.buf = append(c.buf, p...)
}

// count finds out how many bytes of p belong to the body.
func (c *conn) count(p []byte) (int, error) {
	if c.left != http1.Chunked {
		n := min(c.left, int64(len(p)))
		c.left -= n
		return int(n), nil
	}
	n, err := c.decoder.Scan(p)
	if err != nil {
		c.engine.log("malformed_request: " + err.Error())
		return n, io.ErrUnexpectedEOF
	}
	return n, nil
}

// watch is for net/http's reader in the background while a request is being
// answered: it returns only when the client has left, or when net/http calls it
// back by a deadline. What the client sends meanwhile is kept.
func (c *conn) watch() error {
	for {
		if len(c.buf)-max(c.used, c.end) > maxAhead {
			return io.EOF
		}
		if err := c.readMore(); err != nil {
			return err
		}
	}
}

// complete tells that all of the current message has been read.
func (c *conn) complete() bool {
	return c.used >= c.end && (c.left == 0 || c.decoder.Done())
}

// Close closes the socket, once.
func (c *conn) Close() (err error) {
	c.once.Do(func() {
		err = c.Conn.Close()
		c.engine.remove(c)
	})
	return err
}

// reset closes the socket so that the client sees an error, whatever the
// answer's framing: one that ends with the connection would look complete.
func (c *conn) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
}

// bodyBuffered tells that the rest of the body has been read from the socket,
// as far as that is known.
func (c *conn) bodyBuffered() bool {
	return c.left != http1.Chunked && int64(len(c.buf)-max(c.used, c.end)) >= c.left
}
