package dump

import (
	"errors"
	"os"
)

// maxOpen is how many files the writer keeps open, one for each message that
// has begun: the descriptors are the clients' first of all.
const maxOpen = 512

var errMany = errors.New("too many exchanges are under way")

// write puts what is in the queue into files as it comes: the beginning of the
// dump, and the body as it is.
func (d *Dir) write() {
	defer close(d.complete)
	for {
		m, piece := d.queue.next()
		switch {
		case m == nil:
			d.finishOpen()
			return
		case len(piece) == 0:
			d.finish(m)
		default:
			d.store(m, piece)
		}
		d.queue.done(len(piece))
	}
}

// store writes a piece. After an error the message is given up.
func (d *Dir) store(m *message, piece []byte) {
	if m.failed {
		return
	}
	err := d.openRaw(m)
	if err == nil {
		err = d.grow(m, int64(len(piece)))
	}
	if err == nil {
		_, err = m.file.Write(piece)
	}
	if err != nil {
		d.fail(m, err)
	}
}

func (d *Dir) openRaw(m *message) (err error) {
	switch {
	case m.file != nil:
	case len(d.open) >= maxOpen:
		return errMany
	default:
		if m.file, err = d.create(m.id().raw()); err == nil {
			d.open[m] = true
		}
	}
	return err
}

// create makes a file that was not there.
func (d *Dir) create(name string) (*os.File, error) {
	return d.folder.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// grow takes room for n bytes more.
func (d *Dir) grow(m *message, n int64) error {
	need := blocks(m.size+n) - m.charged
	if need > 0 {
		if err := d.shelf.take(need); err != nil {
			return err
		}
		m.charged += need
	}
	m.size += n
	return nil
}

// finish hands a message on to the composer. It waits when that is far behind;
// then the queue fills up.
func (d *Dir) finish(m *message) {
	if m.failed {
		return
	}
	delete(d.open, m)
	if err := m.file.Close(); err != nil {
		d.fail(m, err)
		return
	}
	d.complete <- m
}

// finishOpen ends, at the end of it all, what the callers did not.
func (d *Dir) finishOpen() {
	for m := range d.open {
		d.queue.mu.Lock()
		m.short = true
		d.queue.mu.Unlock()
		d.finish(m)
	}
}

// fail gives a message up.
func (d *Dir) fail(m *message, err error) {
	m.failed = true
	d.queue.giveUp(m)
	if m.file != nil {
		m.file.Close()
		delete(d.open, m)
		d.dropRaw(m)
	}
	d.lose(m, err)
}

// dropRaw removes what the writer has written. A file that cannot be removed is
// left to the next Open.
func (d *Dir) dropRaw(m *message) {
	d.folder.root.Remove(m.id().raw())
	d.shelf.give(m.charged)
}
