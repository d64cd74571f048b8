package jsonscan

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner splits a document into tokens. The zero value is at its beginning.
type scanner struct {
	nested  int64   // objects and arrays that are open in the one that is skipped
	objects uint32  // which of the open ones are objects; the outermost is bit 0
	code    uint16  // of the escape's character
	high    uint16  // half of a surrogate pair whose other half comes next
	decoded [6]byte // one character, or two of at most three bytes
	state   state
	depth   uint8   // objects and arrays that are open and not skipped
	numeral numeral // in a number
	literal Kind    // that is being read
	matched uint8   // bytes of it
	escape  uint8   // afterBackslash, or the number of missing digits; in a skipped string 1 behind a backslash
	escaped bool    // the last name or string has had an escape
	skip    bool    // the next value if it is a string: no token of it is returned
	inPlace bool    // the characters of escapes are left out
}

type state uint8

const (
	wantDocument state = iota
	wantFirstName
	wantName
	wantColon
	wantFirstElement
	wantValue
	wantComma
	inName
	inString
	inNumber
	inLiteral
	inSkipped // an object or array
	inSkippedString
	done
	invalid
)

const afterBackslash = 5

// next reads the first token in p and returns the rest of p. The text of a name,
// string or number may come in several parts, some of them empty: all but the
// last are of kind Part. A number ends with the byte behind it, which is not read
// yet.
func (s *scanner) next(p []byte) (kind Kind, text, rest []byte) {
	for len(p) > 0 {
		switch s.state {
		case inName, inString:
			return s.readText(p)
		case inNumber:
			return s.readNumber(p)
		case inSkipped:
			p = s.readSkipped(p)
		case inSkippedString:
			p = s.readSkippedString(p)
		case invalid:
			return Invalid, nil, nil
		default:
			if kind = s.readByte(p[0]); s.state != inNumber {
				p = p[1:]
			}
			if kind != None {
				return kind, nil, p
			}
		}
	}
	return None, nil, nil
}

func (s *scanner) fail() Kind {
	s.state = invalid
	return Invalid
}

// readByte reads a byte outside of names, strings and numbers. Of a number it
// does not even read the first one.
func (s *scanner) readByte(c byte) Kind {
	if c <= ' ' && (c == ' ' || c == '\n' || c == '\r' || c == '\t') && s.state != inLiteral {
		return None
	}
	switch s.state {
	case inLiteral:
		return s.readLiteral(c)
	case wantDocument:
		if c == '{' {
			return s.open(c)
		}
	case wantFirstName, wantName:
		if c == '"' {
			s.escaped = false
			s.state = inName
			return None
		}
		if c == '}' && s.state == wantFirstName {
			return s.close(c)
		}
	case wantColon:
		if c == ':' {
			s.state = wantValue
			return None
		}
	case wantFirstElement, wantValue:
		if c == ']' && s.state == wantFirstElement {
			return s.close(c)
		}
		return s.startValue(c)
	case wantComma:
		if c != ',' {
			return s.close(c)
		}
		s.state = wantValue
		if s.inObject() {
			s.state = wantName
		}
		return None
	}
	return s.fail()
}

func (s *scanner) startValue(c byte) Kind {
	skip := s.skip
	s.skip = false
	switch {
	case c == '"' && skip:
		s.state = inSkippedString
	case c == '"':
		s.escaped = false
		s.state = inString
	case c == '{' || c == '[':
		return s.open(c)
	case c == '-' || '0' <= c && c <= '9':
		s.numeral = beforeNumber
		s.state = inNumber
	default:
		return s.startLiteral(c)
	}
	return None
}

func (s *scanner) open(c byte) Kind {
	if s.depth == MaxDepth {
		return s.fail()
	}
	s.depth++
	if c == '[' {
		s.objects &^= 1 << (s.depth - 1)
		s.state = wantFirstElement
		return Array
	}
	s.objects |= 1 << (s.depth - 1)
	s.state = wantFirstName
	return Object
}

func (s *scanner) inObject() bool { return s.objects>>(s.depth-1)&1 > 0 }

// close reads the end of the innermost object or array.
func (s *scanner) close(c byte) Kind {
	kind, want := endArray, byte(']')
	if s.inObject() {
		kind, want = endObject, '}'
	}
	if c != want {
		return s.fail()
	}
	s.depth--
	s.state = wantComma
	if s.depth == 0 {
		s.state = done
	}
	return kind
}

var literals = [...]string{True: "true", False: "false", Null: "null"}

func (s *scanner) startLiteral(c byte) Kind {
	for kind := True; kind <= Null; kind++ {
		if literals[kind][0] == c {
			s.literal, s.matched = kind, 1
			s.state = inLiteral
			return None
		}
	}
	return s.fail()
}

func (s *scanner) readLiteral(c byte) Kind {
	word := literals[s.literal]
	if c != word[s.matched] {
		return s.fail()
	}
	if s.matched++; int(s.matched) < len(word) {
		return None
	}
	s.state = wantComma
	return s.literal
}

// readText reads a name or string up to its end or past one escape.
func (s *scanner) readText(p []byte) (kind Kind, text, rest []byte) {
	n := 0
	if s.escape == 0 && s.high == 0 {
		n = plainLength(p)
		if n < len(p) && p[n] == '"' {
			if s.state == inString {
				s.state = wantComma
				return String, p[:n], p[n+1:]
			}
			s.state = wantColon
			rest = p[n+1:]
			if len(rest) > 0 && rest[0] == ':' { // as is usual
				s.state = wantValue
				rest = rest[1:]
			}
			return name, p[:n], rest
		}
	}
	switch {
	case s.escape > 0:
		return s.readEscape(p)
	case n == len(p):
		return Part, p, nil
	case p[n] == '\\':
		s.escape, s.escaped = afterBackslash, true
		return Part, p[:n], p[n+1:]
	case s.high != 0:
		s.high = 0
		return Part, append(s.decoded[:0], "\ufffd"...), p
	}
	return s.fail(), nil, nil
}

