package dump

import (
	"bytes"
	"errors"
)

var errNotJSON = errors.New("it is not JSON")

// maxDepth is how deep JSON may be nested; the original's limit too.
const maxDepth = 128

// indenter indents a JSON text (RFC 8259, in UTF-8) while it passes, and finds
// out whether it is one. Its size does not depend on the text's. It puts blanks
// and line ends in and leaves them out, and changes nothing else.
type indenter struct {
	out   *sink
	state state
	stack [maxDepth]byte // the brackets that are open
	depth int
	isKey bool   // the string that passes is one
	word  string // what must follow of true, false or null
	hex   int    // how many hexadecimal digits must follow
	runes runes
}

// state is what may come next.
type state int

const (
	value state = iota
	firstValue
	key
	firstKey
	colon
	afterValue
	inString
	inEscape
	inHex
	inWord
	afterMinus
	afterZero
	inDigits
	afterPoint
	inFraction
	afterE
	afterSign
	inExponent
)

// write takes the next bytes. After an error it must not be used.
func (j *indenter) write(p []byte) error {
	for len(p) > 0 {
		n, ok := 1, true
		if j.state == inString {
			n, ok = j.text(p)
		} else {
			ok = j.step(p[0])
		}
		if !ok {
			return errNotJSON
		}
		p = p[n:]
	}
	return nil
}

// close is for the end of the text.
func (j *indenter) close() error {
	if j.depth == 0 && (j.state == afterValue || j.numberMayEnd()) {
		return nil
	}
	return errNotJSON
}

func (j *indenter) step(c byte) bool {
	switch {
	case j.state == inEscape || j.state == inHex:
		return j.escape(c)
	case j.state == inWord:
		return j.letter(c)
	case j.state >= afterMinus:
		if j.digit(c) {
			j.out.put(c)
			return true
		}
		if !j.numberMayEnd() {
			return false
		}
		j.state = afterValue
	}
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || j.token(c)
}

// token takes the first byte of a token.
func (j *indenter) token(c byte) bool {
	switch j.state {
	case firstValue, firstKey:
		if c == closing(j.stack[j.depth-1]) {
			return j.shut(c)
		}
		j.newline()
		if j.state == firstValue {
			return j.begin(c)
		}
		return j.quote(c, true)
	case value:
		return j.begin(c)
	case key:
		return j.quote(c, true)
	case colon:
		j.out.put(':', ' ')
		j.state = value
		return c == ':'
	}
	return j.after(c)
}

// begin begins a value.
func (j *indenter) begin(c byte) bool {
	switch {
	case c == '{':
		return j.nest(c, firstKey)
	case c == '[':
		return j.nest(c, firstValue)
	case c == '"':
		return j.quote(c, false)
	case c == '-':
		j.state = afterMinus
	case c == '0':
		j.state = afterZero
	case c >= '1' && c <= '9':
		j.state = inDigits
	default:
		j.state, j.word = inWord, words[c]
		if j.word == "" {
			return false
		}
	}
	j.out.put(c)
	return true
}

var words = map[byte]string{'t': "rue", 'f': "alse", 'n': "ull"}

func (j *indenter) nest(c byte, next state) bool {
	if j.depth == maxDepth {
		return false
	}
	j.stack[j.depth] = c
	j.depth++
	j.state = next
	j.out.put(c)
	return true
}

// after takes what may follow a value.
func (j *indenter) after(c byte) bool {
	if j.depth == 0 {
		return false
	}
	bracket := j.stack[j.depth-1]
	switch c {
	case ',':
		j.out.put(c)
		j.newline()
		j.state = value
		if bracket == '{' {
			j.state = key
		}
		return true
	case closing(bracket):
		j.depth--
		j.newline()
		j.depth++
		return j.shut(c)
	}
	return false
}

func (j *indenter) shut(c byte) bool {
	j.depth--
	j.out.put(c)
	j.state = afterValue
	return true
}

