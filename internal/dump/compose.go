package dump

import (
	"errors"
	"io"
)

// composer makes the final files, in buffers that are its own.
type composer struct {
	dir    *Dir
	in     [32 << 10]byte
	out    [32 << 10]byte
	quoted []byte
}

// compose makes the final files of complete messages.
func (d *Dir) compose() {
	defer close(d.stop)
	c := &composer{dir: d}
	for m := range d.complete {
		if err := c.message(m); err != nil {
			d.lose(m, err)
		}
	}
}

func (c *composer) message(m *message) error {
	defer c.dir.dropRaw(m)
	raw, err := c.dir.folder.root.Open(m.id().raw())
	if err != nil {
		return err
	}
	defer raw.Close()
	body := io.NewSectionReader(raw, int64(m.head), m.size-int64(m.head))
	isJSON, err := c.isJSON(body)
	if err != nil {
		return err
	}
	return c.file(m.id(), func(s *sink) error {
		err := c.copy(io.NewSectionReader(raw, 0, int64(m.head)), s)
		if err == nil && isJSON {
			err = c.indent(body, s)
		} else if err == nil {
			err = c.quote(body, s)
		}
		if m.short {
			s.puts(",\n  \"truncated\": true")
		}
		s.puts("\n}\n")
		return err
	})
}

// file makes the final file. It has its name when it is complete.
func (c *composer) file(name id, write func(*sink) error) error {
	root := c.dir.folder.root
	f, err := c.dir.create(name.part())
	if err != nil {
		return err
	}
	var taken int64
	s := newSink(c.out[:0], func(p []byte, total int64) error {
		need := blocks(total) - taken
		if err := c.dir.shelf.take(need); err != nil {
			return err
		}
		taken += need
		_, err := f.Write(p)
		return err
	})
	err = errors.Join(write(s), s.flush(), f.Close())
	if err == nil {
		err = root.Rename(name.part(), name.String())
	}
	if err != nil {
		root.Remove(name.part())
		c.dir.shelf.give(taken)
		return err
	}
	c.dir.shelf.keep(name, taken)
	return nil
}

// isJSON tells whether a body can stand in the file as it is. An error is the
// disk's.
func (c *composer) isJSON(body *io.SectionReader) (bool, error) {
	s := newSink(nil, nil)
	s.max = 8*body.Size() + 4096
	err := c.indent(body, s)
	if errors.Is(err, errNotJSON) || errors.Is(err, errGrown) {
		return false, nil
	}
	return err == nil, err
}

func (c *composer) indent(body *io.SectionReader, s *sink) error {
	j := indenter{out: s}
	err := c.each(body, func(p []byte, _ bool) (int, error) {
		return len(p), errors.Join(j.write(p), s.err)
	})
	if err != nil {
		return err
	}
	return j.close()
}

// quote writes a body as a string, in steps that bound what it is quoted into.
func (c *composer) quote(body *io.SectionReader, s *sink) error {
	s.put('"')
	err := c.each(body, func(p []byte, last bool) (used int, err error) {
		for used < len(p) && s.err == nil {
			end := min(used+4096, len(p))
			var n int
			c.quoted, n = appendText(c.quoted[:0], p[used:end], last && end == len(p))
			if n == 0 {
				break // the beginning of a rune, of which the rest is to come
			}
			s.put(c.quoted...)
			used += n
		}
		return used, s.err
	})
	s.put('"')
	return err
}

func (c *composer) copy(r *io.SectionReader, s *sink) error {
	return c.each(r, func(p []byte, _ bool) (int, error) {
		s.put(p...)
		return len(p), s.err
	})
}

// each hands all of r over, bit by bit. What consume does not use is handed over
// again, together with what follows; with the last it must use everything.
func (c *composer) each(r *io.SectionReader, consume func(p []byte, last bool) (used int, err error)) error {
	kept := 0
	for at := int64(0); at < r.Size(); {
		n, err := r.ReadAt(c.in[kept:], at)
		at += int64(n)
		if err != nil && (err != io.EOF || at < r.Size()) {
			return err
		}
		used, err := consume(c.in[:kept+n], at == r.Size())
		if err != nil {
			return err
		}
		kept = copy(c.in[:], c.in[used:kept+n])
	}
	return nil
}

// sink gathers small pieces into large ones, or only counts them.
type sink struct {
	buf   []byte
	total int64
	max   int64 // if not 0
	write func(p []byte, total int64) error
	err   error // the first; nothing is written after it
}

var errGrown = errors.New("it would grow too large")

// newSink returns one that writes buffers of buf's capacity, or counts if write
// is nil. total is the number of bytes up to the end of p.
func newSink(buf []byte, write func(p []byte, total int64) error) *sink {
	return &sink{buf: buf, write: write}
}

func (s *sink) put(p ...byte) {
	s.total += int64(len(p))
	if s.max > 0 && s.total > s.max {
		s.err = errGrown
	}
	if s.write == nil {
		return
	}
	for s.err == nil && len(p) > 0 {
		n := min(len(p), cap(s.buf)-len(s.buf))
		s.buf = append(s.buf, p[:n]...)
		if p = p[n:]; len(s.buf) == cap(s.buf) {
			s.drain(int64(len(p)))
		}
	}
}

func (s *sink) puts(text string) { s.put([]byte(text)...) }

// drain writes what is there, while some of what was put in waits.
func (s *sink) drain(waiting int64) {
	s.err = s.write(s.buf, s.total-waiting)
	s.buf = s.buf[:0]
}

func (s *sink) flush() error {
	if s.err == nil && len(s.buf) > 0 {
		s.drain(0)
	}
	return s.err
}
