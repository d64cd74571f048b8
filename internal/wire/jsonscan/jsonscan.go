// Package jsonscan finds values in a JSON document that arrives in pieces, in constant memory.
//
// A document is one object of RFC 8259, with these differences: an outermost value of another type, nesting deeper than
// [MaxDepth] and a byte-order mark are invalid; strings need not be UTF-8.
package jsonscan

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxDepth is the maximum depth of nested objects and arrays.
const MaxDepth = 32

// maxPath is the maximum number of objects around a value that can be found.
const maxPath = 3

// Kind is the kind of token that [Finder.Next] returns.
type Kind uint8

const (
	None    Kind = iota // none: the piece has been read
	Invalid             // not JSON; the document stays invalid
	part                // of a name, string or number, which continues
	String              // without its quotes
	Number
	True
	False
	Null
	Object // its first byte
	Array  // its first byte

	endObject
	endArray
	name
)

// Member is a member of an object whose value is wanted, or that leads to one.
type Member struct {
	Name    string   // with escapes resolved
	AnyCase bool     // upper and lower case in a name are the same, unless a member before this one has the name
	ID      uint8    // returned by Next with the value; 0 if the value is not wanted
	Members []Member // the wanted members of the value if it is an object
}

// Finder returns the values of wanted members of one document, of a repeated member each. Call [Finder.Start] before
// use. It allocates for nothing but a name with an escape.
type Finder struct {
	// Room holds names and values that are split between pieces. All texts are cut to its length, counted with their
	// escapes: one that is shorter is whole. It must be longer than the longest wanted name. If it is nil, no text is
	// copied: one that lies in one piece may have any length, and another makes the document invalid.
	Room []byte
	// Trusted skips unwanted objects and arrays without checking their content, which is faster and works at any depth.
	// It is for documents from an author who writes valid JSON: an invalid one may be accepted.
	Trusted bool
	// PlainNames makes a document invalid in which a name of an object on the path has an escape.
	PlainNames bool

	level  uint8   // number of objects in path
	used   int     // bytes of Room that a text which continues takes
	wanted *Member // the member whose value is being read
	path   [maxPath]*Member
	scan   scanner
}

// Start begins a document. The members of root are those of the outermost object. Finder does not change them.
func (f *Finder) Start(root *Member) {
	*f = Finder{Room: f.Room, Trusted: f.Trusted, PlainNames: f.PlainNames, wanted: root}
}

// Next reads p up to the first wanted value and returns the rest of p. The id is 0 only with None and Invalid. The text
// of a string has its escapes, see [Unescape]; it is a part of p or of Room, valid until the next call. A number is
// returned when the byte after it has been read. Until the document is Done, it may still turn out to be invalid.
func (f *Finder) Next(p []byte) (id uint8, kind Kind, text, rest []byte) {
	for len(p) > 0 {
		kind, text, p = f.scan.next(p)
		switch {
		case kind == Invalid:
			return 0, Invalid, nil, nil
		case f.scan.depth < f.level:
			f.level--
		case f.wanted != nil && kind != None:
			if id, text = f.value(kind, text); id != 0 {
				return id, kind, text, p
			}
		case f.scan.depth == f.level && (kind == name || kind == part && f.scan.state == inName):
			f.name(kind, text)
		case f.Trusted && (kind == Object || kind == Array):
			f.scan.skipNested()
		}
	}
	return 0, None, nil, nil
}

// Done reports whether the document is complete and, as far as it was checked, valid.
func (f *Finder) Done() bool { return f.scan.state == done }

// name reads a name in the innermost object of the path and decides whether its value is wanted.
func (f *Finder) name(kind Kind, piece []byte) {
	text, whole := f.gather(kind, piece)
	switch {
	case f.PlainNames && HasEscape(piece):
		f.scan.state = invalid
	case whole && (f.Room == nil || len(text) < len(f.Room)):
		members, text := f.path[f.level-1].Members, Unescape(text)
		if i := slices.IndexFunc(members, func(m Member) bool {
			return m.Name == string(text) || m.AnyCase && strings.EqualFold(m.Name, string(text))
		}); i >= 0 {
			f.wanted = &members[i]
		}
	}
}

