package usage

import (
	"math"
	"strconv"

	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/jsonscan"
)

// role is the use of a document.
type role uint8

const (
	ignored role = iota
	opens        // has the ID
	closes       // has everything
	starts       // has the model and the cost of the input
	updates      // has the cost of the response so far
	stops        // no later event changes the cost
	refuses      // no response follows
	unknown      // an event without a type so far
)

// API is an API whose responses can be read, and defines what is read of them.
type API struct {
	events          map[string]role // the types of relevant events of a stream
	response, event jsonscan.Member // the paths of the members that are read
	nullable        bool            // a number that is null counts as missing
}

// Identifiers of the members that are read. Those of token counts are last.
const (
	typeID uint8 = iota + 1
	idID
	modelID
	inputID
	outputID
	totalID
	cacheWriteID
	cacheReadID

	numCounts = cacheReadID - inputID + 1
)

// Responses is OpenAI's Responses API, and Messages Anthropic's Messages API. Of repeated members the largest number
// counts, so that nothing lowers the sum, and the first type, the first ID and the last model.
var (
	Responses = &API{
		events: map[string]role{
			"response.created":    opens,
			"response.completed":  closes,
			"response.incomplete": closes,
			"response.failed":     closes,
			"error":               refuses,
		},
		response: jsonscan.Member{Members: response},
		event:    jsonscan.Member{Members: []jsonscan.Member{typeMember, {Name: "response", Members: response}}},
	}
	Messages = &API{
		events: map[string]role{
			"message_start": starts,
			"message_delta": updates,
			"message_stop":  stops,
		},
		response: jsonscan.Member{Members: message},
		event:    jsonscan.Member{Members: []jsonscan.Member{typeMember, {Name: "message", Members: message}, messageUsage}},
		nullable: true,
	}
)

var (
	typeMember  = jsonscan.Member{Name: "type", ID: typeID}
	modelMember = jsonscan.Member{Name: "model", ID: modelID}

	response = []jsonscan.Member{{Name: "id", ID: idID}, modelMember, {Name: "usage", Members: []jsonscan.Member{
		{Name: "input_tokens", ID: inputID},
		{Name: "output_tokens", ID: outputID},
		{Name: "total_tokens", ID: totalID},
	}}}

	message = []jsonscan.Member{modelMember, messageUsage}

	// In it, input_tokens excludes the tokens written to and read from a cache. The numbers in a stream's events are
	// those of the whole response so far.
	messageUsage = jsonscan.Member{Name: "usage", Members: []jsonscan.Member{
		{Name: "input_tokens", ID: inputID},
		{Name: "output_tokens", ID: outputID},
		{Name: "cache_creation_input_tokens", ID: cacheWriteID},
		{Name: "cache_read_input_tokens", ID: cacheReadID},
	}}
)

const (
	maxModel = 64        // bytes of a model's name that are kept
	maxID    = 133       // bytes of the longest ID that is kept; OpenAI's have about 55
	maxText  = maxID + 1 // bytes of a name, type or number; longer ones are irrelevant
)

// document reads one response, or one event of a stream.
type document struct {
	find     jsonscan.Finder
	room     [maxText]byte
	model    [maxModel]byte
	role     role
	modelLen uint8 // 0 without a model
	tally
}

// tally is the cost of one response.
type tally struct {
	begun   bool // an event has reported it
	inexact bool // a number is not plain, or may be missing
	seen    [numCounts]bool
	counts  [numCounts]int64
}

// merge adds a later report of the same response: the larger numbers count.
func (t *tally) merge(later *tally) {
	t.begun, t.inexact = true, t.inexact || later.inexact
	for i := range t.counts {
		t.seen[i] = t.seen[i] || later.seen[i]
		t.counts[i] = max(t.counts[i], later.counts[i])
	}
}

