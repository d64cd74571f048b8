package usage

import "bytes"

// lines is the position in the lines of a stream. They end in LF, CRLF or CR, as
// the standard of server-sent events says.
type lines struct {
	place   place
	name    uint8 // bytes of "data" that have matched
	cr      bool  // the last byte was a CR: an LF would belong to it
	hasData bool  // the event has had a data line
}

type place uint8

const (
	inName  place = iota // at the beginning of a line, or in "data"
	inSpace              // behind the colon, where one space is dropped
	inData
	inOther // a comment, or another field
)

const (
	dataField  = "data"
	dataPrefix = dataField + ": "
)

// lineFeed joins the data lines of an event.
var lineFeed = []byte{'\n'}

// readLines passes what data lines hold to the event's document.
func (m *Meter) readLines(p []byte) {
	hasCR := bytes.IndexByte(p, '\r') >= 0
	for len(p) > 0 {
		switch l := &m.lines; {
		case l.cr && p[0] == '\n':
			l.cr = false
			p = p[1:]
		case l.place == inName && l.name == 0 && len(p) >= len(dataPrefix) && string(p[:len(dataPrefix)]) == dataPrefix:
			m.startData()
			p = m.readRest(p[len(dataPrefix):], hasCR)
		case l.place == inName:
			m.readName(p[0])
			p = p[1:]
		case l.place == inSpace:
			m.startData()
			p = bytes.TrimPrefix(p, []byte(" "))
		default:
			p = m.readRest(p, hasCR)
		}
	}
}

// readName reads a byte of a field's name, or the end of its line.
func (m *Meter) readName(c byte) {
	l, isData := &m.lines, m.lines.name == uint8(len(dataField))
	l.cr = false
	switch {
	case c == '\n' || c == '\r':
		if isData { // without a colon it is an empty line of data
			m.startData()
		}
		m.endLine(c, l.name == 0)
	case isData && c == ':':
		l.place = inSpace
	case !isData && c == dataField[l.name]:
		l.name++
	default:
		l.place = inOther
	}
}

func (m *Meter) startData() {
	m.lines.place, m.lines.cr = inData, false
	if m.lines.hasData {
		m.feed(lineFeed)
	}
	m.lines.hasData = true
}

// readRest reads a line up to its end.
func (m *Meter) readRest(p []byte, hasCR bool) (rest []byte) {
	end := endOfLine(p, hasCR)
	line := p
	if end >= 0 {
		line = p[:end]
	}
	if m.lines.place == inData {
		m.feed(line)
	}
	if end < 0 {
		return nil
	}
	m.endLine(p[end], false)
	return p[end+1:]
}

// endOfLine returns the index of the line's end, or -1. To look for LF alone is
// the fastest by far.
func endOfLine(p []byte, hasCR bool) int {
	if hasCR {
		return bytes.IndexAny(p, "\r\n")
	}
	return bytes.IndexByte(p, '\n')
}

// endLine goes on to the next line; an empty one ends the event.
func (m *Meter) endLine(c byte, empty bool) {
	hasData := m.lines.hasData
	m.lines = lines{cr: c == '\r', hasData: hasData && !empty}
	if empty && hasData {
		m.add()
		m.begin()
	}
}
