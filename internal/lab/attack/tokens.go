package attack

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
)

const (
	minKey    = 20   // characters after "sk-"
	minBearer = 40   // characters after "Bearer "
	maxToken  = 2048 // with its prefix; longer ones are cut

	// minVariety distinguishes keys from repeated characters and other fillers.
	minVariety = 10
	// shown is the number of characters of a finding that are printed.
	shown = 6
)

// A token is a string in the form of a credential. Only its beginning is kept.
type token struct {
	start  string
	length int
}

func (t token) String() string { return fmt.Sprintf("%s… (%d characters)", t.start, t.length) }

// A tokenScanner receives memory in ascending order, in pieces of any size, and finds tokens across their borders too.
type tokenScanner struct {
	next  uint64 // address after the last piece
	buf   []byte // what may begin or continue a token, and one byte before it
	begun bool   // buf[0] has been searched
	found []token
}

// feedAt searches p, which lies at addr. Pieces with a gap between them are not joined.
func (s *tokenScanner) feedAt(addr uint64, p []byte) {
	if addr != s.next {
		s.flush()
	}
	s.feed(p)
	s.next = addr + uint64(len(p))
}

// feed searches p, which follows the previous piece.
func (s *tokenScanner) feed(p []byte) {
	s.buf = append(s.buf, p...)
	s.search(len(s.buf) - maxToken)
}

// flush searches the rest; the next piece does not continue it.
func (s *tokenScanner) flush() {
	s.search(len(s.buf))
	s.buf, s.begun = s.buf[:0], false
}

// search searches for tokens that begin before limit, and drops all but the byte before limit.
func (s *tokenScanner) search(limit int) {
	from := 0
	if s.begun {
		from = 1
	}
	if limit <= from {
		return
	}
	s.marked("sk-", from, limit, minKey)
	s.marked("Bearer ", from, limit, minBearer)
	s.buf = append(s.buf[:0], s.buf[limit-1:]...)
	s.begun = true
}

func (s *tokenScanner) marked(mark string, from, limit, least int) {
	for at := from; ; {
		i := bytes.Index(s.buf[at:], []byte(mark))
		if i < 0 || at+i >= limit {
			return
		}
		start := at + i
		at = start + len(mark)
		if start > 0 && keyChar[s.buf[start-1]] {
			continue // the end of a longer word, as in "disk-"
		}
		s.measure(start, at, least)
	}
}

// measure records the token whose prefix ends at rest, if it is one.
func (s *tokenScanner) measure(start, rest, least int) {
	behind := s.buf[rest:min(len(s.buf), start+maxToken)] // always present, whatever the pieces
	n := 0
	for n < len(behind) && (keyChar[behind[n]] || s.buf[start] == 'B' && bearerChar[behind[n]]) {
		n++
	}
	if s.buf[start] == 'B' {
		start = rest // "Bearer " itself is no secret
		if bytes.HasPrefix(behind, []byte("sk-")) {
			return // found by that prefix
		}
	}
	if n < least || variety(behind[:n]) < minVariety {
		return
	}
	s.found = append(s.found, token{string(s.buf[start : start+shown]), rest + n - start})
}

// variety returns the number of different characters, or 0 without a digit or without a letter: keys have both, and
// texts of programs hardly ever.
func variety(p []byte) int {
	var seen [256]bool
	n, digits, letters := 0, 0, 0
	for _, c := range p {
		if !seen[c] {
			seen[c] = true
			n++
		}
		switch {
		case c >= '0' && c <= '9':
			digits++
		case c != '-' && c != '_':
			letters++
		}
	}
	if digits == 0 || letters == 0 {
		return 0
	}
	return n
}

var keyChar, bearerChar = chars("-_"), chars("-_.~+/=")

func chars(more string) (t [256]bool) {
	for c := range t {
		t[c] = c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte(more, byte(c)) >= 0
	}
	return t
}

// findings describes secrets in p; "" if there are none.
func (t *target) findings(p []byte) string {
	if len(t.key) > 0 {
		if r := memscan.Bytes(p, t.key); r.Full+r.Fragments > 0 {
			return "it contains the key"
		}
	}
	var s tokenScanner
	s.feed(p)
	s.flush()
	return listTokens(s.found)
}

// listTokens names at most three different tokens.
func listTokens(found []token) string {
	if len(found) == 0 {
		return ""
	}
	text := fmt.Sprintf("%d in the form of a key: ", len(found))
	var names []string
	seen := map[token]bool{}
	for _, f := range found {
		if !seen[f] && len(names) < 3 {
			names = append(names, f.String())
		}
		seen[f] = true
	}
	return text + strings.Join(names, ", ")
}
