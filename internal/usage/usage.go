// Package usage reads how many tokens a response of OpenAI's Responses API or Anthropic's Messages API has cost, of which model, and
// which ID it has, while the response passes: it holds nothing back and keeps no text but those two names.
//
// What the model says, and what a client makes the upstream repeat, reaches a body only inside JSON strings or below other names.
// So the package follows the JSON closely enough to distinguish these, and believes only the members in its tables of paths, in the
// types of events in its tables of events.
package usage

import (
	"bytes"
	"math"
)

// Meter reads the body of one response. [New] makes one. It is for one goroutine at a time and of fixed size.
type Meter struct {
	api   API
	kind  kind
	mark  uint8 // bytes of a byte order mark so far; len(byteOrderMark) once that is settled
	lines lines
	doc   document // the response, or the stream's current event
	bytes int64

	running *tally // what a stream's events have reported on a response that has not stopped; nil with Responses

	// Of all closing events, or of the response itself:
	sum           int64
	input, output int64
	found         bool // there was one
	inexact       bool // one was cut, invalid, or without plain numbers
	partless      bool // one did not name both input and output
	modelLen      uint8
	model         [maxModel]byte // of the last one that named it

	// The response's ID:
	idFixed bool  // it is the response's, for good
	idLen   uint8 // 0 while it is not complete
	id      [maxID]byte
}

type kind uint8

const (
	opaque kind = iota // bytes are counted
	single             // one JSON document
	stream             // server-sent events
)

const byteOrderMark = "\ufeff"

// New returns a Meter for a response of an API, and chooses by Content-Type how its body is read. One of another type than JSON and
// event streams, or with any coding but identity, is not looked into: its bytes are counted.
func New(api API, contentType, contentEncoding []byte) *Meter {
	m := &Meter{api: api, kind: kindOf(contentType, contentEncoding)}
	if api == Messages {
		m.running = &tally{}
	}
	m.begin()
	return m
}

func kindOf(contentType, contentEncoding []byte) kind {
	media, _, _ := bytes.Cut(contentType, []byte(";"))
	media, coding := bytes.TrimSpace(media), bytes.TrimSpace(contentEncoding)
	switch {
	case len(coding) > 0 && !bytes.EqualFold(coding, []byte("identity")):
		return opaque
	case bytes.EqualFold(media, []byte("text/event-stream")):
		return stream
	case bytes.EqualFold(media, []byte("application/json")):
		return single
	}
	return opaque
}

// Write reads the next piece of the body, of any size. It keeps no reference to p and never fails.
func (m *Meter) Write(p []byte) {
	m.bytes += int64(len(p))
	for len(p) > 0 && int(m.mark) < len(byteOrderMark) {
		if p[0] != byteOrderMark[m.mark] {
			m.read([]byte(byteOrderMark[:m.mark])) // it only began like one
			m.mark = uint8(len(byteOrderMark))
			break
		}
		m.mark++
		p = p[1:]
	}
	m.read(p)
}

func (m *Meter) read(p []byte) {
	switch m.kind {
	case single:
		m.feed(p)
	case stream:
		m.readLines(p)
	}
}

// Tokens returns the input and output tokens of what has been seen so far. They are exact if every closing event (there must be
// one), or the JSON response, was whole and gave plain numbers. Otherwise n is what was read, but not less than the [Estimate] of
// the response's bytes; what the request cost is not known here.
//
// An event without its closing empty line counts if its document is whole, since the tokens are spent all the same.
func (m *Meter) Tokens() (n int64, exact bool) {
	all := m.settled()
	if all.found && !all.inexact {
		return all.sum, true
	}
	return max(all.sum, Estimate(all.bytes)), false
}

// settled returns what the meter would be if the body ended here.
func (m *Meter) settled() Meter {
	all := *m
	if m.running != nil {
		running := *m.running
		all.running = &running
	}
	all.endDocument()
	all.endRunning(false)
	return all
}

// Usage returns the input and output tokens that the response names. Several closing events add up. They are exact if
// [Meter.Tokens] are and each event named both. Otherwise they are what was read, and nothing is estimated.
func (m *Meter) Usage() (input, output int64, exact bool) {
	all := m.settled()
	return all.input, all.output, all.found && !all.inexact && !all.partless
}

// Model returns the model that the response names, cut to 64 bytes at a rune's boundary, and nil while there is none or for one
// with an escape. It need not be UTF-8, and is valid until the next Write. The last closing event that names one counts.
func (m *Meter) Model() []byte {
	switch {
	case (m.doc.role == closes || m.doc.role == starts) && m.doc.modelLen > 0:
		return m.doc.model[:m.doc.modelLen]
	case m.modelLen > 0:
		return m.model[:m.modelLen]
	}
	return nil
}

// ID returns the ID that the response gives itself, in a stream in the first event that begins or ends a response and has one. It
// is nil while there is none, and for one that is longer than 136 bytes or has an escape. It has any form, is known with the byte
// behind it, and never changes then.
func (m *Meter) ID() []byte {
	if !m.idFixed {
		return nil
	}
	return m.id[:m.idLen]
}

// Stream reports whether the body is read as a stream of events.
func (m *Meter) Stream() bool { return m.kind == stream }

// Estimate returns how many tokens a number of bytes stands for where no usage is given: one for every four bytes, rounded up.
func Estimate(bytes int64) int64 {
	n := max(bytes, 0)
	return n/4 + min(n%4, 1)
}

// plus adds two numbers that are not negative; it stops at the largest.
func plus(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
