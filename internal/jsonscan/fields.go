package jsonscan

import "errors"

// errFields is every error of Fields: a reason could quote a secret.
var errFields = errors.New("this is not the expected JSON")

// Field is a member of an object that Fields looks for.
type Field struct {
	Name  string
	Kind  Kind // that its value must have: String or Number
	Found bool
	Raw   []byte // a part of the document: the text of a string without escapes, or a number
}

// Unsigned returns the number if it has no sign, fraction and exponent and at most 18 digits; 0 and true if it was not found.
func (f *Field) Unsigned() (n uint64, ok bool) {
	if len(f.Raw) > 18 {
		return 0, false
	}
	for _, c := range f.Raw {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}

// Fields finds the wanted members of doc, which must be one JSON object, and copies none of it. It is strict where two readers
// could differ: a wanted member may occur once only, and neither a wanted string nor any name of the object may have an
// escape. What is wanted may be missing.
func Fields(doc []byte, wanted ...*Field) error {
	list := make([]Member, len(wanted))
	for i, m := range wanted {
		list[i] = Member{Name: m.Name, ID: uint8(i + 1), Repeat: Refuse}
	}
	var find Finder // without Room, so that it has no place to copy to
	find.Start(&Member{Members: list})
	for p := doc; len(p) > 0; {
		id, kind, text, rest := find.Next(p)
		if p = rest; id == 0 {
			continue
		}
		m := wanted[id-1]
		if kind != m.Kind || find.Cut() {
			return errFields
		}
		m.Found, m.Raw = true, text
	}
	if !find.Done() {
		return errFields
	}
	return nil
}
