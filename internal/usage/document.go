package usage

import "bytes"

// document follows one JSON document. It knows the objects on the path to the
// numbers and skips every other value, whatever that holds, by its strings and
// brackets. It does not judge what it skips: the upstream writes valid JSON,
// and in valid JSON it never loses its place.
//
// Where a key occurs twice, the larger number counts, so that nothing lowers
// the sum; but an event's first "type" decides.
type document struct {
	state   state
	base    level // of the outermost object
	level   level // of the object on the path that we are in
	key     key   // what the last key in it means to us
	typed   bool  // the event's type has been read
	closing bool  // it is one that ends a response
	created bool  // it is one that begins a response
	odd     bool  // a number on the path is none that we trust
	text    text
	number  number
	model   model
	id      *ident // the meter's, who has one only
	depth   int64  // brackets open in the value that is skipped
	counts  [3]count
}

type count struct {
	seen  bool
	value int64
}

type state uint8

const (
	wantObject state = iota
	wantFirstKey
	wantKey
	wantColon
	wantValue
	wantComma
	inText // a key, or the type
	inModel
	inID
	inNumber
	inString // skipped; so are
	inNested
	inLiteral
	ended
	ignored // not of interest
	broken  // not JSON
)

// level names the objects on the path.
type level uint8

const (
	levelEvent level = iota
	levelResponse
	levelUsage
)

type key uint8

const (
	otherKey key = iota
	typeKey
	objectKey // leads to the next level
	modelKey
	idKey
	inputKey
	outputKey
	totalKey
)

// feed reads the next bytes.
func (d *document) feed(p []byte) {
	for len(p) > 0 {
		switch d.state {
		case ignored, broken:
			return
		case inText:
			p = d.readText(p)
		case inModel:
			p = d.readModel(p)
		case inID:
			p = d.readID(p)
		case inNumber:
			p = d.readNumber(p)
		case inString:
			p = d.skipString(p)
		case inNested:
			p = d.skipNested(p)
		case inLiteral:
			p = d.skipLiteral(p)
		default:
			p = d.readBetween(p)
		}
	}
}

