// Package tlsrecord is the record layer of a TLS client after the handshake, which crypto/tls performs. With TLS 1.3
// (RFC 8446, section 5) this package seals and opens all later records, in memory that the caller chooses: a message is
// sealed in place, in secret memory, and opened where it was received. crypto/tls would copy it into a buffer in the
// heap.
//
// The package does not read from the network after the handshake. The caller reads records, as far ahead as it chooses,
// and so can check what was received and not yet opened.
package tlsrecord

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/secret"
)

// Sizes in bytes.
const (
	// HeaderSize is the size of a record's header.
	HeaderSize = 5
	// Overhead is the difference in size between a record and its plaintext, without padding.
	Overhead = HeaderSize + 1 + tagSize
	// MaxPlaintext is the size of the longest plaintext of a record (RFC 8446, section 5.1).
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
	// maxIdleRecords is the maximum number of consecutive records without data. They are legal, as padding of the traffic
	// (RFC 8446, section 5.4), but without a limit a peer could keep the client busy.
	maxIdleRecords = 32
	// updateAfter is the number of records after which the client updates its own keys, below the limit for AES-GCM,
	// 2^24.5 (RFC 8446, section 5.5). The number of records received is the peer's to limit.
	updateAfter = 1 << 24
	// maxTickets is the size in bytes of the longest first record whose tickets are used. Servers' tickets have a few
	// hundred bytes.
	maxTickets = 2 << 10
	// maxMessage is the size in bytes of the longest handshake message that is skipped, as in crypto/tls.
	maxMessage = 64 << 10
)

var (
	errHeader     = errors.New("not a TLS record, or one of an invalid size")
	errUnexpected = errors.New("unexpected TLS record after the handshake")
	errIdle       = errors.New("too many TLS records without data")
)

// Layer is the record layer of one connection. One goroutine may call Open while others write.
type Layer interface {
	// Size returns the size of the record at the beginning of p: 0 if p is shorter than a header, more than len(p) if
	// the record is incomplete.
	Size(p []byte) (int, error)
	// Open opens one record of the size that Size returned, in place. It returns the application data, which begins at
	// record[HeaderSize], and is empty for a record of the protocol itself. The error is io.EOF after the peer's
	// close_notify. After any error every further Open fails. No plaintext is left in registers.
	Open(record []byte) (data []byte, err error)
	// Write sends p, which is not secret, in as many records as needed.
	Write(p []byte) (n int, err error)
	// WriteInPlace sends the n bytes at buf[HeaderSize:], at most MaxPlaintext, as one record. It overwrites n +
	// Overhead bytes of buf. With TLS 1.3 no plaintext is left in memory or registers when the write, which may block,
	// begins.
	WriteInPlace(buf []byte, n int) error
	// CloseWrite sends close_notify (RFC 8446, section 6.1). Later writes fail.
	CloseWrite() error
}

