package linelog

import (
	"bytes"
	"fmt"
	"os"
	"time"
)

// maxWrite is how much goes into one write(2), unless a line alone is longer: PIPE_BUF, up to which Linux never splits a
// write to a pipe. So lines of several processes are not mixed there, and a reader that stops is noticed soon.
const maxWrite = 4096

// writer is the goroutine that writes to one target: the only one that may wait for it.
type writer struct {
	log   *Log
	to    *Target
	torn  bool          // the file ends in a part of a line that we do not have
	batch []byte        // whole lines, taken from the queue
	at    int           // so much of it is written
	done  chan struct{} // closed when the writer has ended

	// With log.mu held:
	file      *os.File // changed by the writer only
	held      int      // bytes of batch that are not written
	heldLines int64
	reopen    bool // asked for
	last      bool // end once the queue is empty, or a write fails
	abandoned bool // nothing counts any more
}

func (w *writer) run() {
	l := w.log
	defer close(w.done)
	wake, retry := l.wake, (<-chan time.Time)(nil)
	for {
		select {
		case <-wake:
		case <-retry:
		case <-l.orders:
		}
		wake, retry = l.wake, nil
		last, _ := w.ending()
		if err := w.work(); err == nil {
			l.recovered(w)
		} else {
			l.failed(w, err)
			wake, retry = nil, time.After(retryAfter) // a new line changes nothing
		}
		if _, abandoned := w.ending(); last || abandoned {
			w.file.Close()
			w.to.release()
			return
		}
	}
}

// ending reports whether no more lines can come than those in the queue, and whether nobody waits for the writer.
func (w *writer) ending() (last, abandoned bool) {
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	return w.last, w.abandoned
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

// take makes all of the queue the next batch, unless there is one. The last batch's buffer becomes the queue's, unless a
// burst has made it larger than it needs to be now.
func (w *writer) take() bool {
	l := w.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.abandoned {
		return false
	}
	if w.at < len(w.batch) {
		return true
	}
	if len(w.batch) < keepQueue && cap(w.batch) > keepQueue {
		w.batch = nil
	}
	w.batch, l.queue, w.at = l.queue, w.batch[:0], 0
	w.held, w.heldLines, l.queued = len(w.batch), l.queued, 0
	return len(w.batch) > 0
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

func (w *writer) advance(n int) {
	lines := countLines(w.batch[w.at : w.at+n])
	w.at += n
	l := w.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if !w.abandoned {
		w.held -= n
		w.heldLines -= lines
		l.written += lines
	}
}

// reopenIfAsked opens the file by its name again.
func (w *writer) reopenIfAsked() {
	l := w.log
	l.mu.Lock()
	asked := w.reopen
	w.reopen = false
	l.mu.Unlock()
	if !asked || w.to.again == nil {
		return
	}
	f, err := w.to.again.Reopen()
	if err != nil {
		err = fmt.Errorf("the %s file cannot be opened again, and the old one stays in use: %w", l.cfg.Name, err)
	} else if err = w.change(f); err != nil {
		err = fmt.Errorf("closing the old %s file: %w", l.cfg.Name, cause(err))
	}
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.post(err)
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
	w.file, w.held = f, w.held+w.at-begin
	w.at = begin
	w.log.mu.Unlock()
	return old.Close()
}
