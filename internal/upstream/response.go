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
	copied  chan struct{} // closed when the copier of the request's body has ended; nil if there is none
	copyErr error         // of the copier, once copied is closed
}

// Next returns the next piece of the body as soon as there is one. It blocks without a time limit. The piece is valid
// until the next call. The last piece may come together with io.EOF; any other error, of type *Error, means that the
// body is incomplete.
func (r *Response) Next() ([]byte, error) {
	piece, err := r.body.Next(&r.c.in)
	return piece, r.blame(err, inBody)
}

// Buffered is Next for what is there already: it does not block, and returns nothing and no error where Next would, or
// would fail.
func (r *Response) Buffered() ([]byte, error) {
	piece, err := r.body.Buffered(&r.c.in)
	return piece, r.blame(err, inBody)
}

// Sent reports whether all of the request's body has been written, so that its buffers are free.
func (r *Response) Sent() bool { return r.sendErr() == nil }

var errSending = errors.New("the request body is being sent")

// sendErr returns how the copier of the request's body has ended, or errSending.
func (r *Response) sendErr() error {
	if r.copied == nil {
		return nil
	}
	select {
	case <-r.copied:
		return r.copyErr
	default:
		return errSending
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
	case errors.Is(r.sendErr(), errBody):
		return &Error{Kind: BodyFailed, Cause: errBody}
	case r.unwatch != nil && !r.unwatch():
		return fail(Cancelled, "the request was cancelled")
	case err == io.EOF: // io.EOF, wrapped or not, must only ever mean a whole body
		err = io.ErrUnexpectedEOF
	}
	return fail(Closed, "%s: %w", where, err)
}

// Close ends the exchange. It waits for the copier of the request's body, and keeps the connection for another request
// if both messages are complete.
func (r *Response) Close() {
	watched := r.unwatch()
	keep := watched && r.body.Done() && r.reuse
	if r.copied != nil {
		// The next request would wait in the kernel behind a body that the upstream may never read, if it responded
		// early. What was written in one go with the head fits the buffers of a connection that is idle.
		keep = r.stopCopier() && keep && r.c.acknowledged()
	}
	if keep && r.c.in.drained() {
		r.client.pool.put(r.c)
		return
	}
	r.c.close()
	r.c.in.shrink()
}

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
	<-r.copied
	return r.copyErr == nil && r.c.SetWriteDeadline(time.Time{}) == nil
}

// readHead reads up to the final answer's head; interim ones are dropped (RFC 9110, section 15.2).
func (r *Response) readHead() error {
	for {
		head, err := http1.ReadHead(&r.c.in, maxHead)
		if err == nil {
			err = r.Head.Parse(head)
		}
		if err != nil {
			return r.blame(err, inHead)
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

// copyBody sends the rest of the body while the answer is being read for.
func (r *Response) copyBody(left []byte) {
	r.copied = make(chan struct{})
	go func() {
		defer func() {
			if recover() != nil { // nothing that one client sends may end the process
				r.copyErr = fmt.Errorf("%w: panic", errBody)
			}
			close(r.copied)
			if errors.Is(r.copyErr, errBody) { // what was sent must never be taken for a whole request
				r.c.close()
			}
		}()
		r.copyErr = r.c.sendRest(r.request, left)
	}()
}

// Stream is a connection whose protocol was switched: bytes in both directions, by other rules than HTTP's. One
// goroutine may read while another writes.
type Stream struct{ c *conn }

var errNotSwitched = errors.New("bug: the upstream has not switched protocols")

// Switch takes the connection of an answer with status 101. From then on the request's context has no power over it;
// Interrupt has, and the Response's Close, which must still be called.
func (r *Response) Switch() (*Stream, error) {
	if r.Head.Status != 101 {
		return nil, &Error{Kind: Internal, Cause: errNotSwitched}
	}
	if !r.unwatch() {
		return nil, fail(Cancelled, "the request was cancelled")
	}
	return &Stream{r.c}, nil
}

// Read is io.Reader's. It blocks without a time limit; io.EOF means that the upstream has ended its side in good order.
func (s *Stream) Read(p []byte) (int, error) {
	in := &s.c.in
	if len(in.Buffered()) == 0 {
		if err := in.Fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, in.Buffered())
	in.Consume(n)
	return n, nil
}

// Write is io.Writer's. It blocks for as long as the upstream does not read.
func (s *Stream) Write(p []byte) (int, error) { return s.c.send(p) }

// CloseWrite ends our side of the connection in good order.
func (s *Stream) CloseWrite() error {
	if s.c.layer != nil {
		if err := s.c.layer.CloseWrite(); err != nil {
			return err
		}
	}
	return s.c.TCPConn.CloseWrite()
}

// Interrupt ends the connection at once, also under a Read or Write.
func (s *Stream) Interrupt() { s.c.close() }
