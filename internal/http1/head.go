// Package http1 parses HTTP/1.1 message heads and chunked bodies, and refuses whatever RFC 9112 lets a recipient
// refuse: two programs that read the same bytes must never see two different messages.
package http1

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// Lengths of a body that are not a number of bytes.
const (
	// Chunked means that the body's end is in its chunked coding.
	Chunked = -1
	// UntilClose means that the body ends with the connection; answers only.
	UntilClose = -2
)

// MaxFields is how many header field lines a message may have, and how many options its Connection fields together:
// each costs far more memory, and time, than the bytes that it takes on the wire.
const MaxFields = 256

// Field is one header field line. Both parts point into the parsed head.
type Field struct{ Name, Value []byte }

// Error says why a message is refused, in words for its sender.
type Error struct {
	// Status is the status code that fits when the message is a request.
	Status int
	// Reason says what is wrong, without a full stop. It quotes at most 64 bytes of the message: it goes into responses
	// and logs.
	Reason string
}

// Error returns the reason.
func (e *Error) Error() string { return e.Reason }

func refuse(status int, format string, args ...any) *Error {
	return &Error{Status: status, Reason: fmt.Sprintf(format, args...)}
}

func bad(format string, args ...any) *Error { return refuse(400, format, args...) }

// message is what requests and answers have in common.
type message struct {
	// Minor is the protocol's minor version, 0 or 1.
	Minor int
	// Fields are the header fields in their order.
	Fields []Field
	// Length is the number of body bytes, or Chunked, or UntilClose.
	Length int64
	// Close reports whether the sender will not use the connection again.
	Close bool
}

// HeadEnd returns the length of the head at the beginning of p, its blank line included, or 0 if it is not complete
// yet. from is the number of bytes of p that an earlier call has seen. A line feed without a carriage return, and a
// first byte that cannot begin a head, are errors at once.
func HeadEnd(p []byte, from int) (int, error) {
	if len(p) > 0 && !tokenChars[p[0]] && p[0] != '\r' {
		return 0, bad("this does not begin like an HTTP/1.1 message")
	}
	for {
		i := bytes.IndexByte(p[from:], '\n')
		if i < 0 {
			return 0, nil
		}
		i += from
		if i == 0 || p[i-1] != '\r' {
			return 0, bad("a line ends with a bare line feed (RFC 9112, section 2.2)")
		}
		if i == 1 || i >= 3 && p[i-2] == '\n' {
			return i + 1, nil
		}
		from = i + 1
	}
}

// nextLine cuts the first line off p, which must have one.
func nextLine(p []byte) (line, rest []byte) {
	i := bytes.IndexByte(p, '\n')
	return p[:i-1], p[i+1:]
}

// parse reads header field lines up to the blank line, and finds out the body's length from Content-Length and
// Transfer-Encoding (RFC 9112, section 6.3); without either it is none.
func (m *message) parse(p []byte, none int64) error {
	m.Fields = m.Fields[:0]
	line, p := nextLine(p)
	for ; len(line) > 0; line, p = nextLine(p) {
		f, err := parseField(line)
		if err != nil {
			return err
		}
		if len(m.Fields) == MaxFields {
			return refuse(431, "it has more than %d header fields", MaxFields)
		}
		m.Fields = append(m.Fields, f)
	}
	m.Length = none
	return m.frame()
}

func parseField(line []byte) (Field, error) {
	colon := bytes.IndexByte(line, ':')
	switch {
	case line[0] == ' ' || line[0] == '\t':
		return Field{}, bad("a header line is folded (RFC 9112, section 5.2)")
	case colon < 0:
		return Field{}, bad("a header line has no colon")
	case !IsToken(line[:colon]):
		return Field{}, bad("a header name is empty or has characters that names cannot have")
	}
	value := bytes.Trim(line[colon+1:], " \t")
	if !valueChars.haveAll(value) {
		return Field{}, bad("the value of header %.64q has a control character", line[:colon])
	}
	return Field{Name: line[:colon], Value: value}, nil
}

// frame finds out m.Length, if the fields have it, and whether the sender will close the connection.
func (m *message) frame() error {
	var lengths, codings, options int
	var closing, keepAlive bool
	for _, f := range m.Fields {
		switch {
		case Is(f.Name, "content-length"):
			n, err := strconv.ParseUint(string(f.Value), 10, 63)
			if err != nil || len(f.Value) > 18 {
				return bad("invalid Content-Length")
			}
			m.Length, lengths = int64(n), lengths+1
		case Is(f.Name, "transfer-encoding"):
			codings++
			if !Is(f.Value, "chunked") {
				return refuse(501, "the only transfer coding here is chunked")
			}
			m.Length = Chunked
		case Is(f.Name, "connection"):
			Tokens(f.Value, func(option []byte) {
				options++
				closing = closing || Is(option, "close")
				keepAlive = keepAlive || Is(option, "keep-alive")
			})
		}
	}
	m.Close = closing || m.Minor == 0 && !keepAlive
	switch {
	case options > MaxFields:
		return refuse(431, "its Connection fields have more than %d options", MaxFields)
	case lengths > 1:
		return bad("there is more than one Content-Length")
	case codings > 1:
		return bad("there is more than one Transfer-Encoding")
	case codings == 1 && lengths == 1:
		return bad("there are both Content-Length and Transfer-Encoding (RFC 9112, section 6.1)")
	case codings == 1 && m.Minor == 0:
		return bad("an HTTP/1.0 message cannot have a Transfer-Encoding")
	}
	return nil
}

// Tokens calls each for every member of a comma-separated list.
func Tokens(list []byte, each func(member []byte)) {
	for member := range bytes.SplitSeq(list, []byte{','}) {
		if member = bytes.Trim(member, " \t"); len(member) > 0 {
			each(member)
		}
	}
}

// Is reports whether name is lower, which is ASCII in lower case, whatever the case of name.
func Is(name []byte, lower string) bool {
	return len(name) == len(lower) && strings.EqualFold(string(name), lower) // equal lengths leave no room for other runes
}

// IsToken reports whether p is a token (RFC 9110, section 5.6.2).
func IsToken(p []byte) bool { return len(p) > 0 && tokenChars.haveAll(p) }

// charSet is a set of bytes.
type charSet [256]bool

func (s *charSet) haveAll(p []byte) bool {
	for _, c := range p {
		if !s[c] {
			return false
		}
	}
	return true
}

const alphanumeric = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

var (
	tokenChars  = setOf(func(c byte) bool { return strings.IndexByte(alphanumeric+"!#$%&'*+-.^_`|~", c) >= 0 })
	hostChars   = setOf(func(c byte) bool { return strings.IndexByte(alphanumeric+"!$%&'()*+,-.:;=@[]_~", c) >= 0 })
	targetChars = setOf(func(c byte) bool { return c > ' ' && c < 0x7f })
	valueChars  = setOf(func(c byte) bool { return c >= ' ' && c != 0x7f || c == '\t' }) // no control characters
)

func setOf(has func(c byte) bool) (s charSet) {
	for c := range s {
		s[c] = has(byte(c))
	}
	return s
}