// begin starts the next document. It drops an ID that turned out not to be the response's.
func (m *Meter) begin() {
	if !m.idFixed {
		m.idLen = 0
	}
	d, root := &m.doc, &m.api.event
	if m.each == closes {
		root = &m.api.response
	}
	*d = document{role: m.each}
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
		case member == 0, member == typeID && d.role != unknown:
		case member == typeID && kind == jsonscan.String:
			d.role = m.api.events[string(jsonscan.Unescape(text))]
		case member == typeID:
			d.role = ignored
		case member == idID:
			m.readID(kind, text)
		case member == modelID:
			d.readModel(kind, text)
		case kind == jsonscan.Null && m.api.nullable:
		case member >= inputID:
			d.readCount(member-inputID, kind, text)
		}
		m.fixID()
	}
}

// readID keeps the first ID. A part of one could equal another.
func (m *Meter) readID(kind jsonscan.Kind, text []byte) {
	if m.idLen == 0 && kind == jsonscan.String && len(text) <= maxID && !jsonscan.HasEscape(text) {
		m.idLen = uint8(copy(m.id[:], text))
	}
}

// fixID accepts an ID once the role of its document is known. Nothing else matters in an event that begins a response.
func (m *Meter) fixID() {
	named := m.doc.role == opens || m.doc.role == closes
	m.idFixed = m.idFixed || m.idLen > 0 && named
	if m.idFixed && m.doc.role == opens {
		m.doc.role = ignored
	}
}

// readModel keeps the beginning of a model's name. No name of the upstream's has an escape there.
func (d *document) readModel(kind jsonscan.Kind, name []byte) {
	d.modelLen = 0
	if kind != jsonscan.String || jsonscan.HasEscape(name[:min(len(name), maxModel+1)]) {
		return
	}
	n := min(len(name), maxModel)
	if n < len(name) {
		n = jsonscan.WholeRunes(name[:n])
	}
	d.modelLen = uint8(copy(d.model[:], name[:n]))
}

// readCount reads a number of tokens.
func (t *tally) readCount(which uint8, kind jsonscan.Kind, text []byte) {
	if kind != jsonscan.Number {
		t.inexact = true
		return
	}
	n, exact := parseCount(text)
	t.seen[which] = true
	t.counts[which] = max(t.counts[which], n)
	t.inexact = t.inexact || !exact
}

// parseCount returns a number, rounded up, and whether it is exact: an integer without sign, fraction and exponent that
// fits. Numbers out of range become the largest, or 0.
func parseCount(text []byte) (n int64, exact bool) {
	if n, err := strconv.ParseUint(string(text), 10, 63); err == nil {
		return int64(n), true
	}
	f, _ := strconv.ParseFloat(string(text), 64) // infinite if out of range
	if f = math.Ceil(f); f >= math.MaxInt64 {
		return math.MaxInt64, false
	}
	return max(int64(f), 0), false
}

// endDocument adds the usage of a complete document.
func (m *Meter) endDocument() {
	d := &m.doc
	d.inexact = d.inexact || !d.find.Done()
	if d.modelLen > 0 && (d.role == closes || d.role == starts) {
		m.model, m.modelLen = d.model, d.modelLen
	}
	switch d.role {
	case closes:
		m.running.merge(&d.tally)
		m.endRunning(true)
	case starts:
		m.endRunning(false)
		d.seen[outputID-inputID] = false // the reported output is only its beginning
		m.running.merge(&d.tally)
	case updates:
		m.running.merge(&d.tally)
	case stops:
		m.endRunning(!d.inexact)
	}
}

// endRunning adds the cost of the response on which a body has reported so far; stopped reports whether it was
// complete. Several in one stream add up: to count a response twice is safe, to miss one is not.
func (m *Meter) endRunning(stopped bool) {
	t := m.running
	if !t.begun {
		return
	}
	m.running = tally{}
	hasParts, hasTotal := t.seen[0] && t.seen[1], t.seen[2]
	input, output, total := t.counts[0], t.counts[1], t.counts[2]
	for _, cached := range t.counts[cacheWriteID-inputID:] {
		input = plus(input, cached)
	}
	m.found = true
	m.inexact = m.inexact || t.inexact || !stopped || !hasParts && !hasTotal
	m.partless = m.partless || !hasParts
	m.sum = plus(m.sum, max(plus(input, output), total)) // the total may exceed its parts, or be the only number
	m.input, m.output = plus(m.input, input), plus(m.output, output)
}
