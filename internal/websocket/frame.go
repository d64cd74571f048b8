package websocket

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
)

const (
	opClose   = 8
	maxHeader = 2 + 8 + 4 // two bytes, eight of length, four of mask

	// Status codes of close frames (RFC 6455, section 7.4.1).
	goingAway       = 1001
	policyViolation = 1008

	maxReason = 125 - 2 // bytes of a close frame's reason (section 5.5)
)

var errFrame = errors.New("malformed WebSocket frame")

// frameTracker finds the ends of frames by their headers (RFC 6455, section 5.2). The zero value is at a frame
// boundary.
type frameTracker struct {
	header    [maxHeader]byte
	have      int    // bytes of the header
	left      uint64 // remaining bytes of the payload, once inPayload
	inPayload bool
	payload   []byte // of the frame, among the bytes that next has consumed
}

// boundary reports whether the tracker is between two frames.
func (f *frameTracker) boundary() bool { return f.have == 0 }

// data reports whether the frame of which next has consumed bytes is not a control frame, and is known to be none.
func (f *frameTracker) data() bool { return (f.inPayload || f.boundary()) && f.header[0]&0x08 == 0 }

// message reports whether with the consumed bytes a message has ended.
func (f *frameTracker) message() bool { return f.boundary() && f.header[0]&0x80 != 0 }

// extended reports whether an extension has a part in the frame, such as compression.
func (f *frameTracker) extended() bool { return f.header[0]&0x70 != 0 }

func (f *frameTracker) masked() bool { return f.header[1]&0x80 != 0 }

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
	length, size := f.header[1]&0x7f, 2
	switch length {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if f.masked() {
		size += 4
	}
	switch {
	case f.have < size:
		return false, nil
	case f.header[0]&0x08 != 0 && (length > 125 || f.header[0]&0x80 == 0):
		return false, errFrame // control frames are short and not fragmented (section 5.5)
	case length == 126:
		f.left = uint64(binary.BigEndian.Uint16(f.header[2:]))
	case length == 127:
		f.left = binary.BigEndian.Uint64(f.header[2:])
	default:
		f.left = uint64(length)
	}
	if f.left>>63 != 0 {
		return false, errFrame
	}
	return true, nil
}

// closeFrame returns a close frame with a status and a reason, which is truncated to what fits. It must be masked for a
// server.
func closeFrame(masked bool, status uint16, reason string) []byte {
	payload := append(binary.BigEndian.AppendUint16(nil, status), reason[:min(len(reason), maxReason)]...)
	size := byte(len(payload))
	if !masked {
		return append([]byte{0x80 | opClose, size}, payload...)
	}
	var mask [4]byte
	rand.Read(mask[:]) // never fails
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return append(append([]byte{0x80 | opClose, 0x80 | size}, mask[:]...), payload...)
}
