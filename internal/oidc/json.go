package oidc

import (
	"bytes"
	"errors"
)

// errJSON is every error of members: there is nothing to say about the text
// that would not be about a secret.
var errJSON = errors.New("this is not the expected JSON")

// maxDepth is how deep values may lie within values that nobody asked for.
const maxDepth = 32

// kind is what a JSON value is.
type kind byte

const (
	text kind = iota + 1
	number
	other
)

// member is a member of an object that is looked for.
type member struct {
	name  string // of ASCII, without quotes and backslashes
	kind  kind   // what its value must be
	found bool
	raw   []byte // a part of the text: what is between a string's quotes, which has no escapes, or a number's digits
}

// unsigned is the number, if it is one without sign, fraction and exponent and
// fits; 0 and true if it was not found.
func (m *member) unsigned() (n uint64, ok bool) {
	if len(m.raw) > 18 {
		return 0, false
	}
	for _, c := range m.raw {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}

// members reads doc, which must be one JSON object (RFC 8259), where it lies,
// and finds the wanted members of it. It is strict where two readers could
// differ: a wanted name may stand there once only, no name of the object may
// have an escape, nor may a wanted string. What is wanted need not be there.
func members(doc []byte, wanted ...*member) error {
	s := scanner{p: doc}
	s.blank()
	if !s.object(func() bool { return s.member(wanted) }) {
		return errJSON
	}
	s.blank()
	if s.i != len(s.p) {
		return errJSON
	}
	return nil
}

// scanner walks over JSON. Its methods return false where the text is wrong.
type scanner struct {
	p []byte
	i int
}

// member reads one member of the outermost object.
func (s *scanner) member(wanted []*member) bool {
	name, plain, ok := s.text()
	if !ok || !plain || !s.colon() {
		return false
	}
	from := s.i
	k, plain, ok := s.value(maxDepth)
	if !ok {
		return false
	}
	raw := s.p[from:s.i]
	for _, m := range wanted {
		if string(name) != m.name { // compares in place
			continue
		}
		if m.found || k != m.kind || !plain {
			return false
		}
		if k == text {
			raw = raw[1 : len(raw)-1]
		}
		m.found, m.raw = true, raw
	}
	return true
}

// value reads any value. plain is false for a string with escapes.
func (s *scanner) value(depth int) (k kind, plain, ok bool) {
	if depth == 0 {
		return 0, false, false
	}
	switch c := s.peek(); {
	case c == '"':
		_, plain, ok = s.text()
		return text, plain, ok
	case c == '-' || c >= '0' && c <= '9':
		return number, true, s.number()
	case c == '{':
		return other, true, s.object(func() bool { return s.skipMember(depth) })
	case c == '[':
		return other, true, s.list('[', ']', func() bool { return s.skip(depth) })
	default:
		return other, true, s.literal("true") || s.literal("false") || s.literal("null")
	}
}

func (s *scanner) skip(depth int) bool {
	_, _, ok := s.value(depth - 1)
	return ok
}

func (s *scanner) skipMember(depth int) bool {
	_, _, ok := s.text()
	return ok && s.colon() && s.skip(depth)
}

func (s *scanner) object(item func() bool) bool { return s.list('{', '}', item) }

// list reads items between open and end, with commas between them.
func (s *scanner) list(open, end byte, item func() bool) bool {
	if !s.take(open) {
		return false
	}
	if s.blank(); s.take(end) {
		return true
	}
	for {
		if s.blank(); !item() {
			return false
		}
		if s.blank(); s.take(end) {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

// colon reads what is between a name and its value.
func (s *scanner) colon() bool {
	if s.blank(); !s.take(':') {
		return false
	}
	s.blank()
	return true
}

// text reads a string. raw is what is between its quotes, and plain whether that
// has no escapes.
func (s *scanner) text() (raw []byte, plain, ok bool) {
	if !s.take('"') {
		return nil, false, false
	}
	plain = true
	for from := s.i; s.i < len(s.p); s.i++ {
		switch c := s.p[s.i]; {
		case c == '"':
			s.i++
			return s.p[from : s.i-1], plain, true
		case c < ' ':
			return nil, false, false
		case c == '\\':
			plain = false
			s.i++
			if !s.escape() {
				return nil, false, false
			}
		}
	}
	return nil, false, false
}

// escape is at the character behind a backslash, and stays at the last one of
// the escape.
func (s *scanner) escape() bool {
	c := s.peek()
	if c != 'u' {
		return c != 0 && bytes.IndexByte([]byte(`"\/bfnrt`), c) >= 0
	}
	for range 4 {
		s.i++
		c := s.peek() | 0x20
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') || s.peek() < '0' {
			return false
		}
	}
	return true
}

func (s *scanner) number() bool {
	s.take('-')
	if !s.take('0') && !s.digits() {
		return false
	}
	if s.take('.') && !s.digits() {
		return false
	}
	if s.take('e') || s.take('E') {
		if !s.take('+') {
			s.take('-')
		}
		return s.digits()
	}
	return true
}

// digits reads at least one.
func (s *scanner) digits() bool {
	from := s.i
	for c := s.peek(); c >= '0' && c <= '9'; c = s.peek() {
		s.i++
	}
	return s.i > from
}

func (s *scanner) literal(word string) bool {
	if len(s.p)-s.i < len(word) || string(s.p[s.i:s.i+len(word)]) != word {
		return false
	}
	s.i += len(word)
	return true
}

func (s *scanner) blank() {
	for c := s.peek(); c == ' ' || c == '\t' || c == '\n' || c == '\r'; c = s.peek() {
		s.i++
	}
}

// peek is the next byte; 0 at the end, which stands nowhere in JSON either.
func (s *scanner) peek() byte {
	if s.i < len(s.p) {
		return s.p[s.i]
	}
	return 0
}

func (s *scanner) take(c byte) bool {
	if s.peek() != c || s.i == len(s.p) {
		return false
	}
	s.i++
	return true
}
