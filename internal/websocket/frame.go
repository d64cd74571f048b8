package websocket

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
)

const (
	opClose = 8
	// maxHeader is the longest header: two bytes, eight of length, four of mask.
	maxHeader = 2 + 8 + 4

	goingAway = 1001 // RFC 6455, section 7.4.1
)

var errFrame = errors.New("this is no WebSocket frame")

// follower knows where frames end. It reads their headers alone (RFC 6455,
// section 5.2). The zero value stands at a boundary.
type follower struct {
	header [maxHeader]byte
	have   int    // bytes of the header
	left   uint64 // of the payload, once the header is whole
	whole  bool   // the header is
}

// boundary tells that no frame is under way.
func (f *follower) boundary() bool { return f.have == 0 }

// next takes the bytes of p that belong to the frame under way, or to the next
// one: at least one. closing tells that with them a close frame has ended.
func (f *follower) next(p []byte) (n int, closing bool, err error) {
	for !f.whole && n < len(p) {
		f.header[f.have] = p[n]
		f.have++
		n++
		if f.have >= 2 && f.have == f.size() {
			if err := f.begin(); err != nil {
				return 0, false, err
			}
		}
	}
	if !f.whole {
		return n, false, nil
	}
	m := int(min(f.left, uint64(len(p)-n)))
	f.left -= uint64(m)
	if f.left > 0 {
		return n + m, false, nil
	}
	closing = f.header[0]&0x0f == opClose
	f.have, f.whole = 0, false
	return n + m, closing, nil
}

// size is the header's, as its first two bytes say.
func (f *follower) size() int {
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

// begin reads the length of a header that is whole. Only what makes it
// impossible to go on is refused: the rest is for the peers to judge.
func (f *follower) begin() error {
	f.whole = true
	f.left = uint64(f.header[1] & 0x7f)
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

// closeFrame says that the service ends. Towards a server it is masked.
func closeFrame(masked bool) []byte {
	payload := binary.BigEndian.AppendUint16(nil, goingAway)
	frame := []byte{0x80 | opClose, byte(len(payload))}
	if !masked {
		return append(frame, payload...)
	}
	var mask [4]byte
	rand.Read(mask[:]) // never fails
	frame[1] |= 0x80
	frame = append(frame, mask[:]...)
	for i, c := range payload {
		frame = append(frame, c^mask[i%4])
	}
	return frame
}
