package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
)

// Response is an answer whose body is still to come. Close must be called.
type Response struct {
	// Head is the answer's head. What it points to is valid until Next.
	Head http1.Response
	// Reused tells that the connection had served before.
	Reused bool

	c       *conn
	client  *Client
	request *Request
	decoder http1.Decoder
	left    int64
	end     bool          // the body was read whole
	reuse   bool          // the connection may serve again
	unwatch func() bool   // of the context; false once it has closed the connection
	copier  chan error    // gets the body copier's result; nil if there is none
	failed  chan struct{} // closed when the client did not deliver its body
}

// Next returns the next piece of the body as soon as there is one. It blocks
// without a time limit. The piece is valid until the next call. The last piece
// may come together with io.EOF; any other error, of type *Error, means that
// the body is incomplete.
func (r *Response) Next() ([]byte, error) {
	for {
		piece, err := r.Buffered()
		if len(piece) > 0 || err != nil {
			return piece, err
		}
		if err := r.in().fill(); err != nil {
			return nil, r.broken(err)
		}
	}
}

// Buffered is Next for what is there already: it does not block, and returns
// nothing and no error where Next would.
func (r *Response) Buffered() ([]byte, error) {
	in := r.in()
	if r.end {
		return nil, io.EOF
	}
	if in.r == in.w {
		if _, err := in.open(); in.r == in.w {
			return nil, r.broken(err)
		}
	}
	return r.take(in)
}

// Sent tells that all of the request's body has been written, so that its
// buffers are free.
func (r *Response) Sent() bool {
	if r.copier == nil {
		return true
	}
	select {
	case err := <-r.copier:
		r.copier <- err // for Close
		return err == nil
	default:
		return false
	}
}

// take returns what the buffer holds of the body.
func (r *Response) take(in *reader) ([]byte, error) {
	p := in.buf[in.r:in.w]
	switch r.Head.Length {
	case http1.UntilClose:
		in.r = in.w
		return p, nil
	case http1.Chunked:
		n, used, err := r.decoder.Decode(p)
		if err != nil {
			return nil, fail(Malformed, "the answer's body: %w", err)
		}
		in.r += used
		r.end = r.decoder.Done()
		return p[:n], r.eof()
	default:
		n := int(min(r.left, int64(len(p))))
		in.r += n
		r.left -= int64(n)
		r.end = r.left == 0
		return p[:n], r.eof()
	}
}

func (r *Response) eof() error {
	if r.end {
		return io.EOF
	}
	return nil
}

// broken turns a read error into this body's: the end of the connection is the
// end of a body that has no other.
func (r *Response) broken(err error) error {
	if err == nil {
		return nil
	}
	if r.Head.Length == http1.UntilClose && err == io.EOF {
		r.end = true
		return io.EOF
	}
	return r.blame(err, "the connection ended in the middle of the response")
}

// blame finds out who is behind a failed read: the caller, the client that did
// not deliver its body, or the upstream.
func (r *Response) blame(err error, otherwise string) error {
	select {
	case <-r.failed:
		return &Error{Kind: BodyFailed, Cause: errBody}
	default:
	}
	if r.unwatch != nil && !r.unwatch() {
		return fail(Cancelled, "the request was cancelled")
	}
	if err == io.EOF { // io.EOF, wrapped or not, must only ever mean a whole body
		err = io.ErrUnexpectedEOF
	}
	return fail(Closed, "%s: %w", otherwise, err)
}

// Close ends the exchange. It waits for the copier of the request's body, and
// keeps the connection for another request if both messages are complete.
func (r *Response) Close() {
	watched := r.unwatch()
	keep := watched && r.end && r.reuse
	if r.copier != nil && !r.stopCopier() {
		keep = false
	}
	if keep && r.written() && r.in().drained() {
		r.client.pool.put(r.c)
		return
	}
	r.c.close()
	r.in().shrink()
}

// written reports whether the next request would not have to wait in the
// kernel behind this one's body, which the upstream may never read: it may have
// responded early. Bodies that were written in one go with the head fit the
// buffers of a connection that is idle, and cost no system call here.
func (r *Response) written() bool { return r.copier == nil || r.c.acknowledged() }

func (r *Response) in() *reader { return &r.c.in }

// stopCopier ends the copier and reports whether it has sent all of the body.
// The upstream may respond before the copier's goroutine runs again after its
// last write: a write that the kernel has taken whole succeeds whatever the
// deadline, one that still waits fails.
func (r *Response) stopCopier() bool {
	if !r.Sent() {
		r.c.SetWriteDeadline(time.Unix(1, 0))
		if r.request.Rest != nil {
			r.request.Rest.Interrupt()
		}
	}
	return <-r.copier == nil && r.c.SetWriteDeadline(time.Time{}) == nil
}

// readHead reads up to the final answer's head; interim ones are dropped
// (RFC 9110, section 15.2).
func (r *Response) readHead() error {
	for {
		if err := r.readOneHead(); err != nil {
			return err
		}
		switch status := r.Head.Status; {
		case status == 101 && !r.request.Upgrade:
			return fail(Malformed, "the upstream switched protocols without being asked")
		case status == 101 || status >= 200:
			r.left = max(r.Head.Length, 0)
			r.end = r.Head.Length == 0
			r.reuse = !r.Head.Close && !r.request.Upgrade
			return nil
		}
	}
}

func (r *Response) readOneHead() error {
	in := r.in()
	for seen := 0; ; {
		p := in.buf[in.r:in.w]
		end, err := http1.HeadEnd(p, seen)
		if err == nil && end == 0 && len(p) >= maxHead {
			err = errHeadTooLarge
		}
		if err != nil {
			return fail(Malformed, "the answer's head: %w", err)
		}
		if end > 0 {
			in.r += end
			if err := r.Head.Parse(p[:end]); err != nil {
				return fail(Malformed, "the answer's head: %w", err)
			}
			return nil
		}
		seen = len(p)
		if err := in.fill(); err != nil {
			return r.blame(err, "the connection ended before the response")
		}
	}
}

// copyBody sends the rest of the body while the answer is being read for.
func (r *Response) copyBody(w *writer, left []byte) {
	r.copier = make(chan error, 1)
	r.failed = make(chan struct{})
	go func() {
		err := guard(func() error { return w.finish(r.request, left) })
		if errors.Is(err, errBody) {
			// What was sent must never be taken for a whole request.
			close(r.failed)
			r.c.close()
		}
		r.copier <- err
	}()
}

// guard turns a panic in a goroutine of our own into an error: nothing that one
// client sends may end the process.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: panic", errBody)
		}
	}()
	return f()
}

// watch closes the connection when ctx ends.
func (r *Response) watch(ctx context.Context) {
	r.unwatch = context.AfterFunc(ctx, r.c.close)
}
