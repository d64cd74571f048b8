package http1

import (
	"bytes"
	"strings"
	"testing"
)

func TestDecoderPolicy(t *testing.T) {
	const refused = "\x00refused"
	const unfinished = "\x00unfinished"
	for _, c := range []struct{ what, in, want string }{
		{"empty body", "0\r\n\r\n", ""},
		{"one chunk", "3\r\nabc\r\n0\r\n\r\n", "abc"},
		{"two chunks", "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "abc"},
		{"hexadecimal sizes", "A\r\n0123456789\r\nb\r\n0123456789a\r\n0\r\n\r\n", "01234567890123456789a"},
		{"leading zeros", "003\r\nabc\r\n000\r\n\r\n", "abc"},
		{"data that looks like chunks", "5\r\n0\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n"},
		{"extension", "3;a=b;c=\"d e\"\r\nabc\r\n0;x\r\n\r\n", "abc"},
		{"blank before an extension", "3 ;a\r\nabc\r\n0\t\r\n\r\n", "abc"},
		{"trailers", "0\r\nA: b\r\nC:\r\n\r\n", ""},
		{"size of 15 digits", "000000000000003\r\nabc\r\n0\r\n\r\n", "abc"},
		{"trailers as long as allowed", "0\r\nA: " + strings.Repeat("b", maxTrailerBytes-7) + "\r\n\r\n", ""},
		{"extension as long as allowed", "3;" + strings.Repeat("x", maxChunkLine-4) + "\r\nabc\r\n0\r\n\r\n", "abc"},

		{"no size", "\r\nabc\r\n0\r\n\r\n", refused},
		{"only an extension", ";a\r\n", refused},
		{"blank first", " 3\r\nabc\r\n", refused},
		{"sign", "+3\r\nabc\r\n", refused},
		{"minus", "-3\r\nabc\r\n", refused},
		{"0x", "0x3\r\nabc\r\n", refused},
		{"letters", "3g\r\nabc\r\n", refused},
		{"second number after a blank", "3 4\r\nabc\r\n0\r\n\r\n", refused},
		{"word after a blank", "0 x\r\n\r\n", refused},
		{"underscore", "1_0\r\n", refused},
		{"UTF-8 digit", "\u0663\r\nabc\r\n", refused},
		{"size of 16 digits", "0000000000000003\r\nabc\r\n", refused},
		{"size that wraps around", "10000000000000003\r\nabc\r\n", refused},
		{"size of 2^63", "8000000000000000\r\n", refused},
		{"extension too long", "3;" + strings.Repeat("x", maxChunkLine-3) + "\r\nabc\r\n0\r\n\r\n", refused},
		{"bare LF after the size", "3\nabc\r\n0\r\n\r\n", refused},
		{"bare LF in an extension", "3;a\nabc\r\n0\r\n\r\n", refused},
		{"bare CR after the size", "3\rabc\r\n0\r\n\r\n", refused},
		{"bare CR in an extension", "3;a\rb\r\nabc\r\n", refused},
		{"NUL in an extension", "3;\x00\r\nabc\r\n", refused},
		{"chunk longer than its size", "3\r\nabcd\r\n0\r\n\r\n", refused},
		{"chunk shorter than its size", "3\r\nab\r\n0\r\n\r\n", refused},
		{"a byte in place of the CR after the data", "3\r\nabcd\n0\r\n\r\n", refused},
		{"a trailer in place of the CR after the data", "3\r\nabcA: b\r\n\r\n", refused},
		{"bare LF after the data", "3\r\nabc\n0\r\n\r\n", refused},
		{"bare CR after the data", "3\r\nabc\rx0\r\n\r\n", refused},
		{"bare LF at the end", "0\r\n\n", refused},
		{"bare LF after the last size", "0\n\r\n", refused},
		{"bare CR at the end", "0\r\n\rx", refused},
		{"bare LF in a trailer", "0\r\nA: b\n\r\n", refused},
		{"bare CR in a trailer", "0\r\nA: b\rC: d\r\n\r\n", refused},
		{"folded trailer", "0\r\nA: b\r\n c\r\n\r\n", refused},
		{"first trailer folded", "0\r\n A: b\r\n\r\n", refused},
		{"trailer without a name", "0\r\n: b\r\n\r\n", refused},
		{"trailer without a colon", "0\r\nabc\r\n\r\n", refused},
		{"blank in a trailer's name", "0\r\nA B: c\r\n\r\n", refused},
		{"blank before a trailer's colon", "0\r\nA : c\r\n\r\n", refused},
		{"NUL in a trailer", "0\r\nA: \x00\r\n\r\n", refused},
		{"trailers too long", "0\r\nA: " + strings.Repeat("b", maxTrailerBytes-6) + "\r\n\r\n", refused},
		{"endless trailers", "0\r\n" + strings.Repeat("A: b\r\n", maxTrailerBytes/6+1) + "\r\n", refused},

		{"nothing", "", unfinished},
		{"cut in a size", "3", unfinished},
		{"cut in the data", "3\r\nab", unfinished},
		{"cut between chunks", "3\r\nabc\r\n", unfinished},
		{"cut before the last line", "0\r\n", unfinished},
		{"cut in a trailer", "0\r\nA: b\r\n", unfinished},
	} {
		t.Run(c.what, func(t *testing.T) {
			var d decoder
			p := []byte(c.in)
			n, used, err := d.Decode(p)
			got := string(p[:n])
			switch {
			case err != nil:
				got = refused
			case d.state != ended:
				got = unfinished
			}
			if got != c.want {
				t.Errorf("%q (%v), want %q", got, err, c.want)
			}
			if err == nil && used != len(c.in) {
				t.Errorf("%d of %d bytes used", used, len(c.in))
			}
			if err != nil && status(err) != 400 {
				t.Errorf("status %d", status(err))
			}
		})
	}
}

// TestDecoderStopsAtTheEnd: the bytes after the body belong to the next message.
func TestDecoderStopsAtTheEnd(t *testing.T) {
	const body, next = "3\r\nabc\r\n0\r\nA: b\r\n\r\n", "POST / HTTP/1.1\r\n"
	var d decoder
	p := []byte(body + next)
	n, used, err := d.Decode(p)
	if err != nil || used != len(body) || string(p[:n]) != "abc" || string(p[used:]) != next {
		t.Errorf("Decode: %q, %d, %v, left %q", p[:n], used, err, p[used:])
	}
	if n, used, err := d.Decode(p[used:]); n != 0 || used != 0 || err != nil {
		t.Errorf("Decode after the end: %d, %d, %v", n, used, err)
	}
}

// TestDecoderLimitsByteByByte: the limits do not depend on how the bytes arrive.
func TestDecoderLimitsByteByByte(t *testing.T) {
	for _, in := range []string{"3;" + strings.Repeat("x", 2*maxChunkLine), "0\r\n" + strings.Repeat("A: b\r\n", maxTrailerBytes)} {
		var d decoder
		var err error
		at := 0
		for ; at < len(in) && err == nil; at++ {
			_, _, err = d.Decode([]byte{in[at]})
		}
		if err == nil || at > maxTrailerBytes+maxChunkLine {
			t.Errorf("%.10q...: %v after %d bytes", in, err, at)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	event := "event: response.output_text.delta\r\ndata: " + strings.Repeat("x", 180) + "\r\n\r\n"
	chunk := []byte("e1\r\n" + event[:0xe1] + "\r\n")
	body := bytes.Repeat(chunk, 16)
	p := make([]byte, len(body))
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	var d decoder
	for b.Loop() {
		copy(p, body)
		if _, used, err := d.Decode(p); err != nil || used != len(p) {
			b.Fatal(used, err)
		}
	}
}
