package usage

import "bytes"

// lines is where in a stream's lines the meter stands. Lines end in LF, CRLF or
// CR, as the standard of server-sent events says.
type lines struct {
	place   place
	name    uint8 // bytes of "data" matched
	cr      bool  // the last byte was a CR: an LF would belong to it
	hasData bool  // the event has had a data line
}

type place uint8

const (
	inName  place = iota // at a line's beginning, or in "data"
	inSpace              // behind the colon, where one space is dropped
	inData
	inOther // a comment, another field
)

const (
	dataField  = "data"
	dataPrefix = dataField + ": "
)

// lineFeed joins an event's data lines.
var lineFeed = []byte{'\n'}

// readLines hands what stands in data lines to the event's document.
func (m *Meter) readLines(p []byte) {
	hasCR := bytes.IndexByte(p, '\r') >= 0
	for len(p) > 0 {
		switch c := p[0]; {
		case m.sse.cr && c == '\n':
			m.sse.cr = false
			p = p[1:]
		case m.sse.place == inName:
			m.sse.cr = false
			p = m.readName(p)
		case m.sse.place == inSpace:
			m.startData()
			if c == ' ' {
				p = p[1:]
			}
		default:
			p = m.readRest(p, hasCR)
		}
	}
}

// readName takes one byte of a field's name, or all of the usual one.
func (m *Meter) readName(p []byte) []byte {
	if m.sse.name == 0 && len(p) >= len(dataPrefix) && string(p[:len(dataPrefix)]) == dataPrefix {
		m.startData()
		return p[len(dataPrefix):]
	}
	switch c, n := p[0], m.sse.name; {
	case c == '\n' || c == '\r':
		if n == uint8(len(dataField)) {
			m.startData() // no colon: an empty line of data
		}
		m.endLine(c, n == 0)
	case n == uint8(len(dataField)) && c == ':':
		m.sse.place = inSpace
	case n < uint8(len(dataField)) && c == dataField[n]:
		m.sse.name++
	default:
		m.sse.place = inOther
	}
	return p[1:]
}

func (m *Meter) startData() {
	m.sse.place = inData
	if m.sse.hasData {
		m.doc.feed(lineFeed)
	}
	m.sse.hasData = true
}

// readRest takes a line's bytes up to its end.
func (m *Meter) readRest(p []byte, hasCR bool) []byte {
	end := endOfLine(p, hasCR)
	line := p
	if end >= 0 {
		line = p[:end]
	}
	if m.sse.place == inData {
		m.doc.feed(line)
	}
	if end < 0 {
		return nil
	}
	m.endLine(p[end], false)
	return p[end+1:]
}

// endOfLine looks for LF alone where it can, which is the fastest by far.
func endOfLine(p []byte, hasCR bool) int {
	if hasCR {
		return bytes.IndexAny(p, "\r\n")
	}
	return bytes.IndexByte(p, '\n')
}

// endLine goes on to the next line; an empty one ends the event.
func (m *Meter) endLine(c byte, empty bool) {
	hasData := m.sse.hasData
	m.sse = lines{cr: c == '\r', hasData: hasData && !empty}
	if empty && hasData {
		m.add()
		m.begin()
	}
}
