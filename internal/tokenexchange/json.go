package tokenexchange

import (
	"errors"

	"github.com/responses-api-proxy/responses-api-proxy/internal/jsonscan"
)

// errJSON is every error of members: a reason could quote a secret.
var errJSON = errors.New("this is not the expected JSON")

// member is a member of an object that is looked for.
type member struct {
	name  string
	kind  jsonscan.Kind // that its value must have: String or Number
	found bool
	raw   []byte // a part of the document: the text of a string without escapes, or a number
}

// unsigned returns the number if it has no sign, fraction and exponent and at
// most 18 digits; 0 and true if it was not found.
func (m *member) unsigned() (n uint64, ok bool) {
	if len(m.raw) > 18 {
		return 0, false
	}
	for _, c := range m.raw {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}

// members finds the wanted members of doc, which must be one JSON object, and
// copies none of it. It is strict where two readers could differ: a wanted member
// may occur once only, and neither a wanted string nor any name of the object may
// have an escape. What is wanted may be missing.
func members(doc []byte, wanted ...*member) error {
	list := make([]jsonscan.Member, len(wanted))
	for i, m := range wanted {
		list[i] = jsonscan.Member{Name: m.name, ID: uint8(i + 1), Repeat: jsonscan.Refuse}
	}
	var find jsonscan.Finder // without Room, so that it has no place to copy to
	find.Start(&jsonscan.Member{Members: list})
	for p := doc; len(p) > 0; {
		id, kind, text, rest := find.Next(p)
		if p = rest; id == 0 {
			continue
		}
		m := wanted[id-1]
		if kind != m.kind || find.Cut() {
			return errJSON
		}
		m.found, m.raw = true, text
	}
	if !find.Done() {
		return errJSON
	}
	return nil
}
