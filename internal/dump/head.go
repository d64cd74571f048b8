package dump

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
)

// appendRequestHead appends everything that stands before the value of body.
func appendRequestHead(b, method, target []byte, fields []http1.Field) []byte {
	b = appendString(append(b, "{\n  \"method\": "...), method)
	b = appendString(append(b, ",\n  \"url\": "...), target)
	return appendFields(b, fields, false)
}

func appendAnswerHead(b []byte, status int, fields []http1.Field) []byte {
	b = strconv.AppendInt(append(b, "{\n  \"status\": "...), int64(status), 10)
	return appendFields(b, fields, true)
}

func appendFields(b []byte, fields []http1.Field, lower bool) []byte {
	b = append(b, ",\n  \"headers\": ["...)
	for i, f := range fields {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, "\n    {\n      \"name\": "...)
		start := len(b)
		b = appendString(b, f.Name)
		if lower {
			toLower(b[start:]) // a name is a token, in which nothing is escaped
		}
		b = append(b, ",\n      \"value\": "...)
		if redact(f) {
			b = append(b, `"[REDACTED]"`...)
		} else {
			b = appendString(b, f.Value)
		}
		b = append(b, "\n    }"...)
	}
	if len(fields) > 0 {
		b = append(b, "\n  "...)
	}
	return append(b, "],\n  \"body\": "...)
}

func toLower(p []byte) {
	for i, c := range p {
		if c >= 'A' && c <= 'Z' {
			p[i] = c | 0x20
		}
	}
}

func appendString(b, text []byte) []byte {
	b, _ = appendText(append(b, '"'), text, true)
	return append(b, '"')
}

// appendText appends text as the inside of a JSON string, with U+FFFD for each
// byte that is not UTF-8. Unless it is the last, a rune that is incomplete at
// its end is left out; used is how much was not.
func appendText(b, text []byte, last bool) (quoted []byte, used int) {
	for used < len(text) {
		if c := text[used]; c < utf8.RuneSelf {
			b = appendASCII(b, c)
			used++
			continue
		}
		if !last && !utf8.FullRune(text[used:]) {
			break
		}
		r, n := utf8.DecodeRune(text[used:])
		b = utf8.AppendRune(b, r)
		used += n
	}
	return b, used
}

func appendASCII(b []byte, c byte) []byte {
	switch {
	case c == '"' || c == '\\':
		return append(b, '\\', c)
	case c >= ' ':
		return append(b, c)
	}
	if i := strings.IndexByte("\b\t\n\f\r", c); i >= 0 {
		return append(b, '\\', "btnfr"[i])
	}
	const digits = "0123456789abcdef"
	return append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
}

// redact tells whether a header's value may be a credential: it is redacted
//
//  1. if the name contains, anywhere and in any case, cookie, secret, password,
//     passwd, passphrase, credential, bearer or jwt;
//  2. if a part of the name, between characters that are no letters and digits,
//     and without digits at its end, ends with key, keys or token, or contains
//     auth, except in author, authors, authored and authority;
//  3. if the value begins with Bearer or Basic, whatever the name.
//
// So x-ratelimit-remaining-tokens, a count, is kept. Idempotency-Key is not: a
// rule without exceptions is one that can be relied upon.
func redact(f http1.Field) bool {
	return redactName(f.Name) || hasScheme(f.Value, "bearer") || hasScheme(f.Value, "basic")
}

var anywhere = [...][]byte{
	[]byte("cookie"), []byte("secret"), []byte("password"), []byte("passwd"),
	[]byte("passphrase"), []byte("credential"), []byte("bearer"), []byte("jwt"),
}

func redactName(name []byte) bool {
	var space [64]byte
	lower := append(space[:0], name...)
	toLower(lower)
	for _, word := range anywhere {
		if bytes.Contains(lower, word) {
			return true
		}
	}
	for len(lower) > 0 {
		end := 0
		for end < len(lower) && isLetterOrDigit(lower[end]) {
			end++
		}
		if redactPart(lower[:end]) {
			return true
		}
		lower = lower[min(end+1, len(lower)):]
	}
	return false
}

func isLetterOrDigit(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

func redactPart(part []byte) bool {
	part = bytes.TrimRight(part, "0123456789")
	switch string(part) {
	case "author", "authors", "authored", "authority":
		return false
	}
	return bytes.HasSuffix(part, []byte("key")) || bytes.HasSuffix(part, []byte("keys")) ||
		bytes.HasSuffix(part, []byte("token")) || bytes.Contains(part, []byte("auth"))
}

func hasScheme(value []byte, scheme string) bool {
	return len(value) > len(scheme) && value[len(scheme)] == ' ' && http1.Is(value[:len(scheme)], scheme)
}
