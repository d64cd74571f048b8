package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/socket"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// Response is a response whose body has not been read. The caller must call Close, and may not use it afterwards.
type Response struct {
	// Head is the head. Its slices are valid until Next.
	Head http1.Response
	// Reused reports whether the connection was used before.
	Reused bool

	c       *conn
	client  *Client
	request *Request
	ctx     context.Context
	started bool      // start has been called
	headErr error     // of start
	head    *[]byte   // of the request, from a pool, while it is sent
	line    []byte    // the part of head before the credential
	rest    [2][]byte // the parts of head and body after the credential, without what is sent
	body    http1.Body
	fields  *[]http1.Field // Head's, from a pool; nil once they have gone back
	reuse   bool           // the connection can be reused
	unwatch func() bool    // of the context; returns false once it has closed the connection
	copied  chan struct{}  // closed when the copier of the request's body has ended; nil without one
	copyErr error          // of the copier, valid once copied is closed
}

// Next returns the next piece of the body as soon as it arrives. It blocks without a time limit. The piece is valid
// until the next call. The last piece may come with io.EOF; any other error, of type *Error, means that the body is
// incomplete.
func (r *Response) Next() ([]byte, error) {
	r.releaseFields()
	piece, err := r.body.Next(&r.c.in)
	return piece, r.blame(err, inBody)
}

// Buffered is Next for what has arrived already: it does not block, and returns neither data nor an error where Next
// would block or fail.
func (r *Response) Buffered() ([]byte, error) {
	piece, err := r.body.Buffered(&r.c.in)
	return piece, r.blame(err, inBody)
}

// Sent reports whether the whole body of the request has been written, so that its buffers may be reused.
func (r *Response) Sent() bool { return r.copierEnded() && r.copyErr == nil }

// copierEnded reports whether there is no copier of the request's body any more, and copyErr is valid.
func (r *Response) copierEnded() bool {
	select {
	case <-r.copied:
		return true
	default:
		return r.copied == nil
	}
}

const (
	inHead = "the connection ended before the response"
	inBody = "the connection ended in the middle of the response"
)

// blame converts a read error into one of this package's, by its cause: the response itself, the caller, the client
// that did not send its body, or the upstream. io.EOF remains the end of a complete body.
func (r *Response) blame(err error, where string) error {
	if err == nil || err == io.EOF && r.body.Done() {
		return err
	}
	_, malformed := errors.AsType[*http1.Error](err)
	switch {
	case malformed:
		return fail(Malformed, "the response is malformed: %w", err)
	case r.copierEnded() && errors.Is(r.copyErr, errBody):
		return &Error{Kind: BodyFailed, Cause: r.copyErr}
	case r.unwatch != nil && !r.unwatch():
		return fail(Cancelled, "the request was cancelled")
	case err == io.EOF: // io.EOF, wrapped or not, must always mean a complete body
		err = io.ErrUnexpectedEOF
	}
	return fail(Closed, "%s: %w", where, err)
}

// Close ends the exchange. It waits for the copier of the request's body, and keeps the connection for another request
// if both messages are complete.
func (r *Response) Close() {
	r.releaseFields()
	watched := r.unwatch()
	keep := watched && r.body.Done() && r.reuse
	if r.copied != nil {
		// If the upstream responded early it may never read the rest of the body, and the next request would wait in
		// the kernel behind that. The part that is written with the head fits into the buffers of an idle connection.
		keep = r.stopCopier() && keep && r.c.acknowledged()
	}
	if keep && r.c.in.drained() {
		r.client.pool.put(r.c)
		return
	}
	r.c.close()
	r.c.in.shrink()
}

// stopCopier ends the copier and reports whether it has sent the whole body. The upstream may respond before the
// copier's goroutine runs again after its last write: a write that the kernel has accepted succeeds despite the
// deadline, one that blocks fails.
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

var errNotIdle = errors.New("the upstream has closed the idle connection, or sent unexpected bytes")

