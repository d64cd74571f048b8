package dump

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

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
