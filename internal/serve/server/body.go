package server

import (
	"errors"
	"io"
	"os"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// body reads the body of the current request. Read may run at the same time as Interrupt, and as the response begins.
type body struct {
	c      *conn
	length int64 // as in package http1
	reader http1.Body

	// c.mu guards these.
	done    bool // all of it was read
	spoiled bool // the rest of it cannot be read: it was interrupted, or reading failed
	awaited bool // the client waits for 100 Continue
}

// begin prepares for the request in c.in.
func (b *body) begin(c *conn) {
	*b = body{c: c, length: c.in.req.Length}
	b.reader.Begin(b.length)
	b.done = b.reader.Done()
	b.awaited = c.in.req.Continue && c.in.req.Minor == 1 && !b.done
}

// Read is upstream.Body's: io.EOF once the client has sent all of the body, io.ErrUnexpectedEOF if it left before,
// os.ErrDeadlineExceeded if it stalled.
func (b *body) Read(p []byte) (int, error) {
	for !b.reader.Done() {
		n, err := b.readOnce(p)
		b.c.request.Entry.BytesIn += int64(n)
		b.c.mu.Lock()
		b.done, b.spoiled = b.reader.Done(), b.spoiled || err != nil
		b.c.mu.Unlock()
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.EOF
}

// readOnce may return nothing when what came was framing only.
func (b *body) readOnce(p []byte) (int, error) {
	if b.c.unused() > 0 {
		available := b.c.Buffered()
		piece, used, err := b.reader.Take(available[:min(len(available), len(p))])
		b.c.Consume(used)
		return b.account(copy(p, piece), err)
	}
	if err := b.await(); err != nil {
		return 0, err
	}
	if left, known := b.reader.Left(); known {
		p = p[:min(int64(len(p)), left)]
	}
	n, err := b.c.rw.Read(p) // straight to where it is wanted
	if n == 0 {
		return b.account(0, err)
	}
	data, used, err := b.reader.Take(p[:n])
	if used < n { // the next request
		b.c.takeInput()
		b.c.in.buf = append(b.c.in.buf, p[used:n]...)
	}
	return b.account(len(data), err)
}

// account returns n, or an error if nothing came. Once all has been read nothing is left for a buffer to hold while the
// response is awaited, unless the head is still in use.
func (b *body) account(n int, err error) (int, error) {
	if b.reader.Done() && b.c.in != nil && b.c.request.Head == nil && b.c.unused() == 0 {
		b.c.releaseInput()
	}
	if n > 0 {
		return n, nil
	}
	return 0, b.reader.End(err)
}

// await prepares for a read that may block: it lets the client send, unless the response has begun already, and limits
// the wait.
func (b *body) await() error {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	if b.awaited && b.c.request.Entry.Status == 0 {
		if _, err := b.c.rw.Write([]byte("HTTP/1.1 100 Continue\r\n\r\n")); err != nil {
			return err
		}
	}
	b.awaited = false
	if b.spoiled {
		return os.ErrDeadlineExceeded
	}
	b.c.limitReads(b.c.server.cfg.BodyTimeout)
	return nil
}

// Interrupt is upstream.Body's.
func (b *body) Interrupt() {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	b.spoiled = true
	b.c.expires = time.Unix(1, 0)
	b.c.nc.SetReadDeadline(b.c.expires)
}

// worthReading reports whether a refused request's body is short enough to be read, so that the connection can serve
// on. One that the client has not begun to send may never come. c.mu must be held.
func (b *body) worthReading() bool {
	return b.done || !b.spoiled && !b.awaited && b.length <= maxUnread
}

// discard reads the rest of the body. An error means that the connection cannot be used again.
func (b *body) discard() error {
	if b.reader.Done() {
		return nil // without CopyN, which allocates
	}
	switch _, err := io.CopyN(io.Discard, b, maxUnread+1); err {
	case nil:
		return errors.New("the refused body is too long")
	case io.EOF:
		return nil
	default:
		return err
	}
}
