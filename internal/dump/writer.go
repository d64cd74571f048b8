package dump

import (
	"bytes"
	"errors"
	"unicode/utf8"
)

// write is the goroutine that puts what comes into files.
func (d *Dir) write() {
	defer close(d.idle)
	for p := range d.pieces {
		m := p.message
		if !m.failed {
			if err := m.take(p.data); err != nil {
				m.fail(err)
			}
		}
		d.release(m, p.data)
	}
}

// release takes a piece out of the queue: what of its message is held stays there, in bytes.
func (d *Dir) release(m *message, p []byte) {
	n, last := int64(pieceCost), p == nil
	if m.held += int64(len(p)); last || m.isText || m.failed {
		n, m.held = n+m.held, 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if last {
		n -= pieceCost
		d.open.release(m.user, 1)
		delete(d.unfinished, m)
	}
	d.queue.release(m.user, n)
	m.queued -= n
	if cap(p) > 0 && cap(p) <= maxSpare && len(d.spare) < maxSpares {
		d.spare = append(d.spare, p[:0])
	}
}

// take takes the next piece. A body is held for as long as it may become JSON, and else written at once.
func (m *message) take(p []byte) error {
	switch {
	case p == nil:
		return m.finish()
	case m.head == nil:
		m.head = bytes.Clone(p)
		return nil
	case m.isText:
		return m.writeText(p, false)
	}
	m.body = append(m.body, p...)
	if len(m.body) <= maxJSON && mayBeJSON(m.body[0]) {
		return nil
	}
	return m.toText(false)
}

// toText writes what is held of the body as the beginning of a string.
func (m *message) toText(last bool) error {
	p := m.body
	m.isText, m.body = true, nil
	if err := m.write(append(m.head, '"')); err != nil {
		return err
	}
	return m.writeText(p, last)
}

// writeText writes a piece of a string: in steps, to bound what it is quoted into. The beginning of a character is
// held.
func (m *message) writeText(p []byte, last bool) error {
	if len(m.body) > 0 {
		p = append(m.body, p...)
	}
	end := len(p)
	if !last {
		end = wholeRunes(p)
	}
	m.body = bytes.Clone(p[end:])
	const step = 32 << 10
	for p = p[:end]; len(p) > 0; {
		n := len(p)
		if n > step {
			n = wholeRunes(p[:step])
		}
		if err := m.write(quote(p[:n])); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// wholeRunes returns the length of p without the incomplete character at its end.
func wholeRunes(p []byte) int {
	for n := len(p) - 1; n >= max(0, len(p)-utf8.UTFMax); n-- {
		if utf8.RuneStart(p[n]) && !utf8.FullRune(p[n:]) {
			return n
		}
	}
	return len(p)
}

// write writes to the file, if there is room.
func (m *message) write(p []byte) (err error) {
	if m.file == nil {
		if m.file, err = m.dir.files.Create(m.id.part()); err != nil {
			return err
		}
	}
	if need := blocks(m.size+int64(len(p))) - m.taken; need > 0 {
		if err := m.dir.quota.take(m.user, need); err != nil {
			return err
		}
		m.taken += need
	}
	m.size += int64(len(p))
	_, err = m.file.Write(p)
	return err
}

// finish writes the end of the body and of the file, and gives that its name.
func (m *message) finish() error {
	end := []byte{'"'}
	if m.isText {
		if err := m.writeText(nil, true); err != nil {
			return err
		}
	} else if text, ok := indent(m.body); ok {
		end = append(m.head, text...)
	} else if err := m.toText(true); err != nil {
		return err
	}
	m.dir.mu.Lock()
	if m.short {
		end = append(end, ",\n  \"truncated\": true"...)
	}
	m.dir.mu.Unlock()
	err := m.write(append(end, "\n}\n"...))
	if err = errors.Join(err, m.file.Close()); err == nil {
		err = m.dir.files.Rename(m.id.part(), m.id.String())
	}
	if err == nil {
		m.dir.quota.release(m.user, m.taken)
		m.dir.quota.add(stored{m.id, int64(m.user), m.taken})
	}
	m.body = nil
	return err
}

// fail gives a message up. A file that cannot be removed is left to the next Open.
func (m *message) fail(err error) {
	m.failed, m.body = true, nil
	if m.file != nil {
		m.file.Close() // again, perhaps
		m.dir.files.Remove(m.id.part())
	}
	m.dir.quota.release(m.user, m.taken)
	m.dir.recordLoss(m, err)
}