// session is the Layer of TLS 1.3.
type session struct {
	in      *keys
	idle    int                 // consecutive records without data
	readErr error               // returned by every further Open
	tickets func(record []byte) // receives the first record if it is short and has no data; may be nil

	// Of a ticket that is not yet complete: the first headSize bytes of its type and length, or how many of its bytes are
	// still to come.
	head     [4]byte
	headSize int
	skip     int

	updateDue atomic.Bool // the peer has requested an update, once or more often: one is enough (RFC 8446, section 4.6.3)

	mu       sync.Mutex // guards the fields below: records must be written in the order of their numbers
	w        io.Writer
	out      *keys
	writeErr error // returned by every further write
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

// Size refuses all content types but application_data, the outer type of every protected record (RFC 8446, section
// 5.2). Records without protection are over: change_cipher_spec is legal until the handshake's end only (section 5).
// The version is ignored, as section 5.1 requires.
func (s *session) Size(p []byte) (int, error) {
	if len(p) > 0 && p[0] != typeApplicationData {
		return 0, errHeader
	}
	return sizeOf(p, MaxRecord)
}

// sizeOf returns the size in a record's header. It refuses an empty record, which has neither a content type nor a tag.
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

// Open returns the first error again on every later call: after it, the number or the keys no longer match the peer's.
// No alert is sent (RFC 8446, section 6.2): the caller closes the connection, and a write might block. Open scrubs the
// vector registers, through which the plaintext has passed.
func (s *session) Open(record []byte) (data []byte, err error) {
	if s.readErr != nil {
		return nil, s.readErr
	}
	tickets, sealed := s.tickets, []byte(nil)
	if s.tickets = nil; tickets != nil && len(record) <= maxTickets {
		sealed = bytes.Clone(record) // open overwrites it
	}
	data, s.readErr = s.open(record)
	secret.Scrub()
	if sealed != nil && len(data) == 0 && s.readErr == nil {
		go tickets(sealed) // its stack grows to several times that of a stream
	} else {
		clear(sealed) // the keys to open it lie in the heap, and its data may echo the key
	}
	return data, s.readErr
}

// open processes one record by its inner content type (RFC 8446, section 5.2), which an observer cannot see or change.
func (s *session) open(record []byte) ([]byte, error) {
	text, contentType, err := s.in.open(record)
	if err != nil {
		return nil, err
	}
	if contentType != typeHandshake && s.headSize+s.skip > 0 {
		return nil, errUnexpected // between the parts of a ticket (RFC 8446, section 5.1)
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
	// Only close_notify ends the session cleanly: without it an attacker may have truncated the data (RFC 8446, section
	// 6.1).
	case text[1] == closeNotify:
		return nil, io.EOF
	case text[1] == userCanceled: // Java sends it before close_notify; crypto/tls ignores it too
		return nil, nil
	default: // fatal, whatever its level and even if it is unknown (section 6)
		return nil, fmt.Errorf("the peer has ended the TLS session: %w", tls.AlertError(text[1]))
	}
}

// handshake processes the messages in a handshake record: it skips tickets, and performs a key update, which must end
// its record, since messages must not span a change of keys (RFC 8446, section 5.1). An update changes the receiving
// keys; if the peer requests it, the sending keys change before the next record is sent (section 4.6.3). An empty
// record is forbidden (section 5.1).
//
// A ticket may be split over records anywhere, as OpenSSL splits it if its records are set to be short. None of it is
// kept, and open refuses other records in between. A split update is refused: it has 5 bytes.
func (s *session) handshake(p []byte) error {
	if len(p) == 0 {
		return errUnexpected
	}
	for len(p) > 0 {
		switch {
		case s.skip > 0:
			n := min(s.skip, len(p))
			s.skip, p = s.skip-n, p[n:]
		case s.headSize > 0 || p[0] == newSessionTicket:
			n := copy(s.head[s.headSize:], p)
			s.headSize, p = s.headSize+n, p[n:]
			if s.headSize == len(s.head) {
				s.headSize, s.skip = 0, int(binary.BigEndian.Uint32(s.head[:])&0xffffff)
			}
			if s.skip > maxMessage {
				return errUnexpected
			}
		case len(p) == 5 && binary.BigEndian.Uint32(p) == keyUpdate<<24|1 && p[4] <= 1:
			if p[4] == 1 {
				s.updateDue.Store(true)
			}
			return s.in.update()
		default:
			return errUnexpected
		}
	}
	return nil
}

func (s *session) WriteInPlace(buf []byte, n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.send(buf, n, typeApplicationData)
}

// buffers are for Write. They are not wiped, because its data is not secret.
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

// send performs a key update if one is due, and then seals a record in place and writes it.
func (s *session) send(buf []byte, n int, contentType byte) error {
	if s.writeErr == nil && (s.updateDue.Swap(false) || s.out.seq >= updateAfter) {
		// The update is sealed with the present keys, which change directly after it (RFC 8446, section 4.6.3). It
		// requests none in return, so that two peers do not update forever.
		update := [5 + Overhead]byte{HeaderSize: keyUpdate, 0, 0, 1, 0} // update_not_requested
		if s.writeErr = s.sendSealed(update[:], 5, typeHandshake); s.writeErr == nil {
			s.writeErr = s.out.update()
		}
	}
	if s.writeErr == nil {
		s.writeErr = s.sendSealed(buf, n, contentType)
	}
	return s.writeErr
}

// sendSealed seals a record and writes it. A failed write leaves the peer's state unknown, so that all further writes
// fail.
func (s *session) sendSealed(buf []byte, n int, contentType byte) error {
	record, err := s.out.seal(buf, n, contentType)
	if err != nil {
		return err
	}
	// The plaintext has passed through the vector registers, and the write may block.
	secret.Scrub()
	_, err = s.w.Write(record)
	return err
}
