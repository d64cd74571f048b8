package secret

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

// suffix ends the header line (RFC 9112, section 2.2). A key can contain neither of its characters; see check.
const suffix = "\r\n"

// The longest keys, in bytes.
const (
	// MaxKey is for an API key: the original has 1,024 bytes for "Bearer ", the key and a terminator.
	MaxKey = 1024 - len("Bearer ") - 1
	// MaxSlotToken is for a token that is sent from a Slot. The rest of the slot, at least 1,000 bytes, is for the
	// request line, the Host field and the record's overhead.
	MaxSlotToken = 7168
	// MaxToken is for a token without slots: the longest that the original accepts.
	MaxToken = 16384
)

// The errors of a malformed key. Read, Replace and Set wrap them in an error with the key's source and a hint.
var (
	ErrEmpty    = errors.New("the key is empty")
	ErrTooLong  = errors.New("the key is too long")
	ErrBadBytes = errors.New("the key has characters that it cannot have")
)

// mistakes are the common reasons why a good key is refused, with the part to leave out; the first match is reported.
// malformed is never called with an empty key, and allocates nothing, so that no part of the key is copied.
var mistakes = []struct {
	leaveOut  string
	malformed func(key []byte) bool
}{
	{"the byte-order mark before it", func(k []byte) bool { return bytes.HasPrefix(k, []byte("\ufeff")) }},
	{"its NUL bytes (is it UTF-16?)", func(k []byte) bool { return bytes.IndexByte(k, 0) >= 0 }},
	{"'Bearer' before it", func(k []byte) bool { return len(k) >= 7 && bytes.EqualFold(k[:7], []byte("Bearer ")) }},
	{"the name and '=' before it", isAssignment},
	{"the quotes around it", func(k []byte) bool { return bytes.ContainsAny(k[:1], "\"'`") }},
	{"the space before, in or after it", func(k []byte) bool { return bytes.ContainsAny(k, " \t") }},
	{"characters that are not ASCII", func(k []byte) bool { return slices.ContainsFunc(k, func(c byte) bool { return c >= 0x80 }) }},
}

// isAssignment reports whether b is NAME=VALUE, with the name of a variable, or a shell's export of that.
func isAssignment(b []byte) bool {
	name, _, found := bytes.Cut(bytes.TrimPrefix(b, []byte("export ")), []byte("="))
	return found && isKey(name) && !bytes.Contains(name, []byte("-"))
}

// mistake returns the part of key to leave out.
func mistake(key []byte) string {
	for _, m := range mistakes {
		if m.malformed(key) {
			return m.leaveOut
		}
	}
	return "any other character"
}

// source describes where a key comes from, for error messages.
type source struct {
	name   string
	none   string // the complete message for an empty key
	put    string // the verb of the hint
	result string // the consequence, appended to the message
}

// replacement is the source of a key that replaces another.
var replacement = source{"the new key", "the new key is empty", "write", "; the old one stays in use"}

// source returns the source of Read's key.
func (c Config) source() source {
	switch {
	case c.File != "":
		return source{"the API key in " + c.File, "no API key in " + c.File + "; write it there", "write", ""}
	case c.Terminal:
		const none = "nothing was typed; start the proxy again, paste what it asks for and press Enter"
		return source{"what was typed", none, "paste", ""}
	case c.Token:
		return source{"the token on standard input", "no token on standard input; pipe it in", "pipe in", ""}
	}
	return source{"the API key on standard input", "no API key on standard input; pipe it in: " +
		"printenv OPENAI_API_KEY | env -u OPENAI_API_KEY responses-api-proxy (is OPENAI_API_KEY set and exported?)", "pipe in", ""}
}

// keyError is an error of a malformed key with the message for its source. It unwraps to the error that describes the
// form, by which callers and tests distinguish them.
type keyError struct {
	error
	form error
}

func (e keyError) Unwrap() error { return e.form }

