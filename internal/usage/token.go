package usage

import (
	"bytes"
	"math"
	"unicode/utf8"
)

// text collects a short string with its escapes resolved. What we look
// for is short and plain ASCII; a string that cannot be that is dropped.
type text struct {
	buf    [24]byte
	n      uint8
	long   bool
	escape uint8 // 1 behind a backslash; behind \u one more than the digits to come
	code   rune  // of those digits
}

// bytes returns the string, or nil if it is none of ours.
func (t *text) bytes() []byte {
	if t.long {
		return nil
	}
	return t.buf[:t.n]
}

// takeWhole takes a string in one go if all of it is in p and nothing in it is
// escaped, as it nearly always is. It returns the bytes taken, with the quote.
func (t *text) takeWhole(p []byte) int {
	end := bytes.IndexByte(p, '"')
	if end < 0 || *t != (text{}) || bytes.IndexByte(p[:end], '\\') >= 0 {
		return 0
	}
	t.long = end > len(t.buf)
	t.n = uint8(copy(t.buf[:], p[:end]))
	return end + 1
}

// take reads a byte; it returns true at the closing quote.
func (t *text) take(c byte) (end bool) {
	switch {
	case t.escape == 1:
		t.resolve(c)
	case t.escape > 1:
		t.digit(c)
	case c == '"':
		return true
	case c == '\\':
		t.escape = 1
	default:
		t.put(c)
	}
	return false
}

func (t *text) put(c byte) {
	if int(t.n) == len(t.buf) || c >= utf8.RuneSelf {
		t.long = true
		return
	}
	t.buf[t.n] = c
	t.n++
}

// resolve reads the byte behind a backslash.
func (t *text) resolve(c byte) {
	t.escape = 0
	switch c {
	case 'u':
		t.escape, t.code = 5, 0
	case '"', '\\', '/':
		t.put(c)
	default: // a control character, which none of our strings has
		t.long = true
	}
}

// digit reads one of the four digits behind \u.
func (t *text) digit(c byte) {
	t.code = t.code<<4 | hex(c)
	if t.escape--; t.escape > 1 {
		return
	}
	t.escape = 0
	if t.code >= utf8.RuneSelf {
		t.long = true
		return
	}
	t.put(byte(t.code))
}

// hex returns a digit's value. What is none makes the code too large for ASCII.
func hex(c byte) rune {
	switch {
	case '0' <= c && c <= '9':
		return rune(c - '0')
	case 'a' <= c && c <= 'f':
		return rune(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return rune(c-'A') + 10
	}
	return 1 << 16 // it stays above utf8.RuneSelf however it is shifted: at most 12 more
}

// maxModel is what is kept of a model's name, in bytes.
const maxModel = 64

// model collects a model's name. One with an escape is given up: such a name is
// none that the upstream has.
type model struct {
	buf   [maxModel]byte
	n     uint8
	known bool
}

// put takes a byte of the name; it returns false if no more is wanted.
func (m *model) put(c byte) bool {
	if int(m.n) == len(m.buf) {
		m.known = true
		m.n = uint8(wholeRunes(m.buf[:]))
		return false
	}
	if c == '\\' || c < ' ' {
		m.n = 0
		return false
	}
	m.buf[m.n] = c
	m.n++
	return true
}

// wholeRunes returns the length of p without a rune at its end that was cut.
func wholeRunes(p []byte) int {
	for i := 1; i < utf8.UTFMax && i <= len(p); i++ {
		if last := p[len(p)-i:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				return len(p) - i
			}
			break
		}
	}
	return len(p)
}

// number reads a JSON number. Only 0 and digits without a leading 0 are plain.
// For every other one it keeps an upper bound of its value, so that no way of
// writing a number makes it count for less.
type number struct {
	value    int64 // of the digits before a point; one more if there is a point
	exponent int
	part     part
	digits   bool
	negative bool
	small    bool // the exponent is negative
	odd      bool
}

type part uint8

const (
	whole part = iota
	fraction
	exponent
)

// maxExponent is where every number but 0 is beyond an int64.
const maxExponent = 19

func (n *number) take(c byte) {
	if '0' <= c && c <= '9' {
		n.digit(c - '0')
		return
	}
	n.odd = true
	switch {
	case c == '-' && n.part == exponent:
		n.small = true
	case c == '-' && !n.digits:
		n.negative = true
	case c == '.' && n.part == whole:
		n.part = fraction
		n.value = plus(n.value, 1)
	case c == 'e' || c == 'E':
		n.part = exponent
	}
}

func (n *number) digit(v byte) {
	switch n.part {
	case whole:
		overflow := n.value > (math.MaxInt64-int64(v))/10
		n.odd = n.odd || overflow || n.digits && n.value == 0
		n.value = plus(times10(n.value), int64(v))
		n.digits = true
	case exponent:
		n.exponent = min(n.exponent*10+int(v), maxExponent)
	}
}

func (n *number) plain() bool { return n.digits && !n.odd }

// bound returns a plain number's value, or the least that an odd one cannot
// exceed as far as it was kept.
func (n *number) bound() int64 {
	if n.negative {
		return 0
	}
	v := n.value
	if !n.small {
		for range n.exponent {
			v = times10(v)
		}
	}
	return v
}

// times10 stops at the largest number.
func times10(v int64) int64 {
	if v > math.MaxInt64/10 {
		return math.MaxInt64
	}
	return v * 10
}

// maxID is the longest id that is kept, in bytes. OpenAI's have about 55.
const maxID = 160

// ident collects a response's id. One that is longer, or has an escape, is
// none: a part of an id could be another one.
type ident struct {
	buf   [maxID]byte
	n     uint8
	whole bool // its closing quote has been read
	fixed bool // it is the answer's, for good
}

// put takes a byte of the id; it returns false if it is none after all.
func (id *ident) put(c byte) bool {
	if int(id.n) == len(id.buf) || c == '\\' || c < ' ' {
		id.n = 0
		return false
	}
	id.buf[id.n] = c
	id.n++
	return true
}

// forget drops an id that turned out not to be the answer's.
func (id *ident) forget() {
	if !id.fixed {
		id.n, id.whole = 0, false
	}
}
