package dump

import (
	"bytes"
	"errors"
	"unicode/utf8"
)

// write is the goroutine that writes pieces to files.
func (d *Dir) write() {
	defer close(d.idle)
	for p := range d.pieces {
		before := len(p.body) + len(p.data)
		if err := p.take(p.data); err != nil {
			p.fail(err)
		}
		d.release(p, before-len(p.body))
	}
}

// release removes a piece from the queue, and n bytes of its size: the buffered part of a body stays counted.
func (d *Dir) release(p piece, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p.data != nil {
		n += pieceCost
	} else {
		d.open.release(p.user, 1)
		delete(d.unfinished, p.message)
	}
	d.queue.release(p.user, int64(n))
	p.queued -= int64(n)
}

// take processes the next piece. It buffers a body as long as that may be JSON, and otherwise writes it at once.
func (m *message) take(p []byte) error {
	switch {
	case m.failed:
		return nil
	case p == nil:
		return m.finish()
	case m.file == nil:
		return m.write(p)
	}
	m.body = append(m.body, p...)
	if !m.isText && len(m.body) <= maxJSON && mayBeJSON(m.body[0]) {
		return nil
	}
	return m.writeText(false)
}

// writeText writes the buffered body as the beginning or the next part of a string, in steps, to limit the memory for
// its escapes. The beginning of a split character stays buffered, unless it is the last.
func (m *message) writeText(last bool) error {
	const step = 32 << 10
	if !m.isText {
		m.isText = true
		if err := m.write([]byte{'"'}); err != nil {
			return err
		}
	}
	p := m.body
	for len(p) > 0 {
		n := len(p)
		if n > step || !last {
			n = wholeRunes(p[:min(n, step)])
		}
		if n == 0 {
			break
		}
		if err := m.write(quote(p[:n])); err != nil {
			return err
		}
		p = p[n:]
	}
	m.body = bytes.Clone(p)
	return nil
}

// wholeRunes returns the length of p without the beginning of a character at its end.
func wholeRunes(p []byte) int {
	for n := max(0, len(p)-utf8.UTFMax); n < len(p); n++ {
		if utf8.RuneStart(p[n]) && !utf8.FullRune(p[n:]) {
			return n
		}
	}
	return len(p)
}

// write writes to the file, if there is space.
func (m *message) write(p []byte) (err error) {
	if m.file == nil {
		if m.file, err = m.dir.files.Create(m.id.part()); err != nil {
			return err
		}
	}
	size := m.size + int64(len(p))
	if need := blocks(size) - blocks(m.size); need > 0 {
		if err := m.dir.quota.take(m.user, need); err != nil {
			return err
		}
	}
	m.size = size
	_, err = m.file.Write(p)
	return err
}

// finish writes the end of the body and of the file, and renames the file.
func (m *message) finish() error {
	end, isJSON := []byte(nil), false
	if !m.isText {
		end, isJSON = indent(m.body)
	}
	if !isJSON {
		if err := m.writeText(true); err != nil {
			return err
		}
		end = []byte{'"'}
	}
	if m.short { // final: no later call changes it
		end = append(end, ",\n  \"truncated\": true"...)
	}
	m.body = nil
	err := m.write(append(end, "\n}\n"...))
	if err = errors.Join(err, m.file.Close()); err == nil {
		err = m.dir.files.Rename(m.id.part(), m.id.String())
	}
	if err == nil {
		m.dir.quota.release(m.user, blocks(m.size))
		m.dir.quota.add(int64(m.user), stored{m.id, blocks(m.size)})
	}
	return err
}

// fail ends the dump of a message. A file that cannot be removed is left to the next Open.
func (m *message) fail(err error) {
	m.failed, m.body = true, nil
	if m.file != nil {
		m.file.Close() // possibly a second time
		m.dir.files.Remove(m.id.part())
	}
	m.dir.quota.release(m.user, blocks(m.size))
	m.dir.mu.Lock()
	defer m.dir.mu.Unlock()
	m.dir.recordLoss(m, err)
}
