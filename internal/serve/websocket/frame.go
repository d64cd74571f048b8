package websocket

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
)

const (
	maxHeader = 2 + 8 + 4 // two bytes, eight of length, four of mask
	opClose   = 8

	// Bits of a frame's first byte, and the one of its second that announces a mask (RFC 6455, section 5.2).
	fin      = 0x80
	reserved = 0x70 // for extensions, such as compression
	control  = 0x08
	mask     = 0x80

	// Status codes of close frames (section 7.4.1).
	goingAway       = 1001
	policyViolation = 1008

	maxReason = 125 - 2 // bytes of a close frame's reason (section 5.5)
)

var errFrame = errors.New("malformed WebSocket frame")

// frameTracker finds the ends of frames by their headers. The zero value is at a frame boundary.
type frameTracker struct {
	header    [maxHeader]byte
	have      int    // bytes of the header; 0 at a frame boundary
	left      uint64 // remaining bytes of the payload, once inPayload
	inPayload bool
	payload   []byte // of the frame, among the bytes that next has consumed; nil before the header is complete
}

func (f *frameTracker) boundary() bool { return f.have == 0 }

func (f *frameTracker) masked() bool { return f.header[1]&mask != 0 }

// next consumes the bytes of p that belong to the present frame, or to the next one: at least one. closing reports
// whether they complete a close frame.
func (f *frameTracker) next(p []byte) (n int, closing bool, err error) {
	for f.payload = nil; !f.inPayload; {
		if n == len(p) {
			return n, false, nil
		}
		f.header[f.have] = p[n]
		f.have++
		n++
		if f.inPayload, err = f.parse(); err != nil {
			return 0, false, err
		}
	}
	m := min(f.left, uint64(len(p)-n))
	f.left -= m
	f.payload = p[n : n+int(m)]
	if f.left == 0 {
		f.have, f.inPayload = 0, false
		closing = f.header[0]&0x0f == opClose
	}
	return n + int(m), closing, nil
}

// parse reports whether the header is complete, and sets the payload's length if it is. It refuses only what makes it
// impossible to continue: the peers check the rest.
func (f *frameTracker) parse() (whole bool, err error) {
	if f.have < 2 {
		return false, nil
	}
	short, extended := f.header[1]&^mask, 0
	switch short {
	case 126:
		extended = 2
	case 127:
		extended = 8
	}
	size := 2 + extended
	if f.masked() {
		size += 4
	}
	if f.have < size {
		return false, nil
	}
	if f.left = uint64(short); extended > 0 {
		f.left = binary.BigEndian.Uint64(f.header[2:]) >> (64 - 8*extended)
	}
	// Control frames are short and not fragmented (section 5.5).
	if f.header[0]&control != 0 && (extended > 0 || f.header[0]&fin == 0) || f.left>>63 != 0 {
		return false, errFrame
	}
	return true, nil
}

// closeFrame returns a close frame with a status and a reason, which is truncated to what fits. It must be masked for a
// server.
func closeFrame(masked bool, status uint16, reason string) []byte {
	payload := append(binary.BigEndian.AppendUint16(nil, status), reason[:min(len(reason), maxReason)]...)
	frame := []byte{fin | opClose, byte(len(payload))}
	if masked {
		var key [4]byte
		rand.Read(key[:]) // never fails
		frame = append(frame, key[:]...)
		frame[1] |= mask
		for i := range payload {
			payload[i] ^= key[i%4]
		}
	}
	return append(frame, payload...)
}
