package dump

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// head is the part of a file before the body.
type head struct {
	Method  string  `json:"method,omitempty"`
	URL     string  `json:"url,omitempty"`
	Status  int     `json:"status,omitempty"`
	Headers []field `json:"headers"`
}

type field struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// render returns everything before the value of body.
func (h head) render(fields []http1.Field) []byte {
	h.Headers = []field{} // not null
	for _, f := range fields {
		name, value := text(f.Name), "[REDACTED]"
		if h.Status != 0 {
			name = strings.ToLower(name)
		}
		if !redact(f) {
			value = text(f.Value)
		}
		h.Headers = append(h.Headers, field{name, value})
	}
	return append(bytes.TrimSuffix(encode(h, "  "), []byte("\n}")), ",\n  \"body\": "...)
}

// text returns b with U+FFFD for each byte that is not UTF-8.
func text(b []byte) string { return strings.Map(func(r rune) rune { return r }, string(b)) }

// encode returns v as JSON with the minimum of escapes.
func encode(v any, indent string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	e.Encode(v) // strings and numbers can always be encoded
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// quote returns the inside of a JSON string.
func quote(b []byte) []byte {
	quoted := encode(text(b), "")
	return quoted[1 : len(quoted)-1]
}

// redact reports whether a header's value may be a credential. It is redacted
//
//  1. if the name contains, anywhere and in any case, cookie, secret, password, passwd, passphrase, credential, bearer or
//     jwt;
//  2. if a part of the name, between characters that are no letters and digits, and without digits at its end, ends with
//     key, keys or token, or contains auth, except in author, authors, authored and authority;
//  3. if the value begins with Bearer or Basic, whatever the name.
//
// So x-ratelimit-remaining-tokens, a count, is kept. Idempotency-Key is not: a rule without exceptions is one that can be relied
// upon.
func redact(f http1.Field) bool {
	name := bytes.ReplaceAll(bytes.ToLower(f.Name), []byte("_"), []byte("-")) // a boundary for regexp, too
	words := bytes.Fields(f.Value)
	return credential().Match(author().ReplaceAll(name, nil)) || len(words) > 1 && (http1.Is(words[0], "bearer") || http1.Is(words[0], "basic"))
}

var (
	credential = pattern(`cookie|secret|passw(or)?d|passphrase|credential|bearer|jwt|auth|(keys?|token)[0-9]*\b`)
	author     = pattern(`\b(author|authors|authored|authority)[0-9]*\b`)
)

// pattern returns a regular expression that is compiled for the first dump: most services write none.
func pattern(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

const (
	maxDepth  = 128 // of nested JSON; the original's limit, too
	maxGrowth = 8   // of JSON by its indentation
	newline   = 3   // the length of a line's end, and of the dump's own indentation
)

// mayBeJSON reports whether JSON can begin with c.
func mayBeJSON(c byte) bool { return strings.IndexByte("{[\"-0123456789tfn \t\r\n", c) >= 0 }

// indent returns body in the form of a dump, and whether that is possible: it must be JSON (RFC 8259) in UTF-8, and
// within the limits.
func indent(body []byte) (text []byte, ok bool) {
	if !utf8.Valid(body) || !json.Valid(body) {
		return nil, false
	}
	body = bytes.TrimSpace(body)
	depth, size := measure(body)
	if depth > maxDepth || size > maxGrowth*len(body)+4096 {
		return nil, false
	}
	b := bytes.NewBuffer(make([]byte, 0, size))
	err := json.Indent(b, body, "  ", "  ")
	return b.Bytes(), err == nil
}

// measure returns the depth of valid JSON, and an upper bound of its indented length.
func measure(text []byte) (depth, size int) {
	open, inString, escaped := 0, false, false
	for _, c := range text {
		size++
		switch {
		case escaped:
			escaped = false
		case inString && c == '\\':
			escaped = true
		case c == '"':
			inString = !inString
		case inString:
		case c == ':':
			size++
		case c == '{' || c == '[':
			open++
			depth = max(depth, open)
			size += newline + 2*open
		case c == '}' || c == ']':
			open--
			size += newline + 2*open
		case c == ',':
			size += newline + 2*open
		}
	}
	return depth, size
}
