package usage

import "bytes"

const (
	dataField = "data:"

	inData  = uint8(len(dataField)) + 1 // after the colon and one space
	inOther = inData + 1                // in a comment, or another field
)

var lineFeed = []byte{'\n'}

// readLines passes the content of data lines to the event's document. Lines end in LF, CRLF or CR (WHATWG HTML,
// server-sent events).
func (m *Meter) readLines(p []byte) {
	ends := "\r\n"
	if bytes.IndexByte(p, '\r') < 0 {
		ends = "\n" // the fastest search
	}
	for len(p) > 0 {
		if m.afterCR {
			m.afterCR = false
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
	for len(p) > 0 && m.line < inData {
		switch {
		case int(m.line) == len(dataField):
			p = bytes.TrimPrefix(p, []byte(" "))
			m.line = inData
		case p[0] != dataField[m.line]:
			m.line = inOther
		default:
			m.line++
			p = p[1:]
		}
	}
	if m.line == inData {
		m.feed(p)
	}
}

// endLine starts the next line; an empty line ends the event. The data lines of an event are joined by line feeds; the
// one behind the last changes nothing.
func (m *Meter) endLine(end byte) {
	switch {
	case m.line == 0:
		m.endDocument()
		m.begin()
	case int(m.line) >= len(dataField)-1 && m.line != inOther: // a field name without a colon is an empty line of data
		m.feed(lineFeed)
	}
	m.line, m.afterCR = 0, end == '\r'
}
