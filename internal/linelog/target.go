package linelog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/responses-api-proxy/responses-api-proxy/internal/safefile"
)

// maxWrite is how much goes into one write(2), unless a line alone is longer: PIPE_BUF, up to which Linux never splits
// a write to a pipe. So lines of several processes are not mixed there, and a reader that stops is noticed soon.
const maxWrite = 4096

// Target is where lines go. A log closes it; until it has a log, its owner must.
type Target struct {
	file  *os.File
	torn  bool               // it ends within a line, which a line feed must end first
	again *safefile.Appender // opens it again; nil if it is not a regular file

	// The goroutine run, of a log, is the only one that may wait for the file. What follows changes with log.mu held, as
	// file does; lines and at are changed by that goroutine only.
	log       *Log
	done      chan struct{} // closed when run has ended
	lines     []byte        // whole lines, taken from the queue for one write
	at        int           // so much of lines is written
	reopen    atomic.Bool   // asked for
	last      bool          // end once the queue is empty, or a write fails
	abandoned bool          // nothing counts any more
}

// File opens the file at path, as [safefile.OpenAppend] does: a new one is given to owner. It may be a FIFO or a
// device. Errors say what to do.
func File(path string, owner int) (*Target, error) {
	again, f, torn, err := safefile.OpenAppend(path, owner)
	if _, ok := errors.AsType[*os.PathError](err); ok { // the others say what to do
		err = fmt.Errorf("%w; name a file that you may write to, in a directory that is there", err)
	}
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
		again.Close()
		again = nil
	}
	return &Target{file: f, torn: torn, again: again}, nil
}

// Standard returns a descriptor of our own for standard output (1) or standard error (2): Go ends a process that writes
// to those when there is no reader. Whether it blocks is left as it is, since others may share it.
func Standard(fd int) (*Target, error) {
	f, err := duplicate(fd)
	return &Target{file: f}, err
}

// Close closes a target that no log has.
func (t *Target) Close() {
	t.file.Close()
	if t.again != nil {
		t.again.Close()
	}
}

// held returns what was taken from the queue and is not written. It needs log.mu.
func (t *Target) held() []byte { return t.lines[t.at:] }

func (t *Target) run() {
	defer close(t.done)
	for ended := false; !ended; {
		<-t.log.wake
		ended = t.finish(t.work())
	}
	t.Close()
}

// work writes until nothing is left, or until a write fails. What a failed write has left of a line stands first in the
// next one.
func (t *Target) work() error {
	for {
		if !t.take(t.openAgain()) {
			return nil
		}
		if t.torn {
			if _, err := t.file.Write(lineFeed); err != nil {
				return err
			}
			t.torn = false
		}
		n, err := t.file.Write(t.held())
		t.advance(n)
		if err != nil {
			return err
		}
	}
}

// take takes the next lines of the queue, unless some are left. It reports whether there are lines; if not, all is well
// again. An error of openAgain is reported.
func (t *Target) take(opening error) bool {
	l := t.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if opening != nil {
		l.post("%w", opening)
	}
	switch {
	case t.abandoned:
		return false
	case t.at < len(t.lines):
		return true
	}
	t.lines, t.at = append(t.lines[:0], piece(l.queue.Bytes())...), 0
	l.queue.Next(len(t.lines))
	if len(t.lines) > 0 {
		return true
	}
	if l.queue.Cap() > keepQueue { // after a burst
		l.queue = bytes.Buffer{}
	}
	if l.failing != nil || l.losing {
		l.post("the %s is written again; %d lines were lost", l.cfg.Name, l.lost.Load()-l.lostBefore)
	}
	l.failing, l.losing, l.lostBefore = nil, false, l.lost.Load()
	return false
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

// advance counts n bytes as written.
func (t *Target) advance(n int) {
	t.log.mu.Lock()
	defer t.log.mu.Unlock()
	if !t.abandoned {
		t.log.written.Add(countLines(t.held()[:n]))
	}
	t.at += n
}

// finish records how work ended, and reports whether it was for the last time. After an error it is called again later.
func (t *Target) finish(err error) (ended bool) {
	l := t.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil && !t.abandoned {
		err = cause(err)
		if l.failing == nil && !l.losing && !l.closed {
			l.post("%s lines cannot be written, and wait: %w", l.cfg.Name, err)
		}
		l.failing = err
		l.failures.Add(1)
		l.timer.Reset(retryAfter)
	}
	return t.abandoned || t.last && (err != nil || l.queue.Len() == 0)
}

// cause leaves out the name of the file, which the operator has chosen.
func cause(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

// openAgain opens the file by its name again, if that was asked for, and goes on there with the beginning of a line that
// the old one has a part of. The new one may be the old one.
func (t *Target) openAgain() error {
	if !t.reopen.Swap(false) || t.again == nil {
		return nil
	}
	l, old := t.log, t.file
	f, err := t.again.Reopen()
	if err != nil {
		return fmt.Errorf("the %s file cannot be opened again, and the old one stays in use: %w", l.cfg.Name, err)
	}
	begin := bytes.LastIndexByte(t.lines[:t.at], '\n') + 1
	if begin < t.at {
		info, err := f.Stat()
		t.torn = err != nil || info.Size() > 0
	}
	l.mu.Lock()
	t.file, t.at = f, begin
	l.mu.Unlock()
	if err := old.Close(); err != nil { // which may block
		return fmt.Errorf("closing the old %s file: %w", l.cfg.Name, cause(err))
	}
	return nil
}
