// Package linelog writes lines to a file or a stream without ever making its caller wait.
//
// Lines wait in a queue of about 1 MiB, and one goroutine writes them. What does not fit, because the disk is full, a
// limit is reached, or the reader has stopped, is lost, counted and reported; what waits is written as soon as that is
// possible again. A line is in the file once and whole, whatever happens in between.
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
	// maxQueued is how many bytes wait to be written, including those that are being written.
	maxQueued = 1 << 20
	// keepQueue is the size up to which the queue's buffer is kept when it is empty, and from which lines do not gather.
	keepQueue = 64 << 10
	// retryAfter is the pause after a write that has failed.
	retryAfter = time.Second
	// closeWait is how long Close and Redirect wait for the writer; closeWrite is a little less, for a write that can
	// be interrupted.
	closeWait  = time.Second
	closeWrite = closeWait * 9 / 10
)

var (
	errSlow  = errors.New("more come than can be written")
	errStuck = errors.New("nobody reads them")

	lineFeed = []byte{'\n'}
)

// Config says what the lines are.
type Config struct {
	// Name names the lines in reports, as in "audit lines are being lost". Required.
	Name string
	// Gather is how long a first line waits for others, which saves wake-ups and writes; zero means not at all.
	Gather time.Duration
	// Report takes an error when lines cannot be written, when the first of them is lost, and a notice when all is well
	// again; nil drops them. One goroutine of the log's calls it; it may block, and may write to this log.
	Report func(error)
}

// Log writes lines. Its methods may be used concurrently.
type Log struct {
	cfg      Config
	wake     chan struct{} // the target has something to do
	timer    *time.Timer   // signals wake: lines have gathered, or a write that failed is to be tried again
	reported chan struct{} // closed when Report has had all of reports

	written, lost, failures atomic.Int64

	mu         sync.Mutex
	w          *Target
	queue      bytes.Buffer // whole lines that no target has taken
	reports    chan error   // for Report
	lostBefore int64        // the trouble that there is now, if any
	failing    error        // why the last write failed; nil if it did not
	losing     bool         // lines were lost since all was well
	closed     bool
}

// New returns a log that writes to t, which it closes.
func New(t *Target, cfg Config) *Log {
	l := &Log{cfg: cfg, wake: make(chan struct{}, 1), reports: make(chan error, 16), reported: make(chan struct{})}
	l.timer = time.AfterFunc(cfg.Gather, l.signal)
	go l.reportAll(l.reports)
	l.start(t)
	return l
}

func (l *Log) reportAll(reports <-chan error) {
	defer close(l.reported)
	for err := range reports {
		if l.cfg.Report != nil {
			l.cfg.Report(err)
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

// signal wakes the target, unless it has been woken already.
func (l *Log) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Write queues a line, which must end with a line feed and have no other. It never blocks, and does not keep line.
func (l *Log) Write(line []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.queue.Len()
	if l.closed || before+len(l.w.held())+len(line) > maxQueued {
		l.drop()
		return
	}
	l.queue.Write(line)
	switch {
	case l.failing != nil: // a new line changes nothing: the timer will try again
	case before == 0 && l.cfg.Gather > 0:
		l.timer.Reset(l.cfg.Gather)
	case before == 0 || before < keepQueue && l.queue.Len() >= keepQueue:
		l.signal()
	}
}

// drop counts a line that has no place. It needs l.mu.
func (l *Log) drop() {
	l.lost.Add(1)
	if !l.losing && !l.closed {
		l.losing = true
		l.post("%s lines are being lost: %w", l.cfg.Name, cmp.Or(l.failing, errSlow))
	}
}

// post has an error reported, unless sixteen wait or the log is closed; it does not wait. It needs l.mu.
func (l *Log) post(format string, args ...any) {
	select {
	case l.reports <- fmt.Errorf(format, args...):
	default:
	}
}

// Reopen makes the log open its file by name again, soon, as is needed when another program has renamed it. Lines
// queued by then may still go to the old one. If it cannot be opened, the old one stays in use, which is reported. What
// is not a regular file stays open.
func (l *Log) Reopen() {
	l.mu.Lock()
	l.w.reopen.Store(true)
	l.mu.Unlock()
	l.signal()
}

// Redirect makes the log go on with t, once what is queued has been written, for which it waits a second at most.
func (l *Log) Redirect(t *Target) {
	l.stop()
	l.start(t)
}

// Lost returns how many lines were not written and will not be.
func (l *Log) Lost() int64 { return l.lost.Load() }

// Written returns how many lines the kernel has taken.
func (l *Log) Written() int64 { return l.written.Load() }

// Failures returns how often lines could not be written. It grows about once a second while they cannot.
func (l *Log) Failures() int64 { return l.failures.Load() }

// Close writes what is queued, for a second at most, and reports if that was not all. Lines that come later, or at the
// same time, may be lost. Closing again does nothing.
func (l *Log) Close() {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	l.mu.Unlock()
	if !first {
		return
	}
	l.stop()
	l.end()
	select {
	case <-l.reported:
	case <-time.After(closeWait / 10): // Report is stuck
	}
}

// stop ends the writer once the queue is written, or after a second. A writer that is stuck is abandoned: it may go on
// to write the lines that it holds, which count as lost.
func (l *Log) stop() {
	l.mu.Lock()
	w := l.w
	w.last = true
	w.file.SetWriteDeadline(time.Now().Add(closeWrite)) // fails on a regular file, which needs none
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
		l.lost.Add(n)
		l.losing = true
	}
}

// end counts what is left as lost, and reports for the last time.
func (l *Log) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := countLines(l.queue.Bytes())
	lost := l.lost.Add(left)
	if l.losing || left > 0 {
		why := l.failing
		if why == nil || errors.Is(why, os.ErrDeadlineExceeded) {
			why = errStuck
		}
		l.post("%d %s lines were lost: %w", lost-l.lostBefore, l.cfg.Name, why)
	}
	close(l.reports)
	l.queue, l.reports = bytes.Buffer{}, nil
}

// countLines counts the lines that end in p.
func countLines(p []byte) int64 { return int64(bytes.Count(p, lineFeed)) }
