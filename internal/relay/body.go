package relay

import (
	"errors"
	"io"
	"sync"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
)

// maxMemory is how much of a request's body is read before it is sent on, in
// bytes. Larger ones are passed on while they arrive.
const maxMemory = 1 << 20

// receivedBody counts a request's body, limits it, and shows it to the dump.
type receivedBody struct {
	upstream.Body
	x     *exchange
	limit int64 // in bytes; 0 means none
	left  int64 // http1.Chunked if the length is unknown
}

var errTooLarge = errors.New("the body is too large")

// Read fails before it hands on a byte too many.
func (b *receivedBody) Read(p []byte) (int, error) {
	n, err := b.Body.Read(p)
	if received := b.x.account.received.Add(int64(n)); b.limit > 0 && received > b.limit {
		b.x.tooLarge.Store(true)
		return 0, errTooLarge
	}
	b.x.dump.Request(p[:n])
	if b.left != http1.Chunked {
		b.left -= int64(n)
	}
	if err == io.EOF || b.left == 0 && n > 0 {
		b.x.dump.RequestEnd(true)
	}
	return n, err
}

// readStart reads a body of up to maxMemory bytes into out.Start, and leaves
// what is longer in out.Rest. The buffer, which may be nil, belongs to the
// caller, also on errors.
func readStart(out *upstream.Request, body upstream.Body) (*buffer, error) {
	size, chunked := out.Length, out.Length == http1.Chunked
	switch {
	case size == 0:
		return nil, nil
	case size > maxMemory:
		out.Rest = body
		return nil, nil
	case chunked:
		size = maxMemory
	}
	buf := takeBuffer(int(size))
	n, err := readFull(body, buf.bytes[:size])
	out.Start = buf.bytes[:n]
	switch {
	case err != nil && err != io.EOF:
		return buf, err
	case !chunked && int64(n) < size:
		return buf, io.ErrUnexpectedEOF
	case chunked && err == nil:
		out.Rest = body
	default: // a chunked body that has ended gets a length
		out.Length = int64(n)
	}
	return buf, nil
}

// readFull reads until p is full or an error comes, and returns the error of
// the body itself: io.EOF only if the client has sent all of it.
func readFull(body io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = body.Read(p[n:])
		n += m
	}
	return n, err
}

// buffer is a pooled one, of one of a few sizes: most bodies are tens of
// kilobytes, and 1 MiB for each would be waste.
type buffer struct {
	bytes []byte
	home  *sync.Pool
}

var bufferSizes = [...]int{16 << 10, 128 << 10, maxMemory}

var bufferPools [len(bufferSizes)]sync.Pool

// takeBuffer returns a buffer of at least size bytes, at most maxMemory.
func takeBuffer(size int) *buffer {
	for i, n := range bufferSizes {
		if size > n {
			continue
		}
		if b, ok := bufferPools[i].Get().(*buffer); ok {
			return b
		}
		return &buffer{bytes: make([]byte, n), home: &bufferPools[i]}
	}
	return &buffer{bytes: make([]byte, size)} // cannot happen: readStart's sizes end with the last
}

func (b *buffer) giveBack() {
	if b != nil && b.home != nil {
		b.home.Put(b)
	}
}
