// Package tlsrecord is the record layer of a TLS client from the end of the handshake on. crypto/tls does the
// handshake; for TLS 1.3 (RFC 8446, section 5) this package seals and opens from then on, in memory that the caller
// chooses. A message can so be sealed where it lies, in secret memory, and opened where it was read to. crypto/tls
// would copy it into a buffer in the heap.
//
// Nothing here reads from the network behind the handshake: the caller reads records, as far ahead as it likes, and
// sees all that was read and not yet opened.
package tlsrecord

import (
	"cmp"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
)

// Sizes in bytes.
const (
	// HeaderSize is the size of a record's header.
	HeaderSize = 5
	// Overhead is what a record is longer than its plaintext, without padding.
	Overhead = HeaderSize + 1 + tagSize
	// MaxPlaintext is the longest plaintext of a record (RFC 8446, section 5.1).
	MaxPlaintext = 1 << 14
	// MaxRecord is the size of the longest record (RFC 8446, section 5.2).
	MaxRecord = HeaderSize + MaxPlaintext + 256
)

// Content types (RFC 8446, section 5.1), and the messages and alerts that may follow the handshake (sections 4.6 and 6).
const (
	typeAlert           = 21
	typeHandshake       = 22
	typeApplicationData = 23

	newSessionTicket = 4
	keyUpdate        = 24

	closeNotify  = 0
	userCanceled = 90
)

const (
	// maxIdleRecords bounds the records in a row that bring no data.
	maxIdleRecords = 32
	// updateAfter is the number of records after which we change our own keys: less than what AES-GCM is safe for (RFC
	// 8446, section 5.5).
	updateAfter = 1 << 24
)

var (
	errHeader     = errors.New("a TLS record was expected; this is none, or one of a forbidden size")
	errUnexpected = errors.New("a TLS record of a kind that must not follow the handshake")
	errIdle       = errors.New("too many TLS records without data")
)

// Layer is the record layer of one connection. One goroutine may call Open while others write.
type Layer interface {
	// Size returns the size of the record that p begins with: 0 if p is shorter than a header, more than len(p) if the
	// record is not whole.
	Size(p []byte) (int, error)
	// Open opens one record, of the size that Size has returned, in place. It returns the application data, which
	// begins at record[HeaderSize], and is empty for a record that serves the session itself. io.EOF means that the
	// peer has ended its side by close_notify. After an error nothing opens any more. No plaintext is left in
	// registers.
	Open(record []byte) (data []byte, err error)
	// Write sends p, which is not secret, in as many records as it needs. It is io.Writer's.
	Write(p []byte) (n int, err error)
	// WriteInPlace sends the n bytes at buf[HeaderSize:], at most MaxPlaintext, as one record. It overwrites n +
	// Overhead bytes of buf: with TLS 1.3 nothing of the plaintext is left in memory or registers when the write
	// begins, which may block.
	WriteInPlace(buf []byte, n int) error
	// CloseWrite sends close_notify. Nothing may be written after it.
	CloseWrite() error
}

// session is the Layer of TLS 1.3.
type session struct {
	in      *keys
	idle    int   // records in a row without data
	readErr error // of every further Open

	updateDue atomic.Bool // the peer has asked for new keys of ours

	mu       sync.Mutex // over what follows: numbers must reach the wire in their order
	w        io.Writer
	out      *keys
	writeErr error // of every further write
}

// newSession returns a session with the traffic secrets of both directions, which it clears.
func newSession(w io.Writer, suite uint16, client, server []byte) (*session, error) {
	in, errIn := newKeys(suite, server)
	out, errOut := newKeys(suite, client)
	if err := cmp.Or(errIn, errOut); err != nil {
		return nil, err
	}
	return &session{in: in, w: w, out: out}, nil
}

// Size refuses every record but those of protected data.
func (s *session) Size(p []byte) (int, error) {
	if len(p) > 0 && p[0] != typeApplicationData {
		return 0, errHeader
	}
	return sizeOf(p, MaxRecord)
}

