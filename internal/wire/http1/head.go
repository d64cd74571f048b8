// Package http1 parses HTTP/1.1 message heads and chunked bodies strictly: it refuses everything that RFC 9112 permits
// a recipient to refuse, so that no two programs interpret the same bytes as different messages (request smuggling).
package http1

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Lengths of a body that are not a number of bytes.
const (
	// Chunked means that the chunked transfer coding delimits the body.
	Chunked = -1
	// UntilClose means that the end of the connection delimits the body; responses only.
	UntilClose = -2
)

// MaxFields is the maximum number of header fields of a message, and of options in its Connection fields: each costs
// far more memory and time than its bytes on the wire.
const MaxFields = 256

// Field is one header field. Both slices are parts of the parsed head.
type Field struct{ Name, Value []byte }

// Error is the reason why a message is refused.
type Error struct {
	// Status is the status code of the response if the message is a request.
	Status int
	// Reason states the error, without a period. It quotes at most 64 bytes of the message, because it is sent in
	// responses and logged.
	Reason string
}

func (e *Error) Error() string { return e.Reason }

func refuse(status int, format string, args ...any) *Error {
	return &Error{Status: status, Reason: fmt.Sprintf(format, args...)}
}

func bad(format string, args ...any) *Error { return refuse(400, format, args...) }

// message has the parts that requests and responses share.
type message struct {
	// Minor is the protocol's minor version, 0 or 1.
	Minor int
	// Fields are the header fields in order.
	Fields []Field
	// Length is the body's length in bytes, or Chunked, or UntilClose.
	Length int64
	// Close reports whether the sender will not reuse the connection.
	Close bool
}

// Value returns the value of the last field whose name is lower, an ASCII string in lower case; nil if there is none.
func (m *message) Value(lower string) (value []byte) {
	for _, f := range m.Fields {
		if Is(f.Name, lower) {
			value = f.Value
		}
	}
	return value
}

// HeadEnd returns the length of the head at the beginning of p, its empty line included, or 0 if it is incomplete. The
// first from bytes of p were passed to an earlier call. A line feed without a carriage return, and a first byte that
// cannot begin a head, are errors at once.
func HeadEnd(p []byte, from int) (int, error) {
	if len(p) > 0 && p[0] == 22 { // of a TLS handshake (RFC 8446, section 5.1)
		return 0, bad("this is TLS, and the proxy serves plain HTTP: use http://")
	}
	if len(p) > 0 && !tokenChars[p[0]] && p[0] != '\r' {
		return 0, bad("not an HTTP/1.1 message")
	}
	for {
		i := bytes.IndexByte(p[from:], '\n')
		if i < 0 {
			return 0, nil
		}
		i += from // i > 0: p[0] is no LF
		if p[i-1] != '\r' {
			return 0, bad("a line ends with a bare line feed (RFC 9112, section 2.2)")
		}
		if i == 1 || p[i-2] == '\n' { // i == 1: a blank line before a head, see the server's readHead
			return i + 1, nil
		}
		from = i + 1
	}
}

// setVersion sets m.Minor, and reports whether version is HTTP/1.1 or HTTP/1.0.
func (m *message) setVersion(version []byte) bool {
	m.Minor = slices.Index([]string{"HTTP/1.0", "HTTP/1.1"}, string(version))
	return m.Minor >= 0
}

// nextLine splits the first line off p, which must contain one.
func nextLine(p []byte) (line, rest []byte) {
	i := bytes.IndexByte(p, '\n')
	return p[:i-1], p[i+1:]
}

// parse parses header fields up to the empty line, and determines the body's length from Content-Length and
// Transfer-Encoding (RFC 9112, section 6.3). Without either the length is none.
func (m *message) parse(p []byte, none int64) error {
	m.Fields = slices.Grow(m.Fields[:0], min(bytes.Count(p, []byte{'\n'})-1, MaxFields))
	line, p := nextLine(p)
	for ; len(line) > 0; line, p = nextLine(p) {
		f, err := parseField(line)
		if err != nil {
			return err
		}
		if len(m.Fields) == MaxFields {
			return refuse(431, "the head has more than %d header fields", MaxFields)
		}
		m.Fields = append(m.Fields, f)
	}
	m.Length = none
	return m.frame()
}

func parseField(line []byte) (Field, error) {
	colon := bytes.IndexByte(line, ':')
	switch {
	case isBlank(line[0]):
		return Field{}, bad("a header line is folded (RFC 9112, section 5.2)")
	case colon < 0:
		return Field{}, bad("a header line has no colon")
	case !IsToken(line[:colon]):
		return Field{}, bad("a header name is empty or has an invalid character")
	}
	value := trim(line[colon+1:])
	if !valueChars.haveAll(value) {
		return Field{}, bad("the value of header %.64q has a control character", line[:colon])
	}
	return Field{Name: line[:colon], Value: value}, nil
}

// frame sets m.Length if a field determines it, and m.Close.
func (m *message) frame() error {
	var framings, options int
	var closing, keepAlive bool
	for _, f := range m.Fields {
		switch {
		case Is(f.Name, "content-length"):
			n, err := strconv.ParseUint(string(f.Value), 10, 63)
			if err != nil || len(f.Value) > 18 {
				return bad("invalid Content-Length")
			}
			m.Length, framings = int64(n), framings+1
		case Is(f.Name, "transfer-encoding"):
			if !Is(f.Value, "chunked") {
				return refuse(501, "unsupported transfer coding; use chunked")
			}
			m.Length, framings = Chunked, framings+1
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
		return refuse(431, "the Connection header has more than %d options", MaxFields)
	case framings > 1:
		return bad("there is more than one Content-Length or Transfer-Encoding (RFC 9112, section 6.3)")
	case m.Length == Chunked && m.Minor == 0:
		return bad("an HTTP/1.0 message cannot have a Transfer-Encoding")
	}
	return nil
}

// Tokens calls each for every member of a comma-separated list (RFC 9110, section 5.6.1).
func Tokens(list []byte, each func(member []byte)) {
	for member := range bytes.SplitSeq(list, []byte{','}) {
		if member = trim(member); len(member) > 0 {
			each(member)
		}
	}
}

// trim removes optional whitespace (RFC 9110, section 5.6.3) at both ends. It is faster than bytes.Trim, which makes a set
// of the two characters for each field.
func trim(p []byte) []byte {
	for len(p) > 0 && isBlank(p[0]) {
		p = p[1:]
	}
	for len(p) > 0 && isBlank(p[len(p)-1]) {
		p = p[:len(p)-1]
	}
	return p
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// Is reports whether name equals lower, an ASCII string in lower case, regardless of case.
func Is(name []byte, lower string) bool {
	return len(name) == len(lower) && strings.EqualFold(string(name), lower) // with equal lengths, no rune outside of ASCII folds to an ASCII letter
}

// IsToken reports whether p is a token (RFC 9110, section 5.6.2).
func IsToken(p []byte) bool { return len(p) > 0 && tokenChars.haveAll(p) }

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
	valueChars  = setOf(func(c byte) bool { return c >= ' ' && c != 0x7f || c == '\t' }) // all but control characters
)

func setOf(has func(c byte) bool) (s charSet) {
	for c := range s {
		s[c] = has(byte(c))
	}
	return s
}
