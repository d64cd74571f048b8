package usage

import (
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/responses-api-proxy/responses-api-proxy/internal/jsonscan"
)

// Identifiers of the members that are read.
const (
	typeID uint8 = iota + 1
	idID
	modelID
	inputID
	outputID
	totalID
)

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

// document reads one response, or one event of a stream. Of repeated members the
// larger number counts, so that nothing lowers the sum, the first type, the first
// ID and the last model.
type document struct {
	progress
	find  jsonscan.Finder
	room  [maxText]byte
	model [maxModel]byte
}

// progress is what a document has yielded so far.
type progress struct {
	closing  bool // it is a response, or an event that ends one
	created  bool // it is an event that begins one
	ignored  bool // nothing more in it matters
	inexact  bool // a number on the path is not plain
	seen     [3]bool
	modelLen uint8 // 0 while there is none
	partial  int16 // bytes of the string that is being kept; -1 if it is dropped
	counts   [3]int64
}

func (d *document) start(root *jsonscan.Member) {
	d.progress = progress{closing: root == &responseMembers}
	d.find.Start(root)
}

// feed reads the next bytes of the current document.
func (m *Meter) feed(p []byte) {
	d := &m.doc
	for len(p) > 0 && !d.ignored {
		var member uint8
		var kind jsonscan.Kind
		var text []byte
		switch member, kind, text, p = d.find.Next(p); member {
		case 0:
		case typeID:
			d.readType(kind, text)
			m.settleID()
		case idID:
			m.readID(kind, text)
			m.settleID()
		case modelID:
			d.readModel(kind, text)
		default:
			d.readCount(member-inputID, kind, text)
		}
	}
}

func (d *document) readType(kind jsonscan.Kind, text []byte) {
	if kind != jsonscan.String {
		text = nil
	}
	switch string(text) {
	case "response.completed", "response.incomplete", "response.failed":
		d.closing = true
	case "response.created":
		d.created = true
	default:
		d.ignored = true
	}
}

// readID reads the response's ID. One that is too long or has an escape is none:
// a part of an ID could be another one.
func (m *Meter) readID(kind jsonscan.Kind, part []byte) {
	if m.id.whole {
		return
	}
	if n := m.doc.keep(m.id.buf[:], kind, part); 0 < n && n <= maxID {
		m.id.n, m.id.whole = uint8(n), true
	}
}

// settleID accepts an ID once the type of its event is known as well. Nothing
// else matters in an event that begins a response.
func (m *Meter) settleID() {
	m.id.fixed = m.id.fixed || m.id.whole && (m.doc.closing || m.doc.created)
	m.doc.ignored = m.doc.ignored || m.id.fixed && m.doc.created
}

// readModel reads the name of the model, cut to whole runes. One with an escape
// is none: the upstream has no such names.
func (d *document) readModel(kind jsonscan.Kind, part []byte) {
	n := d.keep(d.model[:], kind, part)
	if n > maxModel {
		n = wholeRunes(d.model[:])
	}
	d.modelLen = uint8(n)
}

// wholeRunes returns the length of p without a rune at its end that was cut.
func wholeRunes(p []byte) int {
	for i := 1; i < utf8.UTFMax && i <= len(p); i++ {
		if last := p[len(p)-i:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				return len(p) - i
			}
			break
		}
	}
	return len(p)
}

// keep puts the parts of a string into room and returns its length with the last
// one: len(room)+1 for one that is cut, 0 for one with an escape before that, and
// for other values.
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
	if kind == jsonscan.Part {
		d.partial = int16(n)
		return 0
	}
	d.partial = 0
	if kind != jsonscan.String {
		return 0
	}
	return max(n, 0)
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

// parseCount returns a number, rounded up, and whether it is exact: an integer
// without sign, fraction and exponent that fits. The largest that fits stands for
// all beyond it, and 0 for those below it.
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

// tokens returns the tokens that the document names, and whether they are exact.
// A total that is larger than its parts, or stands alone, counts.
func (d *document) tokens() (n int64, exact bool) {
	n = max(plus(d.counts[0], d.counts[1]), d.counts[2])
	return n, !d.inexact && d.find.Done() && (d.seen[2] || d.hasParts())
}

// hasParts reports whether the document names both input and output tokens.
func (d *document) hasParts() bool { return d.seen[0] && d.seen[1] }
