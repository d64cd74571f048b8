package dump

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
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
		f.dir.finished = append(f.dir.finished, stored{name: f.name, size: blocks(f.size)})
	}
	return err
}

// stored is a finished dump.
type stored struct {
	name    string
	size    int64     // in whole blocks
	written time.Time // by an earlier run
}

// part returns the name of a dump until it is finished, which no tool considers a dump.
func part(name string) string { return "." + name + ".part" }

// isDump reports whether a file of this name is a finished dump.
func isDump(name string) bool {
	var sequence, ms int64
	var kind string
	fmt.Sscanf(name, "%d-%d-%s", &sequence, &ms, &kind)
	return sequence > 0 && name == fmt.Sprintf("%06d-%d-%s", sequence, ms, kind) && (kind == "request.json" || kind == "response.json")
}

// blocks returns the size of a file in whole blocks.
func blocks(size int64) int64 { return (size + 4095) &^ 4095 }

// load finds the dumps of earlier runs, and removes unfinished ones and the oldest beyond the limit.
func (d *Dir) load() error {
	entries, err := d.files.List()
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := strings.TrimSuffix(strings.TrimPrefix(e.Name(), "."), ".part")
		info, err := e.Info()
		switch {
		case err != nil || !isDump(name) || !e.Type().IsRegular():
		case e.Name() == name:
			d.finished = append(d.finished, stored{name, blocks(info.Size()), info.ModTime()})
			d.used += blocks(info.Size())
		case e.Name() == part(name):
			err = d.files.Remove(e.Name())
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // another program may have removed it
			return err
		}
	}
	slices.SortFunc(d.finished, func(a, b stored) int { return a.written.Compare(b.written) })
	return d.reserve(0)
}

// reserve takes n bytes of the limit for an unfinished dump, and removes the oldest finished ones to make space. After
// an error none are taken.
func (d *Dir) reserve(n int64) error {
	for d.used+n > d.max {
		if len(d.finished) == 0 {
			return errors.New("the unfinished dumps reach the directory's limit")
		}
		oldest := d.finished[0]
		if err := d.files.Remove(oldest.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove the oldest dump %s: %w", oldest.name, err)
		}
		d.used -= oldest.size
		d.finished = d.finished[1:]
	}
	d.used += n
	return nil
}
