package upstream

import (
	"io"
	"sync"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/tlsrecord"
)

const (
	bufferSize = 18 << 10  // of a busy reader: one TLS record, and the beginning of the next
	smallSize  = 1 << 10   // of a reader between events
	maxHead    = 128 << 10 // of a response, in bytes
)

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// reader buffers what was read and not yet used: plaintext in buf[r:w], and after it, in buf[x:y], what the record
// layer has not opened. Records are opened in place. The buffer is small until a read fills it, and small again when it
// is empty, so that a stream that waits for its next event uses little memory.
type reader struct {
	src        io.Reader
	layer      tlsrecord.Layer // nil for plain http
	buf        []byte          // small, from buffers, or larger
	r, w, x, y int
	fixed      bool // buf is secret memory: never replaced or returned to a pool
	small      [smallSize]byte
}

func (b *reader) empty() bool { return b.r == b.w && b.x == b.y }

// Buffered implements http1.Input. It returns the plaintext, or if there is none, that of the next complete record.
// Fill returns the error of opening it.
func (b *reader) Buffered() []byte {
	if b.r == b.w {
		b.open()
	}
	return b.buf[b.r:b.w]
}

// Consume drops n bytes of plaintext.
func (b *reader) Consume(n int) { b.r += n }

// Fill appends to the plaintext, with as many reads as needed. It returns an error only if there is no new plaintext:
// io.EOF if the peer closed its side cleanly.
func (b *reader) Fill() error {
	for had := b.w - b.r; ; {
		size, err := b.open()
		if b.w-b.r > had || err != nil {
			return err
		}
		if err := b.makeRoom(size); err != nil {
			return err
		}
		if b.fixed {
			secret.Scrub() // makeRoom may have moved plaintext, and the read may block
		}
		n, err := b.src.Read(b.buf[b.y:])
		b.y += n
		switch {
		case n > 0:
		case err == io.EOF && b.layer != nil: // without close_notify an attacker may have cut the connection
			return io.ErrUnexpectedEOF
		case err == nil:
			return io.ErrNoProgress
		default:
			return err
		}
	}
}

// open appends the plaintext of the next complete record with data. It does not block. Otherwise it returns the length
// of the incomplete record, or 0 if that is unknown. A record with an error stays, so that the error is returned again.
func (b *reader) open() (size int, err error) {
	if b.layer == nil {
		b.w, b.x = b.y, b.y
		return 0, nil
	}
	for {
		size, err := b.layer.Size(b.buf[b.x:b.y])
		if size == 0 || size > b.y-b.x || err != nil {
			return size, err
		}
		data, err := b.layer.Open(b.buf[b.x : b.x+size])
		if err != nil {
			return 0, err
		}
		if b.r == b.w {
			b.r = b.x + tlsrecord.HeaderSize
			b.w = b.r + len(data)
		} else {
			b.w += copy(b.buf[b.w:], data)
		}
		if b.x += size; len(data) > 0 {
			return 0, nil
		}
	}
}

// drained reports whether all that was read is used: no plaintext, no record, no part of one. It processes tickets and
// key updates.
func (b *reader) drained() bool { return len(b.Buffered()) == 0 && b.empty() }

// makeRoom makes space for at least one byte, and for a whole record of size bytes, whose beginning may be in the
// buffer. The size of an empty buffer follows that of the last read.
func (b *reader) makeRoom(size int) error {
	size = max(size, b.y-b.x+1)
	if b.empty() {
		switch {
		case b.fixed:
		case b.y == len(b.buf) && b.y < bufferSize:
			size = max(size, b.y+1)
		case b.y <= smallSize && len(b.buf) > smallSize:
			b.shrink()
		}
		b.r, b.w, b.x, b.y = 0, 0, 0, 0
	}
	if b.x+size <= len(b.buf) {
		return nil
	}
	old, need := b.buf, b.w-b.r+size
	switch {
	case need <= len(old):
	case b.fixed:
		return ErrOversized
	case need <= smallSize:
		b.buf = b.small[:]
	case need <= bufferSize:
		b.buf = buffers.Get().(*[bufferSize]byte)[:]
	default:
		b.buf = make([]byte, max(need, 2*len(old)))
	}
	n := copy(b.buf, old[b.r:b.w])
	m := copy(b.buf[n:], old[b.x:b.y])
	b.r, b.w, b.x, b.y = 0, n, n, n+m
	if len(old) < len(b.buf) {
		giveBack(old)
	}
	return nil
}

// shrink empties the reader and returns a larger buffer to the pool.
func (b *reader) shrink() {
	giveBack(b.buf)
	b.buf, b.r, b.w, b.x, b.y = b.small[:], 0, 0, 0, 0
}

// giveBack overwrites buf before it returns to the pool: an upstream that echoes the key must not leave copies in
// pooled buffers.
func giveBack(buf []byte) {
	clear(buf)
	if len(buf) == bufferSize {
		buffers.Put((*[bufferSize]byte)(buf))
	}
}
