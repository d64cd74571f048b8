package http1

import "strings"

// Limits for the parts of a chunked body that are not data.
const (
	maxChunkDigits  = 15      // digits of a chunk's size
	maxChunkLine    = 256     // bytes of a size line, its end included: extensions are legal, and unused
	maxTrailerBytes = 8 << 10 // bytes of all trailer lines together
)

type chunkState byte

const (
	sizeDigits chunkState = iota
	sizeBlank             // white space after the digits: only an extension or the line's end may follow
	sizeExtension
	data
	dataEnd
	trailerStart
	trailerName
	trailerValue
	lineFeed // a line feed must follow, and then the state next
	ended
)

// decoder decodes the chunked transfer coding (RFC 9112, section 7.1) of a body that arrives in pieces of any size. The
// zero value is ready to use. It checks trailers and drops them.
type decoder struct {
	state, next chunkState
	seen        int   // digits, or bytes of the size line or of the trailer
	left        int64 // the size that is being read, then the data bytes that remain
}

// Decode moves the data in p to the beginning of p. It returns the number n of data bytes, and how many bytes of p
// belong to the body: fewer than len(p) only if the body has ended. Its errors are of type *Error; after an error the
// decoder must not be used.
func (d *decoder) Decode(p []byte) (n, used int, err error) {
	for used < len(p) && d.state != ended {
		if d.state != data {
			if err := d.step(p[used]); err != nil {
				return n, used, err
			}
			used++
			continue
		}
		m := int(min(d.left, int64(len(p)-used)))
		if n != used {
			copy(p[n:], p[used:used+m])
		}
		n, used, d.left = n+m, used+m, d.left-int64(m)
		if d.left == 0 {
			d.state = dataEnd
		}
	}
	return n, used, nil
}

// step processes one byte that is not data.
func (d *decoder) step(c byte) error {
	switch {
	case d.state == lineFeed && c == '\n':
		d.state = d.next
	case d.state == dataEnd && c == '\r':
		*d = decoder{state: lineFeed, next: sizeDigits}
	case d.state == lineFeed || d.state == dataEnd:
		return bad("a chunk or trailer does not end with CR LF")
	case d.state <= sizeExtension:
		return d.stepSize(c)
	default:
		return d.stepTrailer(c)
	}
	return nil
}

func (d *decoder) stepSize(c byte) error {
	if d.seen++; d.seen >= maxChunkLine {
		return bad("a chunk's size line is too long")
	}
	digit := strings.IndexByte("0123456789abcdefABCDEF", c)
	if digit >= 16 {
		digit -= 6
	}
	switch {
	case d.state == sizeDigits && digit >= 0:
		if d.left = d.left<<4 | int64(digit); d.seen > maxChunkDigits {
			return bad("a chunk's size is too large")
		}
	case d.seen == 1:
		return bad("a chunk's size is not a number")
	case c == '\r' && d.left == 0:
		d.state, d.next, d.seen = lineFeed, trailerStart, 0
	case c == '\r':
		d.state, d.next = lineFeed, data
	case d.state != sizeExtension && (c == ' ' || c == '\t'):
		d.state = sizeBlank
	case d.state != sizeExtension && c != ';':
		return bad("a chunk's size is not a number")
	case !valueChars[c]:
		return bad("a chunk extension has a control character")
	default:
		d.state = sizeExtension
	}
	return nil
}

func (d *decoder) stepTrailer(c byte) error {
	if d.seen++; d.seen >= maxTrailerBytes {
		return bad("the trailer is too long")
	}
	switch {
	case c == '\r' && d.state == trailerStart:
		d.state, d.next = lineFeed, ended
	case c == '\r' && d.state == trailerValue:
		d.state, d.next = lineFeed, trailerStart
		d.seen++ // the line feed
	case d.state == trailerName && c == ':':
		d.state = trailerValue
	case d.state != trailerValue && tokenChars[c]:
		d.state = trailerName
	case d.state != trailerValue:
		return bad("a trailer line is malformed")
	case !valueChars[c]:
		return bad("a trailer line has a control character")
	}
	return nil
}
