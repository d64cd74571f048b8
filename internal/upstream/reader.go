package upstream

import (
	"io"
	"sync"

	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/tlsrecord"
)

const (
	bufferSize = 18 << 10  // of a busy reader: one TLS record, and the beginning of the next
	smallSize  = 1 << 10   // of a reader between events
	maxHead    = 128 << 10 // of a response, in bytes
)

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// reader holds what was read and not yet used: plaintext in buf[r:w], and behind it, in buf[x:y], what the record layer
// has not yet opened. Records are opened where they lie. The buffer is small until a read fills it, and small again
// once empty, so that a stream that waits for its next event costs little.
type reader struct {
	src        io.Reader
	layer      tlsrecord.Layer // nil for plain http
	buf        []byte
	r, w, x, y int
	pooled     *[]byte
	fixed      bool // buf is secret memory: neither replaced nor given back
	small      [smallSize]byte
}

func (b *reader) empty() bool { return b.r == b.w && b.x == b.y }

// Buffered and Consume are http1.Input's, for the plaintext.
func (b *reader) Buffered() []byte { return b.buf[b.r:b.w] }

// Consume drops n bytes of plaintext.
func (b *reader) Consume(n int) { b.r += n }

// Fill adds to the plaintext, reading as often as it takes. It returns an error only if nothing came with it: io.EOF,
// if the peer has ended its side in good order.
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
			secret.Scrub() // makeRoom may have moved plaintext, and the read may wait
		}
		n, err := b.src.Read(b.buf[b.y:])
		b.y += n
		switch {
		case n > 0:
		case err == io.EOF && b.layer != nil: // without close_notify anybody may have ended it
			return io.ErrUnexpectedEOF
		case err == nil:
			return io.ErrNoProgress
		default:
			return err
		}
	}
}

// open adds the next record that holds any to the plaintext, if that was read whole. It does not block. If not, it
// returns how long the record is, or 0 if that is not known.
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
		record := b.buf[b.x : b.x+size]
		data, err := b.layer.Open(record)
		at := b.x + tlsrecord.HeaderSize
		b.x += size
		switch {
		case len(data) > 0 && b.r == b.w:
			b.r, b.w = at, at+len(data)
			return 0, nil
		case len(data) > 0:
			b.w += copy(b.buf[b.w:], data)
			return 0, nil
		case err != nil:
			return 0, err
		}
	}
}

// drained reports whether nothing that was read is left: no plaintext, no record, no part of one. Tickets and key
// updates it takes in on the way.
func (b *reader) drained() bool {
	if b.r != b.w {
		return false
	}
	_, err := b.open()
	return err == nil && b.empty()
}

// makeRoom makes room for another byte, and for the whole of a record of size bytes, of which the beginning may be
// there.
func (b *reader) makeRoom(size int) error {
	if b.empty() {
		b.resize()
		b.r, b.w, b.x, b.y = 0, 0, 0, 0
	}
	size = max(size, b.y-b.x+1)
	if b.x+size <= len(b.buf) {
		return nil
	}
	to := b.buf
	if need := b.w - b.r + size; need > len(b.buf) {
		if b.fixed {
			return ErrOversized
		}
		to = b.larger(need)
	}
	n := copy(to, b.buf[b.r:b.w])
	m := copy(to[n:], b.buf[b.x:b.y])
	b.buf, b.r, b.w, b.x, b.y = to, 0, n, n, n+m
	return nil
}

// resize lets an empty buffer follow the size of what was last read.
func (b *reader) resize() {
	switch {
	case b.fixed:
	case b.y == len(b.buf) && len(b.buf) < bufferSize:
		b.buf = b.larger(len(b.buf) + 1)
	case b.y <= smallSize && len(b.buf) > smallSize:
		b.shrink()
	}
}

// larger returns a buffer of n bytes or more, and more than there are.
func (b *reader) larger(n int) []byte {
	switch {
	case n <= smallSize:
		return b.small[:]
	case n <= bufferSize && b.pooled == nil:
		b.pooled = buffers.Get().(*[]byte)
		return *b.pooled
	default:
		return make([]byte, max(n, 2*len(b.buf)))
	}
}

// shrink empties the reader and gives a larger buffer back. What was in it is overwritten: an upstream that echoes the
// key must not leave copies in buffers that wait for others.
func (b *reader) shrink() {
	clear(b.buf)
	if len(b.buf) > smallSize {
		clear(b.small[:])
	}
	if b.pooled != nil {
		if len(b.buf) != bufferSize { // buf has outgrown it
			clear(*b.pooled)
		}
		buffers.Put(b.pooled)
		b.pooled = nil
	}
	b.buf, b.r, b.w, b.x, b.y = b.small[:], 0, 0, 0, 0
}