func closing(bracket byte) byte { return bracket + 2 } // in ASCII, for both

var blanks = bytes.Repeat([]byte{' '}, 64)

// newline begins a line inside of all open brackets, and of the dump's own.
func (j *indenter) newline() {
	j.out.put('\n')
	for n := 2 * (j.depth + 1); n > 0; {
		step := min(n, len(blanks))
		j.out.put(blanks[:step]...)
		n -= step
	}
}

func (j *indenter) quote(c byte, isKey bool) bool {
	j.out.put(c)
	j.state, j.isKey = inString, isKey
	return c == '"'
}

// text takes the inside of a string, as far as nothing special comes.
func (j *indenter) text(p []byte) (n int, ok bool) {
	for i, c := range p {
		switch {
		case !j.runes.next(c) || c < ' ':
			return 0, false
		case c == '"':
			j.state = afterValue
			if j.isKey {
				j.state = colon
			}
		case c == '\\':
			j.state = inEscape
		default:
			continue
		}
		j.out.put(p[:i+1]...)
		return i + 1, true
	}
	j.out.put(p...)
	return len(p), true
}

func (j *indenter) escape(c byte) bool {
	j.out.put(c)
	if j.state == inHex {
		if j.hex--; j.hex == 0 {
			j.state = inString
		}
		return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
	}
	switch c {
	case 'u':
		j.state, j.hex = inHex, 4
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		j.state = inString
	default:
		return false
	}
	return true
}

func (j *indenter) letter(c byte) bool {
	if c != j.word[0] {
		return false
	}
	j.out.put(c)
	if j.word = j.word[1:]; j.word == "" {
		j.state = afterValue
	}
	return true
}

// digit goes on with a number, if c can belong to it.
func (j *indenter) digit(c byte) bool {
	isDigit := c >= '0' && c <= '9'
	for _, way := range ways[j.state-afterMinus] {
		if way.c == 'd' && isDigit || way.c != 'd' && way.c == c {
			j.state = way.to
			return true
		}
	}
	return false
}

// ways is the grammar of numbers, from afterMinus on; d is any digit.
var ways = [...][]struct {
	c  byte
	to state
}{
	{{'0', afterZero}, {'d', inDigits}},
	{{'.', afterPoint}, {'e', afterE}, {'E', afterE}},
	{{'d', inDigits}, {'.', afterPoint}, {'e', afterE}, {'E', afterE}},
	{{'d', inFraction}},
	{{'d', inFraction}, {'e', afterE}, {'E', afterE}},
	{{'d', inExponent}, {'+', afterSign}, {'-', afterSign}},
	{{'d', inExponent}},
	{{'d', inExponent}},
}

func (j *indenter) numberMayEnd() bool {
	return j.state == afterZero || j.state == inDigits || j.state == inFraction || j.state == inExponent
}

// runes holds bytes to well-formed UTF-8 (The Unicode Standard, table 3-7).
type runes struct {
	more     int  // how many bytes must follow
	min, max byte // between which the next one must be
}

func (r *runes) next(c byte) bool {
	switch {
	case r.more > 0:
		ok := c >= r.min && c <= r.max
		r.more, r.min, r.max = r.more-1, 0x80, 0xbf
		return ok
	case c < 0x80:
		return true
	}
	r.min, r.max = 0x80, 0xbf
	switch {
	case c >= 0xc2 && c <= 0xdf:
		r.more = 1
	case c >= 0xe0 && c <= 0xef:
		r.more = 2
	case c >= 0xf0 && c <= 0xf4:
		r.more = 3
	default:
		return false
	}
	r.narrow(c)
	return true
}

// narrow leaves out overlong forms, surrogates and what is beyond Unicode.
func (r *runes) narrow(first byte) {
	switch first {
	case 0xe0:
		r.min = 0xa0
	case 0xed:
		r.max = 0x9f
	case 0xf0:
		r.min = 0x90
	case 0xf4:
		r.max = 0x8f
	}
}
