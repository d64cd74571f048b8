package audit

import (
	"bytes"
	"fmt"
	"os"
	"time"
)

// maxWrite is how much goes into one write(2): enough to be cheap, and little
// enough to know about where a reader has stopped.
const maxWrite = 64 << 10

// writer is the log's goroutine: the only one that may wait for the file.
type writer struct {
	log   *Log
	file  *os.File
	torn  bool   // the file ends in a part of a line that we do not have
	batch []byte // whole lines, taken from the queue
	at    int    // so much of it is written
}

func (w *writer) run() {
	l := w.log
	defer close(l.done)
	lines, retry := l.lines, (<-chan time.Time)(nil)
	for {
		select {
		case <-lines:
		case <-retry:
		case <-l.orders:
		}
		lines, retry = l.lines, nil
		ending := w.ending()
		err := w.work()
		switch {
		case err == nil:
			l.recovered()
		default:
			l.failed(err)
			lines, retry = nil, time.After(retryAfter) // a new line changes nothing
		}
		if ending {
			w.file.Close()
			return
		}
	}
}

// ending tells whether no more lines can come than those in the queue.
func (w *writer) ending() bool {
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	return w.log.closed
}

// work writes until nothing is left, or until a write fails.
func (w *writer) work() error {
	for {
		w.obey()
		if !w.take() {
			return nil
		}
		if err := w.flush(); err != nil {
			return err
		}
	}
}

// take makes all of the queue the next batch, unless there is one. The last
// batch's buffer becomes the queue's, unless a burst has made it larger than it
// needs to be now.
func (w *writer) take() bool {
	if w.at < len(w.batch) {
		return true
	}
	if len(w.batch) < keepQueue && cap(w.batch) > keepQueue {
		w.batch = nil
	}
	l := w.log
	l.mu.Lock()
	defer l.mu.Unlock()
	w.batch, l.queue, w.at = l.queue, w.batch[:0], 0
	l.held, l.heldN, l.queued = len(w.batch), l.queued, 0
	return len(w.batch) > 0
}

// flush writes the batch. What a failed write has left of a line stands first
// in the next one.
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
	return p[:bytes.LastIndexByte(p[:maxWrite], '\n')+1]
}

func (w *writer) advance(n int) {
	lines := countLines(w.batch[w.at : w.at+n])
	w.at += n
	l := w.log
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held -= n
	if !l.given {
		l.heldN -= lines
		l.written += lines
	}
}

// obey opens the file anew if that was ordered.
func (w *writer) obey() {
	l := w.log
	l.mu.Lock()
	ordered := l.reopen
	l.reopen = false
	l.mu.Unlock()
	if !ordered || !canReopen(l.cfg, w.file) {
		return
	}
	f, err := reopen(l.cfg)
	if err == nil {
		err = w.change(f)
	} else {
		err = fmt.Errorf("the audit file cannot be opened anew, and the old one is still written to: %w", err)
	}
	if err != nil {
		w.complain(err)
	}
}

// change goes on with another file, and there with the beginning of a line that
// the old one has a part of. The new one may be the old one.
func (w *writer) change(f *os.File) error {
	if begin := bytes.LastIndexByte(w.batch[:w.at], '\n') + 1; begin < w.at {
		w.torn = !isEmpty(f)
		w.back(w.at - begin)
	}
	old := w.file
	w.file = f
	w.log.mu.Lock()
	w.log.file = f
	w.log.mu.Unlock()
	if err := old.Close(); err != nil {
		return fmt.Errorf("closing the old audit file: %w", cause(err))
	}
	return nil
}

// back has n bytes written once more.
func (w *writer) back(n int) {
	w.at -= n
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	w.log.held += n
}

func (w *writer) complain(err error) {
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	if !w.log.given {
		w.log.post(err)
	}
}

// isEmpty tells whether a file is known to hold nothing.
func isEmpty(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Size() == 0
}