func sizeOf(p []byte, longest int) (int, error) {
	if len(p) < HeaderSize {
		return 0, nil
	}
	n := HeaderSize + int(binary.BigEndian.Uint16(p[3:]))
	if n == HeaderSize || n > longest {
		return 0, errHeader
	}
	return n, nil
}

func (s *session) Open(record []byte) (data []byte, err error) {
	if s.readErr == nil {
		data, s.readErr = s.open(record)
		secret.Scrub()
	}
	return data, s.readErr
}

func (s *session) open(record []byte) ([]byte, error) {
	text, contentType, err := s.in.open(record)
	if err != nil {
		return nil, err
	}
	if contentType == typeApplicationData && len(text) > 0 {
		s.idle = 0
		return text, nil
	}
	if s.idle++; s.idle > maxIdleRecords {
		return nil, errIdle
	}
	switch {
	case contentType == typeApplicationData:
		return nil, nil
	case contentType == typeHandshake:
		return nil, s.handshake(text)
	case contentType != typeAlert || len(text) != 2:
		return nil, errUnexpected
	case text[1] == closeNotify:
		return nil, io.EOF
	case text[1] == userCanceled: // Java sends it before close_notify; crypto/tls ignores it as well
		return nil, nil
	default:
		return nil, fmt.Errorf("the peer has ended the TLS session: %w", tls.AlertError(text[1]))
	}
}

// handshake receives the messages of a handshake record: tickets, which are skipped, and a key update, behind which the
// record must end (RFC 8446, section 5.1). Messages that span records are refused: no ticket is asked for, and a key
// update has 5 bytes. An update changes the keys of the records that we receive. Where the peer wants ours to change as
// well, they do before the next record that we send.
func (s *session) handshake(p []byte) error {
	const head = 4 // type and length of a message, in bytes
	for len(p) >= head {
		size := head + int(binary.BigEndian.Uint32(p)&0xffffff)
		switch {
		case p[0] == keyUpdate && size == head+1 && size == len(p) && p[head] <= 1:
			if p[head] == 1 {
				s.updateDue.Store(true)
			}
			return s.in.update()
		case p[0] != newSessionTicket || size > len(p):
			return errUnexpected
		case size == len(p):
			return nil
		}
		p = p[size:]
	}
	return errUnexpected
}

func (s *session) WriteInPlace(buf []byte, n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.send(buf, n, typeApplicationData)
}

var buffers = sync.Pool{New: func() any { return new([MaxPlaintext + Overhead]byte) }}

func (s *session) Write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	buf := buffers.Get().(*[MaxPlaintext + Overhead]byte)
	defer buffers.Put(buf)
	for n < len(p) {
		m := copy(buf[HeaderSize:HeaderSize+MaxPlaintext], p[n:])
		if err := s.send(buf[:], m, typeApplicationData); err != nil {
			return n, err
		}
		n += m
	}
	return n, nil
}

func (s *session) CloseWrite() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	buf := [2 + Overhead]byte{HeaderSize: 1, closeNotify} // level: warning
	if err := s.send(buf[:], 2, typeAlert); err != nil {
		return err
	}
	s.writeErr = io.ErrClosedPipe
	return nil
}

// send seals a record in place and writes it, after a key update if one is due.
func (s *session) send(buf []byte, n int, contentType byte) error {
	if s.writeErr == nil && (s.updateDue.Swap(false) || s.out.seq >= updateAfter) {
		update := [5 + Overhead]byte{HeaderSize: keyUpdate, 0, 0, 1, 0} // none is asked for
		if s.writeErr = s.sendSealed(update[:], 5, typeHandshake); s.writeErr == nil {
			s.writeErr = s.out.update()
		}
	}
	if s.writeErr == nil {
		s.writeErr = s.sendSealed(buf, n, contentType)
	}
	return s.writeErr
}

func (s *session) sendSealed(buf []byte, n int, contentType byte) error {
	record, err := s.out.seal(buf, n, contentType)
	if err != nil {
		return err
	}
	secret.Scrub()
	_, err = s.w.Write(record)
	return err
}
