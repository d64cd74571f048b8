package relay

import (
	"io"
	"slices"
	"sync"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/upstream"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// maxMemory is how much of a request's body is read before it is sent on, in bytes. Larger ones are passed on while
// they arrive.
const maxMemory = 1 << 20

// refused is the error of a body that must not pass.
type refused struct{ why *apierror.Error }

func (refused) Error() string { return "the body is refused" }

// Read implements upstream.Body: it counts the request's body, limits it, checks its model, and shows it to the dump. It
// fails before it hands on a byte too many, or the last byte of a body whose model is not allowed.
func (x *exchange) Read(p []byte) (int, error) {
	n, err := x.Body.Read(p)
	received := x.received.Add(int64(n))
	ended := err == io.EOF || received == x.out.Length
	e := x.lease.CheckBody(received)
	if e == nil && x.model != nil {
		e = x.model.read(p[:n], ended)
	}
	if e != nil {
		return 0, refused{e}
	}
	x.requestDump.Write(p[:n])
	if ended {
		x.requestDump.End(true)
	}
	return n, err
}

// Interrupt implements upstream.Body.
func (x *exchange) Interrupt() { x.Body.Interrupt() }

// readStart reads a body of up to maxMemory bytes into out.Start, and leaves what is longer in out.Rest: all of it,
// or what is behind the first maxMemory bytes if those are to be held. The buffer, which may be nil, belongs to the
// caller, also on errors.
func readStart(out *upstream.Request, body upstream.Body, hold bool) (buf *buffer, err error) {
	size, chunked := out.Length, out.Length == http1.Chunked
	switch {
	case size == 0:
		return nil, nil
	case size > maxMemory && !hold:
		out.Rest = body
		return nil, nil
	case size > maxMemory, chunked:
		size = maxMemory
	}
	first := int(size)
	if chunked { // most are small, and wait for their responses
		first = bufferSizes[1]
	}
	buf = takeBuffer(first)
	var n, m int
	for int64(n) < size && err == nil { // not io.ReadFull, which hides whether the client has sent all of it
		if n == len(buf.bytes) {
			buf = buf.grow()
		}
		m, err = body.Read(buf.bytes[n:min(int(size), len(buf.bytes))])
		n += m
	}
	out.Start = buf.bytes[:n]
	switch {
	case err != nil && err != io.EOF:
		return buf, err
	case !chunked && int64(n) < size:
		return buf, io.ErrUnexpectedEOF
	case out.Length > int64(n), chunked && err == nil:
		out.Rest = body
	default: // a chunked body that has ended gets a length
		out.Length = int64(n)
	}
	return buf, nil
}

// buffer is of one of a few sizes: most bodies are tens of kilobytes, and 1 MiB for each would be waste.
type buffer struct {
	bytes []byte
	pool  *sync.Pool
}

var (
	bufferSizes = [...]int{2 << 10, 16 << 10, 64 << 10, 256 << 10, maxMemory}
	bufferPools [len(bufferSizes)]sync.Pool
)

// takeBuffer returns a buffer of at least size bytes. size is at most maxMemory.
func takeBuffer(size int) *buffer {
	i, _ := slices.BinarySearch(bufferSizes[:], size)
	if b, ok := bufferPools[i].Get().(*buffer); ok {
		return b
	}
	return &buffer{make([]byte, bufferSizes[i]), &bufferPools[i]}
}

// grow returns a larger buffer with the same bytes, in place of b.
func (b *buffer) grow() *buffer {
	larger := takeBuffer(len(b.bytes) + 1)
	copy(larger.bytes, b.bytes)
	b.giveBack()
	return larger
}

func (b *buffer) giveBack() {
	if b != nil {
		b.pool.Put(b)
	}
}
