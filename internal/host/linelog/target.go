package linelog

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/safefile"
)

// maxWrite is the size of one write(2), unless a single line is longer. It is PIPE_BUF: Linux writes up to that size to
// a pipe atomically (pipe(7)), so that lines of several processes are not mixed, and a reader that stops is detected
// early.
const maxWrite = 4096

// Target is a destination of lines. A log closes it; before it has a log, its owner must.
type Target struct {
	file  *os.File
	torn  bool               // it ends within a line, so that a line feed must be written first
	again *safefile.Appender // opens the file again; nil if it is not a regular file

	// The log's goroutine run is the only one that may block on the file. The fields below, and file, change with
	// log.mu held; only that goroutine changes lines and at.
	log       *Log
	done      chan struct{} // closed when run has returned
	lines     []byte        // complete lines, taken from the queue for one write
	at        int           // number of bytes of lines that are written
	last      bool          // end when the queue is empty or a write fails
	abandoned bool          // its lines no longer count
}

// File opens the file at path, under the rules of [safefile.OpenAppend]; a new one is given to owner. It may be a FIFO
// or a device. Errors contain a hint. A file of another user, who could read, cut or forge the log, is refused: that
// user may have put it into a sticky directory before the proxy was started.
func File(path string, owner int) (*Target, error) {
	again, f, torn, err := safefile.OpenAppend(path, owner)
	if _, ok := errors.AsType[*os.PathError](err); ok { // other errors have a hint already
		err = fmt.Errorf("%w; name a writable file in an existing directory", err)
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

// Standard returns a duplicate of standard output (1) or standard error (2). The runtime ends a process that writes to
// the descriptors 1 or 2 of a pipe without a reader (os/signal, SIGPIPE); a duplicate only fails. Its blocking mode is
// unchanged, since other processes may share it.
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

// held returns the taken lines that are not written. log.mu must be held.
func (t *Target) held() []byte { return t.lines[t.at:] }

// run is the log's writing goroutine. It blocks without harm to the callers of Write, who only fill the queue: on a
// pipe whose reader has stopped, on a disk, on a file system over the network.
func (t *Target) run() {
	defer close(t.done)
	for ended := false; !ended; {
		<-t.log.wake
		ended = t.finish(t.work())
	}
	t.Close()
}

// work writes until the queue is empty or a write fails. write(2) may write a part, such as what still fits on a disk;
// the rest of a line that a failed write has begun is written first by the next one.
func (t *Target) work() error {
	for t.take(t.openAgain()) {
		if t.torn {
			if _, err := t.file.Write(lineFeed); err != nil {
				return err
			}
			t.torn = false
		}
		n, err := t.file.Write(t.held())
		t.log.mu.Lock()
		t.at += n
		t.log.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// take takes the next lines from the queue, unless some remain. It reports whether there are lines to write; if there
// are none, it sends the notice of recovery. It reports an error of openAgain.
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
		l.post("the %s is written again; %d lines were dropped", l.name, l.Lost.Load()-l.lostBefore)
	}
	l.failing, l.losing, l.lostBefore = nil, false, l.Lost.Load()
	return false
}

// piece returns the lines for one write. Only a prompt has no line end.
func piece(p []byte) []byte {
	if len(p) <= maxWrite {
		return p
	}
	if end := bytes.LastIndexByte(p[:maxWrite], '\n') + 1; end > 0 {
		return p[:end]
	}
	return p[:bytes.IndexByte(p, '\n')+1]
}

// finish records the result of work, and reports whether the goroutine ends. After an error work is tried again later.
func (t *Target) finish(err error) (ended bool) {
	l := t.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil && !t.abandoned {
		err = cause(err)
		if l.failing == nil && !l.losing && !l.closed {
			l.post("%s lines cannot be written, and are queued: %w", l.name, err)
		}
		l.failing = err
		l.Failures.Add(1)
		l.timer.Reset(retryAfter)
	}
	return t.abandoned || t.last && (err != nil || l.queue.Len() == 0)
}

// cause removes the file's name from an error: the report names the lines instead.
func cause(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

// openAgain opens the file by its name again after Reopen, and continues there with the whole line of which the old
// file has a part. Both may be the same file. Until then rename(2) has changed nothing for the open descriptor, which
// goes on writing to the renamed file.
func (t *Target) openAgain() error {
	l, old := t.log, t.file
	if t.again == nil || !l.reopen.Swap(false) {
		return nil
	}
	f, err := t.again.Reopen()
	if err != nil {
		return fmt.Errorf("the %s file cannot be opened again; the old one stays in use: %w", l.name, err)
	}
	begin := bytes.LastIndexByte(t.lines[:t.at], '\n') + 1
	info, err := f.Stat()
	t.torn = (t.torn || begin < t.at) && (err != nil || info.Size() > 0)
	l.mu.Lock()
	t.file, t.at = f, begin
	l.mu.Unlock()
	// It may block, and report an error of an earlier write, on a file system over the network (close(2)).
	if err := old.Close(); err != nil {
		return fmt.Errorf("closing the old %s file: %w", l.name, cause(err))
	}
	return nil
}
