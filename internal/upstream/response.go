package upstream

import (
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
	// Reused reports whether the connection had served before.
	Reused bool

	c       *conn
	client  *Client
	request *Request
	body    http1.Body
	reuse   bool          // the connection may serve again
	unwatch func() bool   // of the context; false once it has closed the connection
	copier  chan error    // gets the body copier's result; nil if there is none
	failed  chan struct{} // closed when the client did not deliver its body
}

// Next returns the next piece of the body as soon as there is one. It blocks without a time limit. The piece is valid
// until the next call. The last piece may come together with io.EOF; any other error, of type *Error, means that the
// body is incomplete.
func (r *Response) Next() ([]byte, error) {
	piece, err := r.body.Next(r.in())
	return piece, r.blame(err, inBody)
}

// Buffered is Next for what is there already: it does not block, and returns nothing and no error where Next would.
func (r *Response) Buffered() ([]byte, error) {
	in := r.in()
	if in.r == in.w && !r.body.Done() {
		if _, err := in.open(); err != nil && in.r == in.w {
			return nil, r.blame(r.body.End(err), inBody)
		}
	}
	piece, err := r.body.Buffered(in)
	return piece, r.blame(err, inBody)
}

// Sent reports whether all of the request's body has been written, so that its buffers are free.
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

// inHead and inBody are where a response can break off.
const (
	inHead = "the connection ended before the response"
	inBody = "the connection ended in the middle of the response"
)

// blame turns an error of reading into one of this package's, by what caused it: the response itself, the caller, the
// client that did not deliver its body, or the upstream. io.EOF remains the end of a whole body.
func (r *Response) blame(err error, where string) error {
	var malformed *http1.Error
	switch {
	case err == nil, err == io.EOF && r.body.Done():
		return err
	case errors.As(err, &malformed):
		return fail(Malformed, "the response is malformed: %w", err)
	}
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
	return fail(Closed, "%s: %w", where, err)
}

// Close ends the exchange. It waits for the copier of the request's body, and keeps the connection for another request
// if both messages are complete.
func (r *Response) Close() {
	watched := r.unwatch()
	keep := watched && r.body.Done() && r.reuse
	if r.copier != nil {
		// The next request would wait in the kernel behind a body that the upstream may never read, if it responded
		// early. What was written in one go with the head fits the buffers of a connection that is idle.
		keep = r.stopCopier() && keep && r.c.acknowledged()
	}
	if keep && r.in().drained() {
		r.client.pool.put(r.c)
		return
	}
	r.c.close()
	r.in().shrink()
}

func (r *Response) in() *reader { return &r.c.in }

// stopCopier ends the copier and reports whether it has sent all of the body. The upstream may respond before the
// copier's goroutine runs again after its last write: a write that the kernel has taken whole succeeds whatever the
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

// readHead reads up to the final answer's head; interim ones are dropped (RFC 9110, section 15.2).
func (r *Response) readHead() error {
	for {
		if err := r.readOneHead(); err != nil {
			return err
		}
		switch status := r.Head.Status; {
		case status == 101 && !r.request.Upgrade:
			return fail(Malformed, "the upstream switched protocols without being asked")
		case status == 101 || status >= 200:
			r.body.Begin(r.Head.Length)
			r.reuse = !r.Head.Close && !r.request.Upgrade
			return nil
		}
	}
}

func (r *Response) readOneHead() error {
	head, err := http1.ReadHead(r.in(), maxHead)
	if err == nil {
		err = r.Head.Parse(head)
	}
	return r.blame(err, inHead)
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

// guard turns a panic in a goroutine of our own into an error: nothing that one client sends may end the process.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: panic", errBody)
		}
	}()
	return f()
}
