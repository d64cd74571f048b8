// Package http1 parses HTTP/1.1 message heads and chunked bodies, and refuses
// whatever RFC 9112 lets a recipient refuse: two programs that read the same
// bytes must never see two different messages.
package http1

import (
	"bytes"
	"fmt"
)

// Lengths of a body that are not a number of bytes.
const (
	// Chunked means that the body's end is in its chunked coding.
	Chunked = -1
	// UntilClose means that the body ends with the connection; answers only.
	UntilClose = -2
)

// MaxFields is how many header field lines a message may have, and how many
// options its Connection fields together: each costs far more memory, and time,
// than the bytes that it takes on the wire.
const MaxFields = 256

// Field is one header field line. Both parts point into the parsed head.
type Field struct{ Name, Value []byte }

// Error tells why a message is refused, in words for its sender.
type Error struct {
	// Status is the status code that fits when the message is a request.
	Status int
	// Reason says what is wrong, without a full stop. It quotes at most 64
	// bytes of the message: it goes into responses and logs.
	Reason string
}

// Error returns the reason.
func (e *Error) Error() string { return e.Reason }

func bad(format string, args ...any) *Error {
	return &Error{Status: 400, Reason: fmt.Sprintf(format, args...)}
}

func tooLarge(format string, args ...any) *Error {
	return &Error{Status: 431, Reason: fmt.Sprintf(format, args...)}
}

// message is what requests and answers have in common.
type message struct {
	// Minor is the protocol's minor version, 0 or 1.
	Minor int
	// Fields are the header fields in their order.
	Fields []Field
	// Length is the number of body bytes, or Chunked, or UntilClose.
	Length int64
	// Close tells that the sender will not use the connection again.
	Close bool
}

// HeadEnd returns the length of the head at the beginning of p, its blank line
// included, or 0 if it is not complete yet. from is the number of bytes of p
// that an earlier call has seen. A line feed without a carriage return, and a
// first byte that cannot begin a head, are errors at once.
func HeadEnd(p []byte, from int) (int, error) {
	if len(p) > 0 && !tokenChar[p[0]] && p[0] != '\r' {
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

// parseFields reads header field lines up to the blank line into m.Fields.
func (m *message) parseFields(p []byte) error {
	m.Fields = m.Fields[:0]
	for {
		line, rest := nextLine(p)
		if len(line) == 0 {
			return nil
		}
		f, err := parseField(line)
		if err != nil {
			return err
		}
		if len(m.Fields) == MaxFields {
			return tooLarge("it has more than %d header fields", MaxFields)
		}
		m.Fields = append(m.Fields, f)
		p = rest
	}
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
	value := trim(line[colon+1:])
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return Field{}, bad("the value of header %.64q has a control character", line[:colon])
		}
	}
	return Field{Name: line[:colon], Value: value}, nil
}

// frame finds out the body's length from Content-Length and Transfer-Encoding
// (RFC 9112, section 6.3); without either it is none. It heeds Connection too.
func (m *message) frame(none int64) error {
	m.Length = none
	var lengths, codings, options int
	var closing, keepAlive bool
	for _, f := range m.Fields {
		switch {
		case Is(f.Name, "content-length"):
			lengths++
			n, err := parseLength(f.Value)
			if err != nil {
				return err
			}
			m.Length = n
		case Is(f.Name, "transfer-encoding"):
			codings++
			if !Is(f.Value, "chunked") {
				return &Error{Status: 501, Reason: "the only transfer coding here is chunked"}
			}
		case Is(f.Name, "connection"):
			n, c, k := connection(f.Value)
			options, closing, keepAlive = options+n, closing || c, keepAlive || k
		}
	}
	if options > MaxFields {
		return tooLarge("its Connection fields have more than %d options", MaxFields)
	}
	m.Close = closing || m.Minor == 0 && !keepAlive
	return m.settle(lengths, codings)
}

func (m *message) settle(lengths, codings int) error {
	switch {
	case lengths > 1:
		return bad("there is more than one Content-Length")
	case codings > 1:
		return bad("there is more than one Transfer-Encoding")
	case codings == 1 && lengths == 1:
		return bad("there are both Content-Length and Transfer-Encoding (RFC 9112, section 6.1)")
	case codings == 1 && m.Minor == 0:
		return bad("an HTTP/1.0 message cannot have a Transfer-Encoding")
	case codings == 1:
		m.Length = Chunked
	}
	return nil
}

// connection counts the options, and looks for close and keep-alive; close wins.
func connection(value []byte) (options int, closing, keepAlive bool) {
	Tokens(value, func(option []byte) {
		options++
		closing = closing || Is(option, "close")
		keepAlive = keepAlive || Is(option, "keep-alive")
	})
	return options, closing, keepAlive
}

func parseLength(value []byte) (n int64, err error) {
	if len(value) == 0 || len(value) > 18 {
		return 0, bad("Content-Length is not a sensible number")
	}
	for _, c := range value {
		if c < '0' || c > '9' {
			return 0, bad("Content-Length is not a number")
		}
		n = n*10 + int64(c-'0')
	}
	return n, nil
}

// Tokens calls each for every member of a comma-separated list.
func Tokens(list []byte, each func(member []byte)) {
	for len(list) > 0 {
		member, rest, _ := bytes.Cut(list, []byte{','})
		if member = trim(member); len(member) > 0 {
			each(member)
		}
		list = rest
	}
}

// Is compares a name with one in lower case, whatever the case of the first.
func Is(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i, c := range name {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// IsToken tells whether p is a token (RFC 9110, section 5.6.2).
func IsToken(p []byte) bool {
	for _, c := range p {
		if !tokenChar[c] {
			return false
		}
	}
	return len(p) > 0
}

var tokenChar = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' ||
			bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(c)) >= 0
	}
	return t
}()

// trim cuts optional white space off both ends.
func trim(p []byte) []byte {
	for len(p) > 0 && (p[0] == ' ' || p[0] == '\t') {
		p = p[1:]
	}
	for len(p) > 0 && (p[len(p)-1] == ' ' || p[len(p)-1] == '\t') {
		p = p[:len(p)-1]
	}
	return p
}
