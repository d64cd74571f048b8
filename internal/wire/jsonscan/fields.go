package jsonscan

import (
	"errors"
	"strconv"
)

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
