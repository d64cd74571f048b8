package usage

import (
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/responses-api-proxy/responses-api-proxy/internal/jsonscan"
)

// role is what a document is good for.
type role uint8

const (
	ignored role = iota
	opens        // it gives the ID
	closes       // it gives everything
	unknown      // an event without a type so far
)

// events are the types of a stream's events that matter.
var events = map[string]role{
	"response.created":    opens,
	"response.completed":  closes,
	"response.incomplete": closes,
	"response.failed":     closes,
}

// Identifiers of the members that are read.
const (
	typeID uint8 = iota + 1
	idID
	modelID
	inputID
	outputID
	totalID
)

// The paths of the members that are read, in a response and in an event. Of repeated members the larger number counts, so that
// nothing lowers the sum, the first type, the first ID and the last model.
var (
	responseMembers = jsonscan.Member{Members: []jsonscan.Member{
		{Name: "id", ID: idID, Parts: true},
		{Name: "model", ID: modelID, Parts: true},
		{Name: "usage", Members: []jsonscan.Member{
			{Name: "input_tokens", ID: inputID},
			{Name: "output_tokens", ID: outputID},
			{Name: "total_tokens", ID: totalID},
		}},
	}}
	eventMembers = jsonscan.Member{Members: []jsonscan.Member{
		{Name: "type", ID: typeID, Repeat: jsonscan.First},
		{Name: "response", Members: responseMembers.Members},
	}}
)

const (
	maxText  = 32  // bytes of a name, type or number; no longer one matters
	maxModel = 64  // bytes that are kept of a model's name
	maxID    = 160 // bytes of the longest ID that is kept; OpenAI's have about 55
)

// document reads one response, or one event of a stream.
type document struct {
	find     jsonscan.Finder
	room     [maxText]byte
	model    [maxModel]byte
	role     role
	inexact  bool // a number on the path is not plain
	seen     [3]bool
	modelLen uint8 // 0 while there is none
	partial  int16 // bytes of the string that is being kept; -1 if it is dropped
	counts   [3]int64
}

// begin prepares for the next document. It drops an ID that turned out not to be the response's.
func (m *Meter) begin() {
	if !m.idFixed {
		m.idLen = 0
	}
	d, root := &m.doc, &eventMembers
	*d = document{role: unknown}
	if m.kind == single {
		d.role, root = closes, &responseMembers
	}
	d.find.Room, d.find.Trusted = d.room[:], true
	d.find.Start(root)
}

// feed reads the next bytes of the current document.
func (m *Meter) feed(p []byte) {
	d := &m.doc
	for len(p) > 0 && d.role != ignored {
		var member uint8
		var kind jsonscan.Kind
		var text []byte
		switch member, kind, text, p = d.find.Next(p); {
		case member == 0:
		case member == typeID && kind == jsonscan.String:
			d.role = events[string(text)]
		case member == typeID:
			d.role = ignored
		case member == idID && m.idLen == 0:
			if n := d.keep(m.id[:], kind, text); n <= maxID { // a part of an ID could be another one
				m.idLen = uint8(n)
			}
		case member == modelID:
			d.readModel(kind, text)
		case member >= inputID:
			d.readCount(member-inputID, kind, text)
		}
		m.fixID()
	}
}

// fixID accepts an ID once the role of its document is known as well. Nothing else matters in an event that begins a response.
func (m *Meter) fixID() {
	named := m.doc.role == opens || m.doc.role == closes
	m.idFixed = m.idFixed || m.idLen > 0 && named
	if m.idFixed && m.doc.role == opens {
		m.doc.role = ignored
	}
}

// readModel reads the name of the model, cut to whole runes. One with an escape is none: the upstream has no such names.
func (d *document) readModel(kind jsonscan.Kind, part []byte) {
	n := d.keep(d.model[:], kind, part)
	if n > maxModel {
		n = wholeRunes(d.model[:])
	}
	d.modelLen = uint8(n)
}

// wholeRunes returns the length of p without the beginning of a character at its end.
func wholeRunes(p []byte) int {
	for n := max(0, len(p)-utf8.UTFMax); n < len(p); n++ {
		if utf8.RuneStart(p[n]) && !utf8.FullRune(p[n:]) {
			return n
		}
	}
	return len(p)
}

// keep puts the parts of a string into room and returns its length with the last one: len(room)+1 for one that is cut, 0 for one
// with an escape before that, and for other values.
func (d *document) keep(room []byte, kind jsonscan.Kind, part []byte) int {
	n := int(d.partial)
	if 0 <= n && n <= len(room) {
		fits := copy(room[n:], part)
		switch n += fits; {
		case fits < len(part):
			n = len(room) + 1
		case d.find.Escaped():
			n = -1
		}
	}
	d.partial = 0
	switch kind {
	case jsonscan.Part:
		d.partial = int16(n)
		return 0
	case jsonscan.String:
		return max(n, 0)
	}
	return 0
}

// readCount reads a number of tokens.
func (d *document) readCount(which uint8, kind jsonscan.Kind, text []byte) {
	if kind != jsonscan.Number {
		d.inexact = true
		return
	}
	n, exact := parseCount(text)
	d.seen[which] = true
	d.counts[which] = max(d.counts[which], n)
	d.inexact = d.inexact || !exact
}

// parseCount returns a number, rounded up, and whether it is exact: an integer without sign, fraction and exponent that fits. The
// largest that fits stands for all beyond it, and 0 for those below it.
func parseCount(text []byte) (n int64, exact bool) {
	if n, err := strconv.ParseUint(string(text), 10, 63); err == nil {
		return int64(n), true
	}
	f, _ := strconv.ParseFloat(string(text), 64) // which is infinite out of range
	if f = math.Ceil(f); f >= math.MaxInt64 {
		return math.MaxInt64, false
	}
	return max(int64(f), 0), false
}

// add takes the usage out of a document that is over. Only closing ones count. Several of them in one stream add up: to count one
// response twice is safe, to miss a second one is not.
func (m *Meter) add() {
	d := &m.doc
	if d.role != closes {
		return
	}
	hasParts := d.seen[0] && d.seen[1]
	m.found = true
	m.inexact = m.inexact || d.inexact || !d.find.Done() || !hasParts && !d.seen[2]
	m.partless = m.partless || !hasParts
	m.sum = plus(m.sum, max(plus(d.counts[0], d.counts[1]), d.counts[2])) // a total that is larger than its parts, or alone
	m.input, m.output = plus(m.input, d.counts[0]), plus(m.output, d.counts[1])
	if d.modelLen > 0 {
		m.model, m.modelLen = d.model, d.modelLen
	}
}
