package http1

// Limits of the parts of a chunked body that are not data.
const (
	maxChunkDigits  = 15      // of a chunk's size
	maxChunkLine    = 256     // bytes of a size line: extensions are legal, and unused
	maxTrailerBytes = 8 << 10 // bytes of all trailer lines together
)

type chunkState byte

const (
	sizeDigits chunkState = iota
	sizeBlank             // white space after the digits: only an extension or the end may follow
	sizeExtension
	sizeLF
	data
	dataCR
	dataLF
	trailerStart
	trailerName
	trailerValue
	trailerLF
	endLF
	ended
)

// decoder takes the chunked coding off a body that comes in pieces of any
// size. The zero value is ready. Trailers are checked and dropped.
type decoder struct {
	state chunkState
	seen  int   // digits, bytes of the size line, or of the trailer
	left  int64 // size being read, then data bytes still to come
}

// Done reports whether the body's end has been decoded.
func (d *decoder) Done() bool { return d.state == ended }

// Decode moves the data in p to p's beginning and returns their number n, and
// how many bytes of p belong to the body: fewer than len(p) only when it has
// ended. Its errors are of type *Error; after one the body is unusable.
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
			d.state = dataCR
		}
	}
	return n, used, nil
}

// step takes one byte that is not data.
func (d *decoder) step(c byte) error {
	switch d.state {
	case sizeDigits, sizeBlank, sizeExtension, sizeLF:
		return d.stepSize(c)
	case dataCR:
		return d.expect(c, '\r', dataLF)
	case dataLF:
		d.seen, d.left = 0, 0
		return d.expect(c, '\n', sizeDigits)
	default:
		return d.stepTrailer(c)
	}
}

func (d *decoder) expect(c, want byte, next chunkState) error {
	if c != want {
		return bad("a chunk or trailer does not end with CR LF")
	}
	d.state = next
	return nil
}

func (d *decoder) stepSize(c byte) error {
	if d.seen++; d.seen > maxChunkLine {
		return bad("the line with a chunk's size is too long")
	}
	digit := hexDigit(c)
	switch {
	case d.state == sizeLF:
		d.seen = 0
		if d.left == 0 {
			return d.expect(c, '\n', trailerStart)
		}
		return d.expect(c, '\n', data)
	case d.state == sizeDigits && digit >= 0:
		if d.left = d.left<<4 | int64(digit); d.seen > maxChunkDigits {
			return bad("a chunk's size is too large")
		}
	case d.seen == 1:
		return bad("a chunk's size is not a number")
	case c == '\r':
		d.state = sizeLF
	case d.state != sizeExtension && (c == ' ' || c == '\t'):
		d.state = sizeBlank
	case d.state != sizeExtension && c != ';':
		return bad("a chunk's size is not a number")
	case c < ' ' && c != '\t' || c == 0x7f:
		return bad("a chunk extension has a control character")
	default:
		d.state = sizeExtension
	}
	return nil
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	default:
		return -1
	}
}

func (d *decoder) stepTrailer(c byte) error {
	if d.seen++; d.seen > maxTrailerBytes {
		return bad("the trailer is too long")
	}
	switch {
	case d.state == endLF:
		return d.expect(c, '\n', ended)
	case d.state == trailerLF:
		return d.expect(c, '\n', trailerStart)
	case c == '\r' && d.state == trailerStart:
		d.state = endLF
	case d.state == trailerName && c == ':':
		d.state = trailerValue
	case d.state != trailerValue && tokenChar[c]:
		d.state = trailerName
	case d.state != trailerValue:
		return bad("a trailer line is malformed")
	case c == '\r':
		d.state = trailerLF
	case c < ' ' && c != '\t', c == 0x7f:
		return bad("a trailer line has a control character")
	}
	return nil
}
