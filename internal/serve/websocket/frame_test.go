package websocket

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// made returns a frame with a first byte and size bytes of content.
func made(first byte, size int, masked bool) []byte {
	b := []byte{first}
	var mask byte
	if masked {
		mask = 0x80
	}
	switch {
	case size < 126:
		b = append(b, mask|byte(size))
	case size < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, mask|126), uint16(size))
	default:
		b = binary.BigEndian.AppendUint64(append(b, mask|127), uint64(size))
	}
	if masked {
		b = append(b, 1, 2, 3, 4)
	}
	return append(b, bytes.Repeat([]byte{0x88}, size)...) // looks like close frames
}

// walk passes p to a tracker in pieces and returns the ends of frames, and of close frames.
func walk(p []byte, piece int) (ends, closings []int, err error) {
	var f frameTracker
	for at := 0; at < len(p); {
		rest := p[at:min(len(p), at+piece)]
		for len(rest) > 0 {
			n, closing, err := f.next(rest)
			if err != nil {
				return ends, closings, err
			}
			if n == 0 {
				panic("no progress")
			}
			at += n
			rest = rest[n:]
			if f.boundary() {
				ends = append(ends, at)
			}
			if closing {
				closings = append(closings, at)
			}
		}
	}
	return ends, closings, nil
}

func TestFrameTracker(t *testing.T) {
	var p []byte
	var ends []int
	for _, masked := range []bool{true, false} {
		for _, size := range []int{0, 1, 2, 125, 126, 127, 65535, 65536, 70000} {
			for _, first := range []byte{0x81, 0x01, 0x00, 0x80, 0xc2} { // text, its fragments, and a compressed one
				p = append(p, made(first, size, masked)...)
				ends = append(ends, len(p))
			}
		}
		p = append(p, made(0x89, 125, masked)...) // ping
		ends = append(ends, len(p))
	}
	p = append(p, made(0x88, 2, true)...)
	ends = append(ends, len(p))
	for _, piece := range []int{1, 2, 3, 13, 16384, len(p)} {
		got, closings, err := walk(p, piece)
		if err != nil || len(closings) != 1 || closings[0] != len(p) {
			t.Fatalf("in pieces of %d: closings %v, %v", piece, closings, err)
		}
		for i := range ends {
			if len(got) != len(ends) || got[i] != ends[i] {
				t.Fatalf("in pieces of %d: %d ends, want %d", piece, len(got), len(ends))
			}
		}
	}
}

func TestNoFrames(t *testing.T) {
	for what, p := range map[string]string{
		"a long close":              "\x88\x7e\x00\x7e",
		"a longer ping":             "\x89\x7f\x00\x00\x00\x00\x00\x01\x00\x00",
		"a ping in pieces":          "\x09\x00",
		"a length beyond all sense": "\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00",
	} {
		if _, _, err := walk([]byte(p), 1); err == nil {
			t.Errorf("%s passes", what)
		}
	}
}

func TestCloseFrames(t *testing.T) {
	if got := closeFrame(false, goingAway, ""); string(got) != "\x88\x02\x03\xe9" {
		t.Errorf("to a client: %q", got)
	}
	seen := map[string]bool{}
	for range 20 {
		f := closeFrame(true, goingAway, "")
		if len(f) != 8 || f[0] != 0x88 || f[1] != 0x82 || f[6]^f[2] != 0x03 || f[7]^f[3] != 0xe9 {
			t.Fatalf("to an upstream: %q", f)
		}
		seen[string(f)] = true
	}
	if len(seen) < 2 {
		t.Error("the mask is always the same")
	}
}

// reference finds the ends of frames in one pass.
func reference(p []byte) (ends []int, ok bool) {
	for at := 0; ; {
		rest := p[at:]
		if len(rest) < 2 {
			return ends, true
		}
		size, n := 2, uint64(rest[1]&0x7f)
		switch {
		case n == 126:
			size = 4
		case n == 127:
			size = 10
		}
		if rest[1] >= 0x80 {
			size += 4
		}
		if len(rest) < size {
			return ends, true
		}
		if rest[0]&8 != 0 && (n > 125 || rest[0] < 0x80) {
			return ends, false
		}
		switch n {
		case 126:
			n = uint64(binary.BigEndian.Uint16(rest[2:]))
		case 127:
			n = binary.BigEndian.Uint64(rest[2:])
		}
		if n >= 1<<63 {
			return ends, false
		}
		if uint64(len(rest)-size) < n {
			return ends, true
		}
		at += size + int(n)
		ends = append(ends, at)
	}
}

// FuzzFrameTracker compares the ends of frames with the reference, for any pieces.
func FuzzFrameTracker(f *testing.F) {
	f.Add(append(made(0x81, 5, true), made(0x88, 2, false)...), uint8(3))
	f.Add(append(made(0x82, 300, true), made(0x09, 2, false)...), uint8(1))
	f.Add([]byte("\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00"), uint8(2))
	f.Add([]byte(strings.Repeat("\x80\x00", 20)), uint8(7))
	f.Fuzz(func(t *testing.T, p []byte, piece uint8) {
		want, ok := reference(p)
		for _, size := range []int{1, int(piece) + 1, len(p) + 1} {
			got, _, err := walk(p, size)
			if (err == nil) != ok || len(got) != len(want) {
				t.Fatalf("in pieces of %d: %v, %v; want %v, %t", size, got, err, want, ok)
			}
			for i := range got {
				if got[i] != want[i] {
					t.Fatalf("in pieces of %d: %v, want %v", size, got, want)
				}
			}
		}
	})
}
