package dump

import (
	"bytes"
	"errors"
	"time"
	"unicode/utf8"
)

// write is the goroutine that writes pieces to files.
func (d *Dir) write() {
	defer close(d.idle)
	for p := range d.pieces {
		d.process(p)
	}
}

// process writes a piece and removes it from the queue, but for the buffered part of its body.
func (d *Dir) process(p piece) {
	n := pieceCost + len(p.body) + len(p.data)
	err := p.take(p.data)
	if err != nil { // a file that cannot be removed is left to the next Open
		p.failed, p.body = true, nil
		d.files.Remove(part(p.name))
		d.used -= blocks(p.size)
	}
	n -= len(p.body)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queued -= n
	p.queued -= n
	if err != nil {
		p.recordLoss(err)
	}
}

// take writes the next piece. It buffers a body as long as that may be JSON, and otherwise writes it at once.
func (f *File) take(p []byte) error {
	switch {
	case f.failed:
		return nil
	case p == nil:
		return f.finish()
	case f.size == 0:
		return f.write(p)
	}
	f.body = append(f.body, p...)
	if !f.isText && len(f.body) <= maxJSON && mayBeJSON(f.body[0]) {
		return nil
	}
	return f.writeText()
}

// writeText writes the buffered body as the beginning or the next part of a string, in steps, to limit the memory for
// its escapes. The beginning of a split character stays buffered.
func (f *File) writeText() (err error) {
	if !f.isText {
		f.isText, err = true, f.write([]byte{'"'})
	}
	for err == nil {
		n := wholeRunes(f.body[:min(len(f.body), 32<<10)])
		if n == 0 {
			break
		}
		err = f.write(quote(f.body[:n]))
		f.body = f.body[n:]
	}
	f.body = bytes.Clone(f.body)
	return err
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

// write appends to the file. It is not kept open, since descriptors are for clients and an exchange may last for hours.
func (f *File) write(p []byte) error {
	open := f.dir.files.Append
	if f.size == 0 {
		open = f.dir.files.Create
	}
	size := f.size + int64(len(p))
	if err := f.dir.reserve(blocks(size) - blocks(f.size)); err != nil {
		return err
	}
	f.size = size
	file, err := open(part(f.name))
	if err != nil {
		return err
	}
	_, err = file.Write(p)
	return errors.Join(err, file.Close())
}

// finish writes the end of the body and of the file, and renames the file.
func (f *File) finish() error {
	end, isJSON := indent(f.body) // the end of a string is empty or not UTF-8, and so no JSON
	if !isJSON {
		if err := f.writeText(); err != nil {
			return err
		}
		end = append(quote(f.body), '"')
	}
	if f.short { // final: no later call changes it
		end = append(end, ",\n  \"truncated\": true"...)
	}
	f.body = nil
	err := f.write(append(end, "\n}\n"...))
	if err == nil {
		err = f.dir.files.Rename(part(f.name), f.name)
	}
	if err == nil {
		f.dir.finished = append(f.dir.finished, stored{f.name, blocks(f.size), time.Now()})
	}
	return err
}
