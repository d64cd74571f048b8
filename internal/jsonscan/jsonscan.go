// Package jsonscan finds values in JSON that comes in pieces, in constant memory.
//
// A document is one object, as RFC 8259 defines it, with these differences: another outermost value is invalid, so is
// nesting deeper than [MaxDepth], and a byte order mark; strings need not be UTF-8. As with encoding/json, half of an
// escaped surrogate pair counts as U+FFFD.
package jsonscan

import "slices"

// MaxDepth is the largest number of objects and arrays within each other.
const MaxDepth = 32

// maxPath is the largest number of objects around a value that can be found.
const maxPath = 3

// Kind is what [Finder.Next] has read.
type Kind uint8

const (
	None    Kind = iota // all of the piece
	Invalid             // something that is not JSON; the document stays invalid
	Part                // a part of a string, which continues
	String              // a string, or its last part
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

// Member is a member of an object whose value is wanted, or leads to one.
type Member struct {
	Name    string   // with escapes resolved
	ID      uint8    // what Next returns with the value: 1 to 31, different for each member of a document; 0 if it is not wanted
	Repeat  Repeat   // what a second member of this ID means
	Parts   bool     // a string is returned part by part, however long it is
	Members []Member // the wanted ones of the value if it is an object
}

// Repeat is what a member means that has occurred before.
type Repeat uint8

const (
	Every  Repeat = iota // each value is returned: for a caller that overwrites, the last counts
	First                // all but the first one are passed over
	Refuse               // the document is invalid
)

// Finder returns the values of wanted members of one document. It must be started with [Finder.Start]. It allocates nothing.
type Finder struct {
	// Room is where names and wanted values are put together that are split between pieces or have escapes. All are cut
	// to its length, however they come; it must be longer than the longest wanted name. With nil no text is copied
	// anywhere: only what lies in one piece without escapes can be read, of any length. Other values are cut, and other
	// names make the document invalid.
	Room []byte
	// Trusted passes over unwanted objects and arrays without checking what is in them, which is faster and works at any
	// depth. It is for documents whose author writes valid JSON: an invalid one may be taken for valid.
	Trusted bool

	cut    bool
	begun  bool    // a text that continues is in Room
	level  uint8   // of path
	used   uint32  // bytes of Room
	seen   uint32  // the IDs
	wanted *Member // whose value is being read
	path   [maxPath]*Member
	scan   scanner
}

// Start begins a document. The members of root are those of the outermost object. They are not changed.
func (f *Finder) Start(root *Member) {
	*f = Finder{Room: f.Room, Trusted: f.Trusted, wanted: root, scan: scanner{inPlace: f.Room == nil}}
}

// Next reads p up to the first wanted value and returns the rest of p. The id is 0 with None and Invalid only. The text of a
// string has its escapes resolved; it is a part of p or of Room, and valid until the next call. A number is returned with the
// byte behind it. What was returned before the document is Done may turn out to be a part of an invalid one.
func (f *Finder) Next(p []byte) (id uint8, kind Kind, text, rest []byte) {
	for len(p) > 0 {
		kind, text, p = f.scan.next(p)
		switch {
		case kind == Invalid:
			return 0, Invalid, nil, nil
		case f.scan.depth < f.level:
			f.level--
		case f.wanted != nil:
			if id, text = f.value(kind, text); id != 0 {
				return id, kind, text, p
			}
		case f.scan.depth == f.level && (kind == name || kind == Part && f.scan.state == inName):
			f.name(kind == Part, text)
		case f.Trusted && (kind == Object || kind == Array):
			f.scan.skipNested()
		}
	}
	return 0, None, nil, nil
}

// Cut reports whether the last text was longer than Room.
func (f *Finder) Cut() bool { return f.cut }

// Escaped reports whether the last string has had an escape so far.
func (f *Finder) Escaped() bool { return f.scan.escaped }

// Done reports whether the document is complete and valid, as far as it was checked.
func (f *Finder) Done() bool { return f.scan.state == done }

// name reads a name in the innermost object on the path and finds out whether the value is wanted.
func (f *Finder) name(continues bool, part []byte) {
	text, whole := f.gather(continues, part)
	if f.cut && f.Room == nil {
		f.scan.state = invalid
	}
	if !whole {
		return
	}
	members := f.path[f.level-1].Members
	i := slices.IndexFunc(members, func(m Member) bool { return m.Name == string(text) })
	if i >= 0 && !f.cut {
		f.want(&members[i])
	}
}

// want lets m's value be read unless it must not be repeated.
func (f *Finder) want(m *Member) {
	repeated := m.ID > 0 && f.seen>>m.ID&1 > 0
	f.seen |= 1 << m.ID
	switch {
	case !repeated || m.Repeat == Every:
		f.wanted = m
	case m.Repeat == Refuse:
		f.scan.state = invalid
	}
}

// value reads a token of the wanted value. It returns an ID if the caller is to have it.
func (f *Finder) value(kind Kind, part []byte) (id uint8, text []byte) {
	m, whole := f.wanted, true
	switch {
	case kind == None:
		return 0, nil
	case kind == Part && m.Parts && f.scan.state == inString:
		return m.ID, part
	case kind == Part, kind == Number, kind == String && !m.Parts:
		if part, whole = f.gather(kind == Part, part); !whole {
			return 0, nil
		}
	case kind == Object && m.Members != nil:
		f.path[f.level] = m
		f.level++
		f.wanted = nil
		return 0, nil
	case f.Trusted && (kind == Object || kind == Array):
		f.scan.skipNested()
	}
	f.wanted = nil
	return m.ID, part
}

// gather adds part to the text in Room. It returns part itself if that is the whole text and not longer than Room. whole
// reports whether text is complete.
func (f *Finder) gather(continues bool, part []byte) (text []byte, whole bool) {
	if !f.begun {
		f.used, f.cut = 0, false
		if !continues && (f.Room == nil || len(part) <= len(f.Room)) {
			return part, true
		}
	}
	n := copy(f.Room[f.used:], part)
	f.used += uint32(n)
	f.cut = f.cut || n < len(part) || f.Room == nil
	f.begun = continues
	return f.Room[:f.used], !continues
}
