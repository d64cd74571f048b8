package usage

import "bytes"

// lines is the position in the lines of a stream, which end in LF, CRLF or CR (WHATWG HTML, server-sent events).
type lines struct {
	name    uint8 // matched bytes of dataField, or inData or inOther
	afterCR bool  // the last byte was a CR, to which an LF would belong
}

const (
	dataField = "data:"

	inData  = uint8(len(dataField)) + 1 // after the colon and one space
	inOther = inData + 1                // in a comment, or another field
)

var lineFeed = []byte{'\n'}

// readLines passes the content of data lines to the event's document.
func (m *Meter) readLines(p []byte) {
	ends := "\r\n"
	if bytes.IndexByte(p, '\r') < 0 {
		ends = "\n" // the fastest search
	}
	for len(p) > 0 {
		if m.lines.afterCR {
			m.lines.afterCR = false
			p = bytes.TrimPrefix(p, lineFeed)
			continue
		}
		end := bytes.IndexAny(p, ends)
		if end < 0 {
			m.readLine(p)
			return
		}
		m.readLine(p[:end])
		m.endLine(p[end])
		p = p[end+1:]
	}
}

// readLine reads a part of a line, without its end.
func (m *Meter) readLine(p []byte) {
	for l := &m.lines; len(p) > 0 && l.name < inData; {
		switch {
		case int(l.name) == len(dataField):
			p = bytes.TrimPrefix(p, []byte(" "))
			l.name = inData
		case p[0] != dataField[l.name]:
			l.name = inOther
		default:
			l.name++
			p = p[1:]
		}
	}
	if m.lines.name == inData {
		m.feed(p)
	}
}

// endLine starts the next line; an empty line ends the event. The data lines of an event are joined by line feeds; the
// one behind the last changes nothing.
func (m *Meter) endLine(end byte) {
	switch name := m.lines.name; {
	case name == 0:
		m.endDocument()
		m.begin()
	case int(name) >= len(dataField)-1 && name != inOther: // a field name without a colon is an empty line of data
		m.feed(lineFeed)
	}
	m.lines = lines{afterCR: end == '\r'}
}
