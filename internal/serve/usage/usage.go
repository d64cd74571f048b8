// Package usage reads from a passing response of OpenAI's Responses API or Anthropic's Messages API its number of
// tokens, its model and its ID. It delays nothing, and keeps no text but these two names.
//
// The output of a model, and text of a client that the upstream repeats, occur in a body only inside JSON strings or
// under other names. So the package parses the JSON closely enough to distinguish these, and trusts only the members in
// its tables of paths, in the types of events in its tables of events.
package usage

import (
	"bytes"
	"math"
)

// Meter reads the body of one response. Use [New] to make one. It is for one goroutine at a time and of fixed size.
type Meter struct {
	api     *API
	doc     document // the response, or the stream's current event
	bytes   int64
	running tally // the reports so far on a response that has not stopped

	// Of all closing events, or of the response itself:
	sum           int64
	input, output int64
	found         bool // there was one
	inexact       bool // one was truncated, invalid, or without plain numbers
	partless      bool // one did not report both input and output
	modelLen      uint8
	model         [maxModel]byte // of the last one with a model

	// The response's ID:
	idFixed bool  // it is certainly the response's
	idLen   uint8 // 0 while it is incomplete
	id      [maxID]byte

	each role  // of each document, to begin with: closes for one JSON document, ignored if only bytes are counted
	sse  bool  // the body is an event stream
	line uint8 // of the current line: matched bytes of dataField, all of them in inData, or atCR or inOther
}

// New returns a Meter for a response of an API, which it parses according to Content-Type. Of other types than JSON and
// event streams, and of any coding but identity, it only counts the bytes.
func New(api *API, contentType, contentEncoding []byte) *Meter {
	m := &Meter{api: api}
	media, _, _ := bytes.Cut(contentType, []byte(";"))
	media, coding := bytes.TrimSpace(media), bytes.TrimSpace(contentEncoding)
	switch {
	case len(coding) > 0 && !bytes.EqualFold(coding, []byte("identity")):
	case bytes.EqualFold(media, []byte("text/event-stream")):
		m.each, m.sse = unknown, true
	case bytes.EqualFold(media, []byte("application/json")):
		m.each = closes
	}
	m.begin()
	return m
}

// NewEvents returns a Meter for the events of a response of the Responses API that come as messages of their own, as inside a
// WebSocket. [Meter.EndEvent] ends each.
func NewEvents() *Meter {
	m := &Meter{api: Responses, each: unknown}
	m.begin()
	return m
}

// EndEvent ends an event, and reports whether the response ends with it, or was refused by it.
func (m *Meter) EndEvent() bool {
	role := m.doc.role
	m.endDocument()
	m.begin()
	return role == closes || role == refuses
}

// Write reads the next piece of the body, of any size. It does not keep p and never fails.
func (m *Meter) Write(p []byte) {
	m.bytes += int64(len(p))
	if m.sse {
		m.readLines(p)
	} else {
		m.feed(p)
	}
}

const (
	dataField = "data:"

	inData  = uint8(len(dataField)) // after the colon
	atCR    = inData + 1            // behind a CR that begins the line
	inOther = inData + 2            // in a comment, or another field
)

// readLines passes the content of data lines to the event's document (WHATWG HTML, server-sent events). The space that
// may follow the colon is white space in JSON too, and so are the line feeds that join an event's data lines, and the
// CR of lines that end in CRLF. No upstream is known whose lines end in CR alone. An empty line ends the event.
func (m *Meter) readLines(p []byte) {
	for len(p) > 0 {
		n, ended := 1, p[0] == '\n'
		switch {
		case m.line == inData || m.line == inOther:
			n = bytes.IndexByte(p, '\n') + 1
			if ended = n > 0; !ended {
				n = len(p)
			}
			if m.line == inData {
				m.feed(p[:n])
			}
		case ended && (m.line == 0 || m.line == atCR):
			m.endDocument()
			m.begin()
		case m.line == 0 && p[0] == '\r':
			m.line = atCR
		case m.line == atCR || p[0] != dataField[m.line]:
			m.line = inOther
		default:
			m.line++
		}
		if ended {
			m.line = 0
		}
		p = p[n:]
	}
}

// Tokens returns the input and output tokens so far. They are exact if every closing event (of at least one), or the
// JSON response, was complete and had plain numbers. Otherwise n is the number that was read, but at least the
// [Estimate] of the response's bytes; it does not include the unknown cost of the request.
//
// An event without its closing empty line counts if its document is complete, since the tokens are spent.
func (m *Meter) Tokens() (n int64, exact bool) {
	all := m.settled()
	if all.found && !all.inexact {
		return all.sum, true
	}
	return max(all.sum, Estimate(all.bytes)), false
}

// settled returns the meter as if the body ended here.
func (m *Meter) settled() Meter {
	all := *m
	all.endDocument()
	all.endRunning(false)
	return all
}

// Usage returns the input and output tokens that the response reports. Several closing events add up. They are exact if
// [Meter.Tokens] is exact and each event reported both. Otherwise they are what was read, without an estimate.
func (m *Meter) Usage() (input, output int64, exact bool) {
	all := m.settled()
	return all.input, all.output, all.found && !all.inexact && !all.partless
}

// Model returns the model that the response names, cut to 64 bytes between runes; empty if there is none or it
// contains an escape. It need not be UTF-8, and is valid until the next Write. The last closing event with a model
// counts.
func (m *Meter) Model() []byte {
	if (m.doc.role == closes || m.doc.role == starts) && m.doc.modelLen > 0 {
		return m.doc.model[:m.doc.modelLen]
	}
	return m.model[:m.modelLen]
}

// ID returns the ID of the response, in a stream from the first event with one that begins or ends a response. It is
// nil if there is none, or if it is longer than 133 bytes or contains an escape. It may have any form, is available
// when the byte after it has arrived, and then never changes.
func (m *Meter) ID() []byte {
	if !m.idFixed {
		return nil
	}
	return m.id[:m.idLen]
}

// Stream reports whether the body is parsed as an event stream.
func (m *Meter) Stream() bool { return m.sse }

// Estimate returns the number of tokens assumed for a number of bytes without usage: one for every four bytes, rounded
// up.
func Estimate(bytes int64) int64 {
	n := max(bytes, 0)
	return n/4 + min(n%4, 1)
}

// plus adds two numbers that are not negative; it saturates.
func plus(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
