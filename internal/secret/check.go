package secret

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

const (
	suffix = "\r\n"

	// bufferSize is the original's: "Bearer " and the key share 1,024 bytes.
	bufferSize = 1024

	// MaxKey is the longest key that Read accepts, in bytes.
	MaxKey = bufferSize - len("Bearer ") - 1

	// MaxRoom is the largest Config.Room of a key that goes out in a slot: what is left of it, 1,000 bytes with the
	// shortest header, is for the request line, the host and the record's own bytes.
	MaxRoom = 7168

	// MaxToken is the largest Config.Room of a key without slots, and the longest token that the original accepts.
	MaxToken = 16384
)

// The errors that say something about the key itself.
var (
	ErrEmpty    = errors.New("no API key on standard input; pipe it in: printenv OPENAI_API_KEY | env -u OPENAI_API_KEY responses-api-proxy")
	ErrTooLong  = fmt.Errorf("the API key on standard input is longer than %d characters; pipe in the key alone", MaxKey)
	ErrBadBytes = errors.New("the API key on standard input has characters other than ASCII letters, digits, '-' and '_'; pipe in the bare key, without quotes, blanks or 'Bearer'")
)

// keyError is one of the errors above in the words of another source.
type keyError struct {
	error
	kind error
}

func (e keyError) Unwrap() error { return e.kind }

// rules are what a key may be.
type rules struct {
	header Header
	max    int // the longest key, in bytes
	token  bool
}

func (c Config) rules() (rules, error) {
	limit := MaxRoom
	if c.NoSlots {
		limit = MaxToken
	}
	switch {
	case c.Room < 0 || c.Room > limit:
		return rules{}, fmt.Errorf("bug: a key with room for %d bytes; the limit is %d", c.Room, limit)
	case int(c.Header) >= len(headers):
		return rules{}, fmt.Errorf("bug: header %d is unknown", c.Header)
	case c.Room == 0:
		return rules{header: c.Header, max: MaxKey}, nil
	default:
		return rules{header: c.Header, max: c.Room, token: true}, nil
	}
}

// lineSize is the length of the line of a key of n bytes.
func (r rules) lineSize(n int) int { return len(r.header.prefix()) + n + len(suffix) }

// space is what a key needs of memory, and one byte more, which shows a key that is too long.
func (r rules) space() int { return roundUp(r.lineSize(r.max)+1, keySpace) }

// read reads a key behind the header's prefix in room, and returns the finished line.
func (r rules) read(room []byte, read func([]byte) (int, error)) ([]byte, error) {
	start := copy(room, r.header.prefix())
	input := room[start : start+r.max+1]
	n, err := fill(input, read)
	if err != nil {
		return nil, err
	}
	length, err := r.validate(input, n)
	if err != nil {
		return nil, err
	}
	return finish(room, start+length), nil
}

// finish makes room[:end] a whole line, and wipes what is behind it.
func finish(room []byte, end int) []byte {
	Wipe(room[end:])
	end += copy(room[end:], suffix)
	return room[:end:end]
}

// fill reads until p holds a line feed, is full, or the input ends.
func fill(p []byte, read func([]byte) (int, error)) (n int, err error) {
	for n < len(p) {
		m, err := read(p[n:])
		if err != nil {
			return n, err
		}
		if m == 0 || bytes.IndexByte(p[n:n+m], '\n') >= 0 {
			return n + m, nil
		}
		n += m
	}
	return n, nil
}

// validate finds the key at the beginning of the n bytes read into input, in constant space, and returns its length.
func (r rules) validate(input []byte, n int) (int, error) {
	length := bytes.IndexByte(input[:n], '\n')
	if length < 0 {
		if n == len(input) {
			return 0, ErrTooLong
		}
		length = n
	}
	for length > 0 && input[length-1] == '\r' {
		length--
	}
	return length, r.check(input[:length])
}

// check returns an error unless key, all of it, may be a key.
func (r rules) check(key []byte) error {
	switch {
	case len(key) == 0:
		return ErrEmpty
	case len(key) > r.max:
		return ErrTooLong
	case r.token && slices.ContainsFunc(key, invisible), !r.token && slices.ContainsFunc(key, notOfKey) && !(r.header == Bearer && isJWT(key)):
		return ErrBadBytes
	default:
		return nil
	}
}

// ofKey is the alphabet of API keys, and of base64url (RFC 4648, section 5).
func ofKey(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

func notOfKey(c byte) bool { return !ofKey(c) }

func invisible(c byte) bool { return c <= ' ' || c >= 0x7f }

// isJWT reports whether key has the shape of a signed token: three parts with periods between them (RFC 7515, section
// 7.1).
func isJWT(key []byte) bool {
	parts, length := 1, 0
	for _, c := range key {
		switch {
		case c == '.' && length > 0:
			parts, length = parts+1, 0
		case ofKey(c):
			length++
		default:
			return false
		}
	}
	return parts == 3 && length > 0
}

// onStdin describes an error of Read. Those of an API key need no other words.
func (r rules) onStdin(err error) error {
	switch {
	case err != ErrEmpty && err != ErrTooLong && err != ErrBadBytes:
		return fmt.Errorf("reading the API key from standard input: %w", err)
	case !r.token:
		return err
	default:
		return r.describe(err, "the token on standard input", "pipe in the token alone, without quotes, blanks or 'Bearer'")
	}
}

// onReplace describes an error of Replace or Set.
func (r rules) onReplace(err error) error {
	return r.describe(err, "the new key", "the old one stays in use")
}

// describe returns err as an error of what, with a hint.
func (r rules) describe(err error, what, hint string) error {
	text := ""
	switch err {
	case ErrEmpty:
		text = "is empty"
	case ErrTooLong:
		text = fmt.Sprintf("is longer than %d characters", r.max)
	case ErrBadBytes:
		text = "has characters that cannot be part of it"
	default:
		return err
	}
	return keyError{fmt.Errorf("%s %s; %s", what, text, hint), err}
}

// Header is the field in which a key goes to the upstream.
type Header uint8

// The fields of --auth-header.
const (
	// Bearer is "authorization: Bearer KEY" (RFC 6750, section 2.1).
	Bearer Header = iota
	// APIKey is "api-key: KEY".
	APIKey
	// XAPIKey is "x-api-key: KEY".
	XAPIKey
)

var headers = [...]struct{ name, prefix string }{
	Bearer:  {"bearer", "authorization: Bearer "},
	APIKey:  {"api-key", "api-key: "},
	XAPIKey: {"x-api-key", "x-api-key: "},
}

// ParseHeader is the header of that name: bearer, api-key or x-api-key.
func ParseHeader(name string) (Header, error) {
	for h, known := range headers {
		if name == known.name {
			return Header(h), nil
		}
	}
	return 0, fmt.Errorf("%q is not a kind of header; choose bearer, api-key or x-api-key", name)
}

// String is the name that ParseHeader takes.
func (h Header) String() string { return headers[h].name }

func (h Header) prefix() string { return headers[h].prefix }