// begin sends the request's head and, unless the body needs a copier, waits for the response. It returns the error of
// sending.
//
// On a connection that was idle, RawConn.Read's first attempt to read comes before the head is sent: it finds a closed
// connection, or bytes that must not be taken for the response, and it serves the wait, which begins there and not with
// a futile attempt after the head.
func (r *Response) begin() error {
	defer r.releaseHead()
	if err := r.assemble(); err != nil {
		return err
	}
	r.c.current = r
	err := r.c.raw.Read(r.c.start)
	r.c.current = nil
	if r.started { // otherwise the connection is closed
		err = r.headErr
	}
	return err
}

// start is RawConn.Read's callback. It is called again when there is something to read, and then ends the wait.
func (r *Response) start(fd uintptr) (done bool) {
	if r.started {
		return true
	}
	r.started = true
	if r.Reused && !socket.Quiet(fd) {
		r.headErr = errNotIdle
		return true
	}
	left, err := r.sendHead()
	if err != nil {
		r.headErr = err
		return true
	}
	r.request.Fields = nil
	if r.request.Sent != nil {
		r.request.Sent()
	}
	if len(left) > 0 || r.request.Rest != nil {
		r.copyBody(left)
	}
	return r.copied != nil
}

var fieldSlices = sync.Pool{New: func() any { return new([]http1.Field) }}

// releaseFields lets the memory of Head.Fields serve other responses. Further calls do nothing.
func (r *Response) releaseFields() {
	if r.fields == nil {
		return
	}
	clear(*r.fields) // or the pool would keep what they point to
	fieldSlices.Put(r.fields)
	r.fields, r.Head.Fields = nil, nil
}

// readHead reads the final response's head; it drops interim responses (RFC 9110, section 15.2).
func (r *Response) readHead() error {
	for {
		head, err := http1.ReadHead(&r.c.in, maxHead)
		if err == nil {
			r.releaseFields() // of an interim response
			r.fields = fieldSlices.Get().(*[]http1.Field)
			r.Head.Fields = *r.fields
			err = r.Head.Parse(head)
			*r.fields = r.Head.Fields
		}
		if err != nil {
			return r.blame(err, inHead)
		}
		switch status := r.Head.Status; {
		case status == 101 && !r.request.Upgrade:
			return fail(Malformed, "the upstream switched protocols without a request")
		case status == 101 || status >= 200:
			r.body.Begin(r.Head.Length)
			r.reuse = !r.Head.Close && !r.request.Upgrade
			return nil
		}
	}
}

// copyBody sends the rest of the body while the response is awaited.
func (r *Response) copyBody(left []byte) {
	r.copied = make(chan struct{})
	go func() {
		defer func() {
			if recover() != nil { // no client's data may end the process
				r.copyErr = fmt.Errorf("%w: panic", errBody)
			}
			c, failed := r.c, errors.Is(r.copyErr, errBody)
			close(r.copied) // r may serve another request from here on
			if failed {     // what was sent must never be interpreted as a complete request
				c.close()
			}
		}()
		r.copyErr = r.c.sendRest(r.request, left)
	}()
}

// Stream is a connection whose protocol was switched: bytes in both directions, no longer HTTP. One goroutine may read
// while another writes.
type Stream struct{ c *conn }

var errNotSwitched = errors.New("bug: the upstream has not switched protocols")

// Hijack takes over the connection of a response with status 101. From then on the request's context no longer affects
// it; Interrupt does, and so does the Response's Close, which must still be called.
func (r *Response) Hijack() (*Stream, error) {
	if r.Head.Status != 101 {
		return nil, &Error{Kind: Internal, Cause: errNotSwitched}
	}
	if !r.unwatch() {
		return nil, fail(Cancelled, "the request was cancelled")
	}
	return &Stream{r.c}, nil
}

// Read implements io.Reader. It blocks without a time limit; io.EOF means that the upstream closed its side cleanly.
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

// Write implements io.Writer. It blocks while the upstream does not read.
func (s *Stream) Write(p []byte) (int, error) { return s.c.send(p) }

// CloseWrite closes this side of the connection cleanly.
func (s *Stream) CloseWrite() error {
	if s.c.layer != nil {
		if err := s.c.layer.CloseWrite(); err != nil {
			return err
		}
	}
	return s.c.TCPConn.CloseWrite()
}

// Interrupt closes the connection at once, even during a Read or Write.
func (s *Stream) Interrupt() { s.c.close() }
