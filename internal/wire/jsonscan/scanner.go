package jsonscan

import (
	"encoding/binary"
	"math/bits"
	"strings"
)

// scanner splits a document into tokens. The zero value is ready to use.
type scanner struct {
	nested  int64  // depth within the object or array that is being skipped
	objects uint32 // bit set of open objects; the outermost is bit 0
	state   state
	depth   uint8 // open objects and arrays, except skipped ones
	literal Kind  // the literal that is being read
	matched uint8 // bytes of the literal that matched
	escape  uint8 // afterBackslash, or the number of missing digits
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
	inLiteral
	inSkipped // in an object or array that is skipped
	done
	invalid

	// Within a number, after the part in the state's name:
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

const afterBackslash = 5

// next reads the first token in p and returns the rest of p. The text of a name or string is without its quotes, but
// has its escapes. If it, or a number, continues after p, its kind is part. A number ends when the byte after it
// arrives, which is not consumed.
func (s *scanner) next(p []byte) (kind Kind, text, rest []byte) {
	for len(p) > 0 && kind == None {
		switch {
		case s.state == inName || s.state == inString:
			kind, text, p = s.readText(p)
		case s.state >= beforeNumber:
			kind, text, p = s.readNumber(p)
		case s.state == inSkipped:
			p = s.readSkipped(p)
		default:
			if kind = s.readByte(p[0]); s.state != beforeNumber { // readNumber reads the whole number
				p = p[1:]
			}
		}
	}
	return kind, text, p
}

func (s *scanner) fail() Kind {
	s.state = invalid
	return Invalid
}

// readByte reads a byte outside of names, strings and numbers.
func (s *scanner) readByte(c byte) Kind {
	switch {
	case s.state == invalid:
		return Invalid
	case s.state == inLiteral:
		return s.readLiteral(c)
	case c == ' ' || c == '\n' || c == '\r' || c == '\t':
	case c == '"' && (s.state == wantFirstName || s.state == wantName):
		s.state = inName
	case c == ':' && s.state == wantColon:
		s.state = wantValue
	case c == ',' && s.state == wantComma:
		s.state = wantValue
		if s.inObject() {
			s.state = wantName
		}
	case c == '}' && (s.state == wantFirstName || s.state == wantComma && s.inObject()):
		return s.close(endObject)
	case c == ']' && (s.state == wantFirstElement || s.state == wantComma && !s.inObject()):
		return s.close(endArray)
	case s.state == wantValue, s.state == wantFirstElement, s.state == wantDocument && c == '{':
		return s.startValue(c)
	default:
		return s.fail()
	}
	return None
}

func (s *scanner) startValue(c byte) Kind {
	switch {
	case c == '"':
		s.state = inString
	case c == '{':
		return s.open(Object, 1, wantFirstName)
	case c == '[':
		return s.open(Array, 0, wantFirstElement)
	case c == '-' || '0' <= c && c <= '9':
		s.state = beforeNumber
	default:
		i := strings.IndexByte("tfn", c)
		if i < 0 {
			return s.fail()
		}
		s.state, s.literal, s.matched = inLiteral, True+Kind(i), 1
	}
	return None
}

func (s *scanner) open(kind Kind, bit uint32, next state) Kind {
	if s.depth == MaxDepth {
		return s.fail()
	}
	s.objects = s.objects&^(1<<s.depth) | bit<<s.depth
	s.depth++
	s.state = next
	return kind
}

func (s *scanner) inObject() bool { return s.objects>>(s.depth-1)&1 > 0 }

// close ends the innermost object or array.
func (s *scanner) close(kind Kind) Kind {
	s.state = wantComma
	if s.depth--; s.depth == 0 {
		s.state = done
	}
	return kind
}

var literals = [...]string{True: "true", False: "false", Null: "null"}

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

// readText reads a name or string up to its end. Of one that is skipped, only the end matters.
func (s *scanner) readText(p []byte) (kind Kind, text, rest []byte) {
	for n := 0; n < len(p); n++ {
		if s.escape == 0 {
			n += plainLength(p[n:])
		}
		switch {
		case n == len(p):
		case s.escape > 0:
			if !s.readEscape(p[n]) {
				return s.fail(), nil, nil
			}
		case p[n] == '\\':
			s.escape = afterBackslash
		case p[n] != '"' && s.nested == 0:
			return s.fail(), nil, nil
		case p[n] != '"':
		case s.nested > 0:
			s.state = inSkipped
			return None, nil, p[n+1:]
		case s.state == inName:
			s.state = wantColon
			return name, p[:n], p[n+1:]
		default:
			s.state = wantComma
			return String, p[:n], p[n+1:]
		}
	}
	return part, p, nil
}

// plainLength returns the number of bytes before the first quote, backslash or control character. It reads eight bytes
// at a time: a byte of x that is less than n <= 0x80 sets the highest bit of (x-n)&^x. A borrow sets only later ones in
// addition.
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

// readEscape reads one byte after a backslash and reports whether it may be there.
func (s *scanner) readEscape(c byte) bool {
	switch {
	case s.nested > 0: // only the byte after the backslash matters
		s.escape = 0
	case s.escape == afterBackslash && c == 'u':
		s.escape = 4
	case s.escape == afterBackslash && strings.IndexByte(`"\/bfnrt`, c) >= 0:
		s.escape = 0
	case s.escape < afterBackslash && strings.IndexByte("0123456789abcdefABCDEF", c) >= 0:
		s.escape--
	default:
		return false
	}
	return true
}

func (s *scanner) readNumber(p []byte) (kind Kind, text, rest []byte) {
	for i, c := range p {
		next := s.state.behind(c)
		switch {
		case next != invalid:
			s.state = next
		case s.state == zero || s.state == integer || s.state == fraction || s.state == power:
			s.state = wantComma
			return Number, p[:i], p[i:]
		default:
			return s.fail(), nil, nil
		}
	}
	return part, p, nil
}

// behind returns the state after c in a number, or invalid if c cannot continue it.
func (n state) behind(c byte) state {
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
	return invalid
}

// skipNested skips the rest of the object or array that was just opened, its end included, and returns no token of it.
// It counts brackets outside of strings and checks nothing else.
func (s *scanner) skipNested() {
	s.depth--
	s.nested = 1
	s.state = inSkipped
}

func (s *scanner) readSkipped(p []byte) (rest []byte) {
	for i, c := range p {
		switch c {
		case '"':
			s.state = inString
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