// explain adds the source and a hint to err, if it is an error of a malformed key. The message contains nothing of the
// key, not even its length or a character that is wrong: it goes to a log, and the mistake may be that another secret
// was piped in.
func (c Config) explain(err error, key []byte, from source) error {
	noun, allowed := "key", "ASCII letters, digits, '-' and '_'"
	if c.Token {
		noun, allowed = "token", "visible ASCII"
	}
	text := from.none
	switch err {
	case ErrEmpty:
	case ErrTooLong:
		text = fmt.Sprintf("%s is longer than %d characters; %s the %s alone", from.name, c.maxLen(), from.put, noun)
	case ErrBadBytes:
		text = fmt.Sprintf("%s has characters other than %s; %s the bare %s, without %s", from.name, allowed, from.put, noun, mistake(key))
	default:
		return err
	}
	return keyError{errors.New(text + from.result), err}
}

// maxLen returns the length of the longest key, in bytes.
func (c Config) maxLen() int {
	switch {
	case !c.Token:
		return MaxKey
	case c.NoSlots:
		return MaxToken
	default:
		return MaxSlotToken
	}
}

// maxLine returns the length of the longest header line, in bytes.
func (c Config) maxLine() int { return len(c.Header.prefix()) + c.maxLen() + len(suffix) }

// validate finds the key at the beginning of the n bytes read into input, and returns its length. It does not allocate,
// so that no part of the key is copied to memory. IndexByte loads the key into vector registers, which put overwrites
// with the rest of the room before the key is used.
func (c Config) validate(input []byte, n int) (int, error) {
	length := bytes.IndexByte(input[:n], '\n')
	if length < 0 {
		if n == len(input) {
			return 0, ErrTooLong
		}
		length = n
	}
	// Windows ends a line by \r\n. The original strips all of them.
	for length > 0 && input[length-1] == '\r' {
		length--
	}
	return length, c.check(input[:length])
}

// check returns an error unless all of key is a well-formed key. It is what keeps a key from changing the request in
// which it is sent: without CR, LF and NUL it cannot end its header line and begin another field or a second request
// (RFC 9110, section 5.5).
func (c Config) check(key []byte) error {
	switch {
	case len(key) == 0:
		return ErrEmpty
	case len(key) > c.maxLen():
		return ErrTooLong
	case c.Token && slices.ContainsFunc(key, invisible), !c.Token && !isKey(key) && !(c.Header == Bearer && isJWT(key)):
		return ErrBadBytes
	default:
		return nil
	}
}

// invisible reports whether c is no visible ASCII character (VCHAR, RFC 5234, appendix B.1).
func invisible(c byte) bool { return c <= ' ' || c >= 0x7f }

// isKey reports whether b consists of the characters of API keys, which are those of base64url (RFC 4648, section 5).
// The original accepts no others: a key that is quoted or has a name before it is found out here and not by a 401.
func isKey(b []byte) bool {
	return len(b) > 0 && !slices.ContainsFunc(b, func(c byte) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_'
	})
}

// isJWT reports whether key has the shape of a signed token: three base64url parts separated by periods (RFC 7515,
// section 7.1).
func isJWT(key []byte) bool {
	parts := 0
	for part := range bytes.SplitSeq(key, []byte(".")) {
		if parts++; !isKey(part) {
			return false
		}
	}
	return parts == 3
}

// Header is the field in which a key is sent to the upstream.
type Header uint8

// The fields of --auth-header: "authorization: Bearer KEY" (RFC 6750, section 2.1), "api-key: KEY" and "x-api-key: KEY".
const (
	Bearer Header = iota
	APIKey
	XAPIKey
)

var headers = []string{Bearer: "bearer", APIKey: "api-key", XAPIKey: "x-api-key"}

// ParseHeader returns the header with that name: bearer, api-key or x-api-key.
func ParseHeader(name string) (Header, error) {
	if h := slices.Index(headers, name); h >= 0 {
		return Header(h), nil
	}
	return 0, fmt.Errorf("unknown header %q; choose bearer, api-key or x-api-key", name)
}

// prefix is the header line up to the key. Names of fields are not case-sensitive (RFC 9110, section 5.1).
func (h Header) prefix() string {
	if h == Bearer {
		return "authorization: Bearer "
	}
	return headers[h] + ": "
}
