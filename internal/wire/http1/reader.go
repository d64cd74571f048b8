package http1

import "io"

// Input is a buffer of received bytes, filled by its owner.
type Input interface {
	// Buffered returns what was received and not consumed. It is valid until the next Fill.
	Buffered() []byte
	// Consume drops the first n bytes of Buffered.
	Consume(n int)
	// Fill receives at least one more byte, and may block. The error is io.EOF if the peer closed its side cleanly.
	Fill() error
}

// ReadHead reads a head of at most about limit bytes, its empty line included, and consumes it. The head is valid until
// the next Fill. The error is an *Error if the head is malformed, and Fill's otherwise.
func ReadHead(in Input, limit int) ([]byte, error) {
	for seen := 0; ; {
		p := in.Buffered()
		end, err := HeadEnd(p, seen)
		switch {
		case err != nil:
			return nil, err
		case end > 0:
			in.Consume(end)
			return p[:end], nil
		case len(p) >= limit:
			return nil, refuse(431, "the head is larger than %d KiB", limit>>10)
		}
		seen = len(p)
		if err := in.Fill(); err != nil {
			return nil, err
		}
	}
}

// Body reads one body by its length, by its chunks, or until the connection ends. It checks trailers and drops them.
type Body struct {
	left   int64 // remaining bytes, or Chunked, or UntilClose
	chunks decoder
	done   bool
}

// Begin starts a body of length bytes, or Chunked, or UntilClose.
func (b *Body) Begin(length int64) { *b = Body{left: length, done: length == 0} }

// Done reports whether the whole body has been read.
func (b *Body) Done() bool { return b.done }

// Next returns the next piece of the body, which lies in in's buffer and may be modified until the next Fill. It blocks
// as Fill does. The last piece may come with io.EOF. Any other error means that the body is incomplete: an *Error if it
// is malformed, io.ErrUnexpectedEOF if the connection ended early, and Fill's otherwise.
func (b *Body) Next(in Input) ([]byte, error) {
	for {
		piece, err := b.Buffered(in)
		if len(piece) > 0 || err != nil {
			return piece, err
		}
		if err := in.Fill(); err != nil {
			return nil, b.End(err)
		}
	}
}

// Buffered is Next for what was already received: it does not block, and returns neither data nor an error where Next
// would block.
func (b *Body) Buffered(in Input) ([]byte, error) {
	if b.done {
		return nil, io.EOF
	}
	piece, used, err := b.Take(in.Buffered())
	in.Consume(used)
	if err == nil && b.done {
		err = io.EOF
	}
	return piece, err
}

// Left returns the number of remaining bytes, if it is known.
func (b *Body) Left() (n int64, known bool) { return b.left, b.left >= 0 }

// Take moves the data at the beginning of the received bytes p to the beginning of p. It returns the data and how many
// bytes of p belong to the body.
func (b *Body) Take(p []byte) (data []byte, used int, err error) {
	switch b.left {
	case UntilClose:
		return p, len(p), nil
	case Chunked:
		n, used, err := b.chunks.Decode(p)
		if err != nil {
			return nil, used, err
		}
		b.done = b.chunks.state == ended
		return p[:n], used, nil
	default:
		n := int(min(b.left, int64(len(p))))
		b.left -= int64(n)
		b.done = b.left == 0
		return p[:n], n, nil
	}
}

// End translates an error of the Input for the body: io.EOF if the end of the connection delimits the body, and
// io.ErrUnexpectedEOF if it does not.
func (b *Body) End(err error) error {
	switch {
	case err != io.EOF:
		return err
	case b.left == UntilClose:
		b.done = true
		return io.EOF
	default:
		return io.ErrUnexpectedEOF
	}
}