// value reads a token of the wanted value. It returns an ID if the token is to be returned to the caller.
func (f *Finder) value(kind Kind, piece []byte) (id uint8, text []byte) {
	m := f.wanted
	text, whole := f.gather(kind, piece)
	switch {
	case !whole:
		return 0, nil
	case kind == Object && m.Members != nil:
		f.path[f.level] = m
		f.level++
		f.wanted = nil
		return 0, nil
	case f.Trusted && (kind == Object || kind == Array):
		f.scan.skipNested()
	}
	f.wanted = nil
	return m.ID, text
}

// gather appends piece to the text in Room. It returns piece itself if that is the whole text and fits into Room. whole
// reports whether the text is complete.
func (f *Finder) gather(kind Kind, piece []byte) (text []byte, whole bool) {
	whole = kind != part
	switch {
	case whole && f.used == 0 && (f.Room == nil || len(piece) <= len(f.Room)):
		return piece, true
	case f.Room == nil:
		f.scan.state = invalid
	}
	text = f.Room[:f.used+copy(f.Room[f.used:], piece)]
	f.used = len(text)
	if whole {
		f.used = 0
	}
	return text, whole
}

// HasEscape reports whether the text of a string contains an escape.
func HasEscape(text []byte) bool { return bytes.IndexByte(text, '\\') >= 0 }

// Unescape resolves the escapes in the text of a string, as encoding/json does: half of a surrogate pair becomes
// U+FFFD. It returns text itself if there are none.
func Unescape(text []byte) []byte {
	if !HasEscape(text) {
		return text
	}
	var s string
	json.Unmarshal(slices.Concat([]byte{'"'}, text, []byte{'"'}), &s) // fails only for a text that was cut
	return []byte(s)
}

// WholeRunes returns the length of p without the beginning of a character at its end, which the next piece may
// complete.
func WholeRunes(p []byte) int {
	for n := max(0, len(p)-utf8.UTFMax); n < len(p); n++ {
		if utf8.RuneStart(p[n]) && !utf8.FullRune(p[n:]) {
			return n
		}
	}
	return len(p)
}

// errFields is the only error of Fields: a more specific one could quote a secret.
var errFields = errors.New("unexpected JSON")

// Field is a member of an object that Fields finds.
type Field struct {
	Name string
	Kind Kind   // the required kind of the value: String or Number
	Raw  []byte // part of the document: the text of a string without escapes, or a number; nil if it is missing
}

// Unsigned returns the value of a number without sign, fraction and exponent and with at most 18 digits.
func (f *Field) Unsigned() (n uint64, ok bool) {
	n, err := strconv.ParseUint(string(f.Raw), 10, 64)
	return n, err == nil && len(f.Raw) <= 18
}

// Fields finds members of doc, which must be one JSON object, without copying. It refuses what two readers could
// interpret differently: a wanted member that occurs twice, and an escape in a wanted string or in any name. Wanted
// members may be missing.
func Fields(doc []byte, wanted ...*Field) error {
	list := make([]Member, len(wanted))
	for i, m := range wanted {
		list[i] = Member{Name: m.Name, ID: uint8(i + 1)}
	}
	find := Finder{PlainNames: true} // without Room, so that nothing is copied
	find.Start(&Member{Members: list})
	for p := doc; len(p) > 0; {
		id, kind, text, rest := find.Next(p)
		if p = rest; id == 0 {
			continue
		}
		m := wanted[id-1]
		if kind != m.Kind || HasEscape(text) || m.Raw != nil {
			return errFields
		}
		m.Raw = text
	}
	if !find.Done() {
		return errFields
	}
	return nil
}
