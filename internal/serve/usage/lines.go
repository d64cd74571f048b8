package usage

import "bytes"

const (
	dataField = "data:"

	inData  = uint8(len(dataField)) // after the colon
	atCR    = inData + 1            // behind a CR that begins the line
	inOther = inData + 2            // in a comment, or another field
)

var lineFeed = []byte{'\n'}

// readLines passes the content of data lines to the event's document (WHATWG HTML, server-sent events). Lines end in LF
// or CRLF: the CR is white space in JSON. No upstream is known whose lines end in CR alone.
func (m *Meter) readLines(p []byte) {
	for len(p) > 0 {
		line, rest, ended := bytes.Cut(p, lineFeed)
		m.readLine(line)
		if ended {
			m.endLine()
		}
		p = rest
	}
}

// readLine reads a part of a line, without its end. The space that may follow the colon is white space in JSON, too.
func (m *Meter) readLine(p []byte) {
	for len(p) > 0 && m.line != inData && m.line != inOther {
		switch {
		case m.line == 0 && p[0] == '\r':
			m.line = atCR
		case m.line == atCR || p[0] != dataField[m.line]:
			m.line = inOther
		default:
			m.line++
		}
		p = p[1:]
	}
	if m.line == inData {
		m.feed(p)
	}
}

// endLine starts the next line; an empty line ends the event. The data lines of an event are joined by line feeds; the
// one behind the last changes nothing.
func (m *Meter) endLine() {
	switch m.line {
	case 0, atCR:
		m.endDocument()
		m.begin()
	case inData:
		m.feed(lineFeed)
	}
	m.line = 0
}
