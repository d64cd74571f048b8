package upstream

import "errors"

// Stream is a connection whose protocol was switched: bytes in both directions, by other rules than HTTP's. One
// goroutine may read while another writes.
type Stream struct{ r *Response }

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
	return &Stream{r}, nil
}

// Read is io.Reader's. It blocks without a time limit; io.EOF means that the upstream has ended its side in good order.
func (s *Stream) Read(p []byte) (int, error) {
	in := s.r.in()
	if in.r == in.w {
		if err := in.Fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, in.Buffered())
	in.Consume(n)
	return n, nil
}

// Write is io.Writer's. It blocks for as long as the upstream does not read.
func (s *Stream) Write(p []byte) (int, error) {
	return s.r.c.send(p)
}

// CloseWrite ends our side of the connection in good order.
func (s *Stream) CloseWrite() error {
	c := s.r.c
	if c.layer != nil {
		if err := c.layer.CloseWrite(); err != nil {
			return err
		}
	}
	return c.TCPConn.CloseWrite()
}

// Interrupt ends the connection at once, also under a Read or Write.
func (s *Stream) Interrupt() { s.r.c.close() }
