package linelog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// maxWrite is how much goes into one write(2), unless a line alone is longer: PIPE_BUF, up to which Linux never splits
// a write to a pipe. So lines of several processes are not mixed there, and a reader that stops is noticed soon.
const maxWrite = 4096

// writer is the goroutine that writes to one target: the only one that may wait for it.
type writer struct {
	*Target // whose file only the writer changes, with log.mu held
	log     *Log
	reopen  atomic.Bool   // asked for
	ended   bool          // nothing is left to do
	done    chan struct{} // closed when the writer has ended

	// Changed with log.mu held, the first two by the writer only:
	batch     []byte // whole lines, taken from the queue
	at        int    // so much of it is written
	last      bool   // end once the queue is empty, or a write fails
	abandoned bool   // nothing counts any more
}

// held returns what was taken from the queue and is not written. It needs log.mu.
func (w *writer) held() []byte { return w.batch[w.at:] }

func (w *writer) run() {
	defer close(w.done)
	wake, retry := w.log.wake, (<-chan time.Time)(nil)
	for !w.ended {
		select {
		case <-wake:
		case <-retry:
		case <-w.log.orders:
		}
		wake, retry = w.log.wake, nil
		if err := w.work(); err != nil {
			w.failed(err)
			wake, retry = nil, time.After(retryAfter) // a new line changes nothing
		}
	}
	w.Close()
}

// work writes until nothing is left, or until a write fails.
func (w *writer) work() error {
	for {
		w.reopenIfAsked()
		if !w.take() {
			return nil
		}
		if err := w.flush(); err != nil {
			return err
		}
	}
}

// take makes all of the queue the next batch, unless there is one. The last batch's buffer becomes the queue's, unless
// a burst has made it larger than it needs to be now. It reports whether there is a batch; if not, all is well again.
func (w *writer) take() bool {
	l := w.log
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case w.abandoned:
		w.ended = true
		return false
	case w.at < len(w.batch):
		return true
	case len(w.batch) < keepQueue && cap(w.batch) > keepQueue:
		w.batch = nil
	}
	w.batch, l.queue, w.at = l.queue, w.batch[:0], 0
	if len(w.batch) > 0 {
		return true
	}
	if l.failing != nil || l.losing {
		l.post("the %s is written again; %d lines were lost", l.cfg.Name, l.lost-l.lostBefore)
	}
	l.failing, l.losing, l.lostBefore = nil, false, l.lost
	w.ended = w.last
	return false
}

// failed records that a write has failed.
func (w *writer) failed(err error) {
	l := w.log
	l.mu.Lock()
	defer l.mu.Unlock()
	w.ended = w.last || w.abandoned
	if w.abandoned {
		return
	}
	err = cause(err)
	if l.failing == nil && !l.losing && !l.closed {
		l.post("%s lines cannot be written, and wait: %w", l.cfg.Name, err)
	}
	l.failing = err
	l.failures++
}

// cause leaves out the name of the file, which the operator has chosen.
func cause(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

// flush writes the batch. What a failed write has left of a line stands first in the next one.
func (w *writer) flush() error {
	if w.torn {
		if _, err := w.file.Write(lineFeed); err != nil {
			return err
		}
		w.torn = false
	}
	for w.at < len(w.batch) {
		n, err := w.file.Write(piece(w.batch[w.at:]))
		w.advance(n)
		if err != nil {
			return err
		}
	}
	return nil
}

// piece returns the lines that go into one write.
func piece(p []byte) []byte {
	if len(p) <= maxWrite {
		return p
	}
	if end := bytes.LastIndexByte(p[:maxWrite], '\n') + 1; end > 0 {
		return p[:end]
	}
	return p[:bytes.IndexByte(p, '\n')+1]
}

// advance counts n bytes of the batch as written.
func (w *writer) advance(n int) {
	lines := countLines(w.batch[w.at : w.at+n])
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	if !w.abandoned {
		w.log.written += lines
	}
	w.at += n
}

// reopenIfAsked opens the file by its name again.
func (w *writer) reopenIfAsked() {
	l := w.log
	if !w.reopen.Swap(false) || w.again == nil {
		return
	}
	f, err := w.again.Reopen()
	if err != nil {
		err = fmt.Errorf("the %s file cannot be opened again, and the old one stays in use: %w", l.cfg.Name, err)
	} else if err = w.change(f); err != nil {
		err = fmt.Errorf("closing the old %s file: %w", l.cfg.Name, cause(err))
	}
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.post("%w", err)
	}
}

// change goes on with another file, and there with the beginning of a line that the old one has a part of. The new one
// may be the old one.
func (w *writer) change(f *os.File) error {
	begin := bytes.LastIndexByte(w.batch[:w.at], '\n') + 1
	if begin < w.at {
		info, err := f.Stat()
		w.torn = err != nil || info.Size() > 0
	}
	old := w.file
	w.log.mu.Lock()
	w.file, w.at = f, begin
	w.log.mu.Unlock()
	return old.Close() // which may block
}
