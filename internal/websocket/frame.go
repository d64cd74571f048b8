package websocket

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
)

const (
	opClose   = 8
	maxHeader = 2 + 8 + 4 // two bytes, eight of length, four of mask
	goingAway = 1001      // RFC 6455, section 7.4.1
)

var errFrame = errors.New("malformed WebSocket frame")

// frameTracker finds where frames end. It reads their headers alone (RFC 6455, section 5.2). The zero value stands at a
// boundary.
type frameTracker struct {
	header    [maxHeader]byte
	have      int    // bytes of the header
	left      uint64 // bytes of the payload, once inPayload
	inPayload bool
}

// boundary reports whether no frame is under way.
func (f *frameTracker) boundary() bool { return f.have == 0 }

// next consumes the bytes of p that belong to the frame under way, or to the next one: at least one. closing reports
// whether with them a close frame has ended.
func (f *frameTracker) next(p []byte) (n int, closing bool, err error) {
	for !f.inPayload && n < len(p) {
		f.header[f.have] = p[n]
		f.have++
		n++
		if f.have >= 2 && f.have == f.headerSize() {
			if err := f.startPayload(); err != nil {
				return 0, false, err
			}
		}
	}
	if !f.inPayload {
		return n, false, nil
	}
	m := int(min(f.left, uint64(len(p)-n)))
	f.left -= uint64(m)
	if f.left > 0 {
		return n + m, false, nil
	}
	f.have, f.inPayload = 0, false
	return n + m, f.header[0]&0x0f == opClose, nil
}

// headerSize returns the size of the header, given its first two bytes.
func (f *frameTracker) headerSize() int {
	n := 2
	switch f.header[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if f.header[1]&0x80 != 0 {
		n += 4
	}
	return n
}

// startPayload reads the length from a whole header. Only what makes it impossible to go on is refused: the rest is for
// the peers to check.
func (f *frameTracker) startPayload() error {
	f.inPayload, f.left = true, uint64(f.header[1]&0x7f)
	switch {
	case f.header[0]&0x08 != 0 && (f.left > 125 || f.header[0]&0x80 == 0):
		return errFrame // control frames are short, and in one piece (section 5.5)
	case f.left == 126:
		f.left = uint64(binary.BigEndian.Uint16(f.header[2:]))
	case f.left == 127:
		f.left = binary.BigEndian.Uint64(f.header[2:])
	}
	if f.left>>63 != 0 {
		return errFrame
	}
	return nil
}

// closeFrame returns a close frame with status 1001. It must be masked if it goes to a server.
func closeFrame(masked bool) []byte {
	const hi, lo = goingAway >> 8, goingAway & 0xff
	if !masked {
		return []byte{0x80 | opClose, 2, hi, lo}
	}
	var mask [4]byte
	rand.Read(mask[:]) // never fails
	return append(append([]byte{0x80 | opClose, 0x80 | 2}, mask[:]...), hi^mask[0], lo^mask[1])
}
