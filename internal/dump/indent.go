package dump

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

const (
	maxDepth  = 128 // of nested JSON; the original's limit, too
	maxGrowth = 8   // of JSON by its indentation
)

// mayBeJSON reports whether JSON can begin with c.
func mayBeJSON(c byte) bool { return bytes.IndexByte([]byte("{[\"-0123456789tfn \t\r\n"), c) >= 0 }

// indent returns body as it stands in a dump, and whether it can: it must be JSON (RFC 8259) in UTF-8, and within the
// limits.
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
	if err := json.Indent(b, body, "  ", "  "); err != nil {
		return nil, false // a bug: it is valid
	}
	return b.Bytes(), true
}

// measure returns how deep valid JSON is nested, and at most how long it becomes.
func measure(text []byte) (depth, size int) {
	open, inString := 0, false
	for i := 0; i < len(text); i++ {
		size++
		switch c := text[i]; {
		case inString && c == '\\':
			i++
			size++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			open++
			depth = max(depth, open)
			size += newline + 2*open
		case c == '}' || c == ']':
			open--
			size += newline + 2*open
		case c == ',':
			size += newline + 2*open
		case c == ':':
			size++
		}
	}
	return depth, size
}

// newline is the length of a line's end, and of the dump's own indentation.
const newline = 3