// plainLength returns the number of bytes in front of the first quote, backslash
// or control character. It takes eight at a time: a byte of x that is less than
// n <= 0x80 sets the highest bit of (x-n)&^x. A borrow sets others behind it only.
func plainLength(p []byte) int {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	rest := p
	for ; len(rest) >= 8; rest = rest[8:] {
		x := binary.LittleEndian.Uint64(rest)
		quote, backslash := x^ones*'"', x^ones*'\\'
		found := ((x - ones*' ') | (quote - ones) | (backslash - ones)) &^ x & high
		if found != 0 {
			return len(p) - len(rest) + bits.TrailingZeros64(found)/8
		}
	}
	for n, c := range rest {
		if c == '"' || c == '\\' || c < ' ' {
			return len(p) - len(rest) + n
		}
	}
	return len(p)
}

// readEscape reads what is behind a backslash and returns its character.
func (s *scanner) readEscape(p []byte) (kind Kind, text, rest []byte) {
	const letters, meaning, digits = `"\/bfnrt`, "\"\\/\b\f\n\r\t", "0123456789abcdefABCDEF"
	for i, c := range p {
		letter, digit := strings.IndexByte(letters, c), strings.IndexByte(digits, c)
		switch {
		case s.escape == afterBackslash && c == 'u':
			s.escape, s.code = 4, 0
		case s.escape == afterBackslash && letter >= 0:
			s.escape, s.code = 0, uint16(meaning[letter])
		case s.escape < afterBackslash && digit >= 0:
			if digit > 15 {
				digit -= 6 // a capital letter
			}
			s.escape, s.code = s.escape-1, s.code<<4|uint16(digit)
		default:
			return s.fail(), nil, nil
		}
		if s.escape > 0 {
			continue
		}
		if !s.inPlace {
			text = s.decode(rune(s.code))
		}
		return Part, text, p[i+1:]
	}
	return None, nil, nil
}

// decode returns the character of an escape, which is complete unless it is the
// first half of a surrogate pair. In front of it comes U+FFFD for a first half
// that has no second one.
func (s *scanner) decode(r rune) []byte {
	text := s.decoded[:0]
	if s.high != 0 {
		pair := utf16.DecodeRune(rune(s.high), r)
		s.high = 0
		if pair != utf8.RuneError {
			return utf8.AppendRune(text, pair)
		}
		text = utf8.AppendRune(text, utf8.RuneError)
	}
	if 0xd800 <= r && r < 0xdc00 {
		s.high = uint16(r)
		return text
	}
	return utf8.AppendRune(text, r)
}

// numeral is a position in a number.
type numeral uint8

const (
	outside numeral = iota
	beforeNumber
	minus
	zero
	integer
	point
	fraction
	exponent
	sign
	power
)

// next returns the position behind c, or outside if the number does not go on
// with c.
func (n numeral) next(c byte) numeral {
	digit := '0' <= c && c <= '9'
	switch {
	case n == beforeNumber && c == '-':
		return minus
	case n <= minus && c == '0':
		return zero
	case (n <= minus || n == integer) && digit:
		return integer
	case (n == zero || n == integer) && c == '.':
		return point
	case (n == point || n == fraction) && digit:
		return fraction
	case (n == zero || n == integer || n == fraction) && (c == 'e' || c == 'E'):
		return exponent
	case n == exponent && (c == '+' || c == '-'):
		return sign
	case n >= exponent && digit:
		return power
	}
	return outside
}

func (s *scanner) readNumber(p []byte) (kind Kind, text, rest []byte) {
	for i, c := range p {
		next := s.numeral.next(c)
		if next != outside {
			s.numeral = next
			continue
		}
		switch s.numeral {
		case zero, integer, fraction, power:
			s.state = wantComma
			return Number, p[:i], p[i:]
		}
		return s.fail(), nil, nil
	}
	return Part, p, nil
}

// skipNested passes over the rest of the object or array that was just opened,
// its end included, and returns no token of it. It counts brackets outside of
// strings and checks nothing.
func (s *scanner) skipNested() {
	s.depth--
	s.nested = 1
	s.state = inSkipped
}

func (s *scanner) readSkipped(p []byte) (rest []byte) {
	for i, c := range p {
		switch c {
		case '"':
			s.state = inSkippedString
			return p[i+1:]
		case '{', '[':
			s.nested++
		case '}', ']':
			if s.nested--; s.nested == 0 {
				s.state = wantComma
				return p[i+1:]
			}
		}
	}
	return nil
}

// readSkippedString passes over a string up to the first quote that no backslash
// escapes. Each run of backslashes is looked at once.
func (s *scanner) readSkippedString(p []byte) (rest []byte) {
	for at := 0; ; at++ {
		n := bytes.IndexByte(p[at:], '"')
		if n < 0 {
			s.escape = s.escapedAt(p, len(p))
			return nil
		}
		if at += n; s.escapedAt(p, at) > 0 {
			continue
		}
		s.escape = 0
		s.state = wantComma
		if s.nested > 0 {
			s.state = inSkipped
		}
		return p[at+1:]
	}
}

// escapedAt returns 1 if a backslash escapes the byte behind p[:at], and else 0.
func (s *scanner) escapedAt(p []byte, at int) uint8 {
	n := 0
	for n < at && p[at-n-1] == '\\' {
		n++
	}
	if n == at {
		n += int(s.escape) // which is for p[0]
	}
	return uint8(n & 1)
}