// readBetween reads one byte that stands between keys and values.
func (d *document) readBetween(p []byte) []byte {
	c := p[0]
	if isSpace(c) {
		return p[1:]
	}
	switch d.state {
	case wantObject:
		d.open(c)
	case wantFirstKey, wantKey:
		d.startKey(c)
	case wantColon:
		d.expect(c, ':', wantValue)
	case wantValue:
		return d.startValue(p)
	case wantComma:
		d.next(c)
	default: // more after the end
		d.state = broken
	}
	return p[1:]
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

func (d *document) expect(c, want byte, then state) {
	if c != want {
		then = broken
	}
	d.state = then
}

// open begins the document. One that is no object, like [DONE], is not for us.
func (d *document) open(c byte) {
	d.state = ignored
	if c == '{' {
		d.state = wantFirstKey
	}
}

func (d *document) startKey(c byte) {
	switch {
	case c == '"':
		d.key = otherKey
		d.startText()
	case c == '}' && d.state == wantFirstKey:
		d.leave()
	default:
		d.state = broken
	}
}

func (d *document) next(c byte) {
	if c == '}' {
		d.leave()
		return
	}
	d.expect(c, ',', wantKey)
}

// leave goes back to the outer object.
func (d *document) leave() {
	if d.level == d.base {
		d.state = ended
		return
	}
	d.level--
	d.state = wantComma
}

func (d *document) startText() {
	d.text = text{}
	d.state = inText
}

// readText reads a string that has a meaning: a key, or the event's type.
func (d *document) readText(p []byte) []byte {
	if n := d.text.takeWhole(p); n > 0 {
		d.endText()
		return p[n:]
	}
	for i, c := range p {
		if d.text.take(c) {
			d.endText()
			return p[i+1:]
		}
	}
	return nil
}

func (d *document) endText() {
	if d.key != typeKey {
		d.key = d.meaning(d.text.bytes())
		d.state = wantColon
		return
	}
	d.typed = true
	d.state = wantComma
	switch string(d.text.bytes()) {
	case "response.completed", "response.incomplete", "response.failed":
		d.closing = true
	case "response.created":
		d.created = true
		if d.id.fixed { // nothing else in it is of interest
			d.state = ignored
		}
	default:
		d.state = ignored
	}
	d.settleID()
}

// meaning tells what a key in the current object is to us.
func (d *document) meaning(name []byte) key {
	switch d.level {
	case levelEvent:
		switch {
		case string(name) == "type" && !d.typed:
			return typeKey
		case string(name) == "response":
			return objectKey
		}
	case levelResponse:
		switch string(name) {
		case "usage":
			return objectKey
		case "model":
			return modelKey
		case "id":
			return idKey
		}
	case levelUsage:
		switch string(name) {
		case "input_tokens":
			return inputKey
		case "output_tokens":
			return outputKey
		case "total_tokens":
			return totalKey
		}
	}
	return otherKey
}

// startValue looks at a value's first byte.
func (d *document) startValue(p []byte) []byte {
	c := p[0]
	isNumber := c == '-' || '0' <= c && c <= '9'
	switch {
	case d.key == typeKey && c == '"':
		d.startText()
	case d.key == typeKey: // an event of a type that is no text
		d.state = ignored
	case d.key == modelKey:
		return d.startModel(p)
	case d.key == idKey && c == '"' && !d.id.whole:
		d.id.n = 0
		d.state = inID
	case d.key >= inputKey && isNumber:
		d.number = number{}
		d.state = inNumber
		return p
	case d.key == objectKey && c == '{':
		d.level++
		d.state = wantFirstKey
	default:
		d.odd = d.odd || d.key >= inputKey
		return d.startSkip(p)
	}
	return p[1:]
}

// startModel begins the model's name, of which the last counts.
func (d *document) startModel(p []byte) []byte {
	d.model = model{}
	if p[0] != '"' {
		return d.startSkip(p)
	}
	d.state = inModel
	return p[1:]
}

// startSkip begins a value that is not on the path.
func (d *document) startSkip(p []byte) []byte {
	switch p[0] {
	case '"':
		d.text.escape = 0
		d.state = inString
	case '{', '[':
		d.depth = 1
		d.state = inNested
	default:
		d.state = inLiteral
		return p
	}
	return p[1:]
}

// readModel reads the model's name, as far as there is room for it.
func (d *document) readModel(p []byte) []byte {
	for i, c := range p {
		if c == '"' {
			d.model.known = d.model.n > 0
			d.state = wantComma
			return p[i+1:]
		}
		if !d.model.put(c) {
			return d.skipRest(p[i:])
		}
	}
	return nil
}

// readID reads the response's id, of which the first counts.
func (d *document) readID(p []byte) []byte {
	for i, c := range p {
		if c == '"' {
			d.id.whole = d.id.n > 0
			d.settleID()
			d.state = wantComma
			if d.created && d.id.fixed {
				d.state = ignored
			}
			return p[i+1:]
		}
		if !d.id.put(c) {
			return d.skipRest(p[i:])
		}
	}
	return nil
}

// settleID believes an id once its event's type is known as well.
func (d *document) settleID() {
	d.id.fixed = d.id.fixed || d.id.whole && (d.closing || d.created)
}

// skipRest goes on within a string without reading it.
func (d *document) skipRest(p []byte) []byte {
	d.text.escape = 0
	d.state = inString
	return p
}

// readNumber reads a number up to the byte behind it, which it leaves.
func (d *document) readNumber(p []byte) []byte {
	for i, c := range p {
		if !isWord(c) {
			d.endNumber()
			return p[i:]
		}
		d.number.take(c)
	}
	return nil
}

func (d *document) endNumber() {
	n := &d.counts[d.key-inputKey]
	n.seen = true
	n.value = max(n.value, d.number.bound())
	d.odd = d.odd || !d.number.plain()
	d.state = wantComma
}

// skipLiteral skips a number, true, false or null up to the byte behind it.
func (d *document) skipLiteral(p []byte) []byte {
	for i, c := range p {
		if !isWord(c) {
			d.state = wantComma // where anything but , } and space is refused
			return p[i:]
		}
	}
	return nil
}

// isWord tells whether c can be part of a number, true, false or null.
func isWord(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || c == '-' || c == '+' || c == '.' || c == 'E'
}

// skipNested skips an object or array up to a string in it, or its end.
func (d *document) skipNested(p []byte) []byte {
	for i, c := range p {
		switch c {
		case '"':
			d.text.escape = 0
			d.state = inString
			return p[i+1:]
		case '{', '[':
			d.depth++
		case '}', ']':
			if d.depth--; d.depth == 0 {
				d.state = wantComma
				return p[i+1:]
			}
		}
	}
	return nil
}

// skipString skips to a string's closing quote, which is one that no backslash
// escapes. No byte is searched twice, or text full of escapes would be slow.
func (d *document) skipString(p []byte) []byte {
	if d.text.escape != 0 {
		d.text.escape = 0
		p = p[1:]
	}
	at, quote := 0, -1
	for at < len(p) {
		if quote < at {
			if quote = bytes.IndexByte(p[at:], '"'); quote < 0 {
				quote = len(p)
			} else {
				quote += at
			}
		}
		back := bytes.IndexByte(p[at:quote], '\\')
		if back < 0 {
			at = quote
			break
		}
		at += back + 2
	}
	return d.endString(p, at)
}

// endString goes on behind the quote at p[at]. If that is behind p's end, the
// string goes on; by one byte more if p ends in a backslash.
func (d *document) endString(p []byte, at int) []byte {
	if at >= len(p) {
		d.text.escape = uint8(at - len(p))
		return nil
	}
	d.state = wantComma
	if d.depth > 0 {
		d.state = inNested
	}
	return p[at+1:]
}

// tokens returns what the document's usage says, and whether it says it in
// plain numbers. A total that is larger than its parts, or stands alone, counts.
func (d *document) tokens() (n int64, plain bool) {
	in, out, total := d.counts[0], d.counts[1], d.counts[2]
	n = max(plus(in.value, out.value), total.value)
	return n, !d.odd && (total.seen || in.seen && out.seen)
}

// parts returns what goes in and what comes out, and whether both were said.
func (d *document) parts() (input, output int64, said bool) {
	in, out := d.counts[0], d.counts[1]
	return in.value, out.value, in.seen && out.seen
}
