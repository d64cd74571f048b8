// Package linelog writes lines to a file or a stream without blocking its caller.
//
// Lines are queued, about 1 MiB of them, and one goroutine writes them. Lines that do not fit into the queue, because
// the disk is full, a limit is reached or the reader has stopped, are dropped, counted and reported; queued lines are
// written when that is possible again. Each line is written once and whole, whatever happens in between.
package linelog

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxQueued is the maximum number of queued bytes, including those that are being written.
	maxQueued = 1 << 20
	// keepQueue is the size up to which an empty queue keeps its buffer, and from which a write is not delayed.
	keepQueue = 64 << 10
	// retryAfter is the pause after a failed write.
	retryAfter = time.Second
	// closeWait is how long Close and Redirect wait for the writer; closeWrite, for a write that can be interrupted, is
	// a little less.
	closeWait  = time.Second
	closeWrite = closeWait * 9 / 10
)

var (
	errSlow  = errors.New("lines arrive faster than they can be written")
	errStuck = errors.New("no reader")

	lineFeed = []byte{'\n'}
)

// Log writes lines. Its methods may be called concurrently.
type Log struct {
	name     string
	gather   time.Duration
	wake     chan struct{} // wakes the target's goroutine
	timer    *time.Timer   // signals wake, for gathered lines or a retry
	closing  sync.Once
	reopen   atomic.Bool   // Reopen was called
	reported chan struct{} // closed when report has received all reports

	Lost     atomic.Int64 // lines that were dropped
	Failures atomic.Int64 // writes; while they fail it grows about once a second

	mu         sync.Mutex
	w          *Target
	queue      bytes.Buffer // complete lines that no target has taken
	reports    chan error   // for the function report
	lostBefore int64        // value of Lost at the last notice of recovery
	failing    error        // error of the last write; nil if it succeeded
	losing     bool         // lines were dropped since the last notice of recovery
	closed     bool
}

// New returns a log that writes to t, which it closes. Reports name the lines, as in "audit lines are being dropped". A
// first line waits for others as long as gather, which saves wake-ups and writes; 0 means that it does not.
//
// report receives an error when lines cannot be written and when the first line is dropped, and a notice when writing
// succeeds again; nil ignores them. It is called from one goroutine of the log; it may block, and may write to this log.
func New(t *Target, name string, gather time.Duration, report func(error)) *Log {
	l := &Log{name: name, gather: gather, wake: make(chan struct{}, 1), reports: make(chan error, 16), reported: make(chan struct{})}
	l.timer = time.AfterFunc(gather, l.signal)
	go l.reportAll(l.reports, report)
	l.start(t)
	return l
}

func (l *Log) reportAll(reports <-chan error, report func(error)) {
	defer close(l.reported)
	for err := range reports {
		if report != nil {
			report(err)
		}
	}
}

func (l *Log) start(t *Target) {
	t.log, t.done = l, make(chan struct{})
	l.mu.Lock()
	l.w = t
	l.mu.Unlock()
	go t.run()
	l.signal()
}

// signal wakes the target's goroutine; it does not block.
func (l *Log) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Write queues a line, which must end with its only line feed. It does not block, does not keep line, and always
// returns its length.
func (l *Log) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.queue.Len()
	if l.closed || before+len(l.w.held())+len(line) > maxQueued {
		l.drop()
		return len(line), nil
	}
	l.queue.Write(line)
	switch {
	case l.failing != nil: // the timer retries
	case before == 0 && l.gather > 0:
		l.timer.Reset(l.gather)
	case before == 0 || before < keepQueue && l.queue.Len() >= keepQueue:
		l.signal()
	}
	return len(line), nil
}

// drop counts a dropped line. l.mu must be held.
func (l *Log) drop() {
	l.Lost.Add(1)
	if !l.losing && !l.closed {
		l.losing = true
		l.post("%s lines are being dropped: %w", l.name, cmp.Or(l.failing, errSlow))
	}
}

// post queues a report, unless sixteen are queued or the log is closed. It does not block. l.mu must be held.
func (l *Log) post(format string, args ...any) {
	select {
	case l.reports <- fmt.Errorf(format, args...):
	default:
	}
}

// Reopen makes the log open its file by name again soon, for use after a rotation has renamed it. Lines queued before
// may still be written to the old file. If the file cannot be opened, the old one stays in use and the error is
// reported. A target other than a regular file stays open; if the log is redirected from it, the next one is opened
// again.
func (l *Log) Reopen() {
	l.reopen.Store(true)
	l.signal()
}

// Redirect makes the log write to t, once the queue is written, for which it waits at most a second.
func (l *Log) Redirect(t *Target) {
	l.stop()
	l.start(t)
}

// Close writes the queue, for at most a second, and reports the lines that remain. Lines that are written concurrently
// or later may be dropped. It may be called more than once.
func (l *Log) Close() { l.closing.Do(l.close) }

func (l *Log) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.stop()
	l.end()
	select {
	case <-l.reported:
	case <-time.After(closeWait / 10): // report is blocked
	}
}

// stop ends the writer once the queue is written, or after a second. It abandons a writer that is blocked: that may
// still write its lines, which count as dropped.
func (l *Log) stop() {
	l.mu.Lock()
	w := l.w
	w.last = true
	// It ends a write to a pipe that blocks. It fails for files that epoll(7) does not support: regular ones, and those
	// that another process has left in blocking mode, for which closeWait is the limit.
	w.file.SetWriteDeadline(time.Now().Add(closeWrite))
	l.mu.Unlock()
	l.signal()
	select {
	case <-w.done:
	case <-time.After(closeWait):
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	w.abandoned = true
	if n := countLines(w.held()); n > 0 {
		l.Lost.Add(n)
		l.losing = true
	}
}

// end counts what remains as dropped, and sends the last report.
func (l *Log) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := countLines(l.queue.Bytes())
	lost := l.Lost.Add(left)
	if l.losing || left > 0 {
		why := l.failing
		if why == nil || errors.Is(why, os.ErrDeadlineExceeded) {
			why = errStuck
		}
		l.post("%d %s lines were dropped: %w", lost-l.lostBefore, l.name, why)
	}
	close(l.reports)
	l.queue, l.reports = bytes.Buffer{}, nil
}

// countLines returns the number of lines that end in p.
func countLines(p []byte) int64 { return int64(bytes.Count(p, lineFeed)) }
