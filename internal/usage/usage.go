// Package usage reads how many tokens an answer of OpenAI's Responses API has
// cost, of which model, and which id it has, while the answer passes: it holds
// nothing back and keeps no text but those two names.
//
// What the model says, and what a client makes the upstream repeat, reaches a
// body only inside JSON strings or below other keys. So the package follows the
// JSON closely enough to know where it stands, and believes what stands at five
// paths only: id, model, usage.input_tokens, output_tokens and total_tokens of
// the answer, or of the response in a stream's closing event; of its first
// event, response.created, the id alone.
package usage

import (
	"bytes"
	"math"
)

// Meter watches one answer's body. The zero value is not ready; see [New]. It
// is used by one goroutine at a time, and its size is fixed.
type Meter struct {
	kind  kind
	bom   uint8 // bytes of a byte order mark seen so far; len(bom) once that is settled
	sse   lines
	doc   document // the answer, or the stream's current event
	bytes int64
	sum   int64
	found bool // a closing event, or the answer itself, has been added to sum
	odd   bool // one of them was cut, malformed, or without plain numbers

	input, output int64
	partless      bool  // a closing event did not say both
	model         model // of the last closing event that named one
	id            ident
}

type kind uint8

const (
	counting kind = iota // bytes only
	answer               // one JSON document
	stream               // server-sent events
)

var bom = [...]byte{0xef, 0xbb, 0xbf}

// New chooses by Content-Type how an answer is read. An unknown type, or a body
// with any coding but identity, is not looked into: its bytes are counted.
func New(contentType, contentEncoding []byte) *Meter {
	m := &Meter{kind: kindOf(contentType, contentEncoding)}
	m.begin()
	return m
}

func kindOf(contentType, contentEncoding []byte) kind {
	if e := bytes.TrimSpace(contentEncoding); len(e) > 0 && !bytes.EqualFold(e, []byte("identity")) {
		return counting
	}
	media, _, _ := bytes.Cut(contentType, []byte(";"))
	media = bytes.TrimSpace(media)
	switch {
	case bytes.EqualFold(media, []byte("text/event-stream")):
		return stream
	case bytes.EqualFold(media, []byte("application/json")):
		return answer
	}
	return counting
}

// begin makes ready for the next document.
func (m *Meter) begin() {
	m.id.forget()
	if m.kind == answer {
		m.doc = document{level: levelResponse, base: levelResponse, closing: true, id: &m.id}
		return
	}
	m.doc = document{id: &m.id}
}

// Write sees the next piece of the body, of any size. It keeps no reference to
// p and never fails.
func (m *Meter) Write(p []byte) {
	m.bytes += int64(len(p))
	if m.kind == counting {
		return
	}
	if m.bom < uint8(len(bom)) {
		p = m.skipMark(p)
	}
	m.read(p)
}

// skipMark drops a byte order mark at the body's beginning.
func (m *Meter) skipMark(p []byte) []byte {
	for len(p) > 0 && m.bom < uint8(len(bom)) {
		if p[0] != bom[m.bom] {
			m.read(bom[:m.bom]) // it only looked like one
			m.bom = uint8(len(bom))
			return p
		}
		m.bom++
		p = p[1:]
	}
	return p
}

func (m *Meter) read(p []byte) {
	if m.kind == answer {
		m.doc.feed(p)
		return
	}
	m.readLines(p)
}

// add takes the usage out of a document that is over. Only closing events
// count. Several of them in one stream add up: to count one response twice is
// safe, to miss a second one is not.
func (m *Meter) add() {
	if !m.doc.closing {
		return
	}
	n, plain := m.doc.tokens()
	m.sum = plus(m.sum, n)
	in, out, said := m.doc.parts()
	m.input, m.output = plus(m.input, in), plus(m.output, out)
	m.partless = m.partless || !said
	m.found = true
	if m.doc.model.known {
		m.model = m.doc.model
	}
	if !plain || m.doc.state != ended {
		m.odd = true
	}
}

// Tokens returns the input and output tokens of what has been seen so far. They
// are exact if every closing event (there must be one), or the JSON answer, was
// whole and gave plain numbers. Otherwise n is what was read, but not less than
// the [Estimate] of the answer's bytes; what the request cost is not known here.
//
// An event without its closing empty line counts if its document is whole,
// since the tokens are spent all the same.
func (m *Meter) Tokens() (n int64, exact bool) {
	all := m.settled()
	if all.found && !all.odd {
		return all.sum, true
	}
	return max(all.sum, Estimate(all.bytes)), false
}

// settled is what the meter would be if the body were over; it itself goes on.
func (m *Meter) settled() Meter {
	all := *m
	if all.kind != counting {
		all.add()
	}
	return all
}

// Usage returns what the answer says of its tokens, input and output apart.
// Several closing events add up. They are exact if [Meter.Tokens] are and each
// event said both. Otherwise they are what was read, and nothing is estimated.
func (m *Meter) Usage() (input, output int64, exact bool) {
	all := m.settled()
	return all.input, all.output, all.found && !all.odd && !all.partless
}

// Model returns which model the answer says has made it, cut to 64 bytes at a
// rune's boundary; nil if it has not said so yet, or in a string with escapes.
// It need not be UTF-8, and is valid until the next Write. The last closing
// event that names one counts.
func (m *Meter) Model() []byte {
	last := &m.model
	if m.doc.closing && m.doc.model.known {
		last = &m.doc.model
	}
	if last.n == 0 {
		return nil
	}
	return last.buf[:last.n]
}

// ID returns the id that the answer gives to itself, or the response of the
// stream's first event that is a response.created or closes one: the first such
// id counts. It is nil while there is none, and for one that is longer than 160
// bytes or has an escape. It need not be of any form, never changes once it is
// known, and is known as soon as the byte behind it has been seen.
func (m *Meter) ID() []byte {
	if !m.id.fixed {
		return nil
	}
	return m.id.buf[:m.id.n]
}

// Stream reports whether the body is read as a stream of events.
func (m *Meter) Stream() bool { return m.kind == stream }

// Estimate returns how many tokens a number of bytes stands for, where nobody
// says: one for every four bytes, rounded up.
func Estimate(bytes int64) int64 {
	n := max(bytes, 0)
	if n%4 > 0 {
		return n/4 + 1
	}
	return n / 4
}

// plus adds two numbers that are not negative; it stops at the largest.
func plus(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
