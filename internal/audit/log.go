package audit

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

const (
	// maxQueued is how many bytes wait to be written, those included that are
	// being written.
	maxQueued = 1 << 20
	// keepQueue is how large a buffer is kept that is not filled so far.
	keepQueue = 64 << 10
	// gatherFor is how long a first line waits for others: to wake the writer and
	// to write cost several times what a line does.
	gatherFor = 50 * time.Millisecond
	// retryAfter is how long the log waits when a write has failed.
	retryAfter = time.Second
	// closeWait is how long Close waits; closeWrite is a little less, for a
	// write that can be interrupted.
	closeWait  = time.Second
	closeWrite = closeWait * 9 / 10
)

var (
	errSlow  = errors.New("more come than can be written")
	errStuck = errors.New("nobody reads them")
)

// Config says where the lines go.
type Config struct {
	// Path is the file, which is appended to and made if need be, with mode
	// 0600; or a FIFO, or a device. "-" is standard output. Required.
	Path string

	// Owner is the uid that a newly made file is given to, so that a process
	// that becomes this user can go on with it; -1 leaves it alone. It is
	// trusted: a file of Owner's is written to as our own is.
	Owner int

	// Report is told when lines cannot be written, when the first of them is
	// lost, and when all is well again; nil tells nobody. It is called by one
	// goroutine of the log's, and may block.
	Report func(error)
}

// Log writes lines to a file or to standard output. No request ever waits for
// it: lines wait in a queue of about 1 MiB, and what does not fit is lost and
// counted. Its methods may be called at the same time.
type Log struct {
	cfg     Config
	lines   chan struct{} // there are lines in the queue, and it is time to write them
	gather  *time.Timer   // signals lines
	orders  chan struct{} // reopen or closed was set
	done    chan struct{} // the writer has ended
	reports chan error    // what Report is still to be told
	told    chan struct{} // it was told all

	mu       sync.Mutex
	file     *os.File // changed by the writer only
	queue    []byte   // whole lines
	queued   int64    // lines in it
	held     int      // bytes that the writer has taken and not written
	heldN    int64    // lines of those
	written  int64
	lost     int64
	lostOnce int64 // before the trouble that there is now, if any
	failing  error // why the last write failed; nil if it did not
	losing   bool  // lines were lost since all was well
	reopen   bool
	closed   bool
	given    bool // the writer was given up
}

// Open opens the log. It refuses a folder, a symbolic link, and a file that
// another user could write to. A FIFO needs no reader: what it cannot take
// waits, and what it holds when the process ends is gone.
//
// A line that an earlier process left unfinished is ended first.
func Open(cfg Config) (*Log, error) {
	f, torn, err := open(cfg)
	if err != nil {
		hint := ""
		if _, ok := errors.AsType[*os.PathError](err); ok { // the others say what to do
			hint = "; name a file that you may write to, in a folder that is there"
		}
		return nil, fmt.Errorf("cannot write the audit: %w%s", err, hint)
	}
	return start(cfg, f, torn), nil
}

func start(cfg Config, f *os.File, torn bool) *Log {
	l := &Log{
		cfg:     cfg,
		file:    f,
		lines:   make(chan struct{}, 1),
		orders:  make(chan struct{}, 1),
		done:    make(chan struct{}),
		reports: make(chan error, 16),
		told:    make(chan struct{}),
	}
	l.gather = time.AfterFunc(gatherFor, func() { signal(l.lines) })
	go l.tell()
	go (&writer{log: l, file: f, torn: torn}).run()
	return l
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, MaxLine); return &b }}

// Write queues a line. It never blocks, and keeps no reference to e.
func (l *Log) Write(e *Entry) {
	b := buffers.Get().(*[]byte)
	*b = e.AppendJSON((*b)[:0])
	l.push(*b)
	buffers.Put(b)
}

func (l *Log) push(line []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := len(l.queue)
	if l.closed || before+l.held+len(line) > maxQueued {
		l.drop()
		return
	}
	l.queue = append(l.queue, line...)
	l.queued++
	switch {
	case before == 0:
		l.gather.Reset(gatherFor)
	case before < keepQueue && len(l.queue) >= keepQueue:
		signal(l.lines)
	}
}

// drop counts a line that has no place. The lock is held.
func (l *Log) drop() {
	l.lost++
	if l.losing || l.closed {
		return
	}
	l.losing = true
	l.post(fmt.Errorf("audit lines are being lost: %w", cmp.Or(l.failing, errSlow)))
}

// signal wakes the writer, unless somebody has done so.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Reopen makes the log open its file by name again, soon, as is needed when
// another program has renamed it. Lines queued by then may still go to the old
// one. If there is no opening it, the old one goes on, and Report is told.
// What is not a file stays open.
func (l *Log) Reopen() {
	l.mu.Lock()
	l.reopen = true
	l.mu.Unlock()
	signal(l.orders)
}

// Lost returns how many lines were not written and will not be.
func (l *Log) Lost() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// Written returns how many lines the kernel has taken.
func (l *Log) Written() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written
}

// Close writes what is queued, for a second at most, and tells Report if that
// was not all. Lines that come later, or at the same time, may be lost. Closing
// again waits in the same way and does nothing else.
func (l *Log) Close() {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	f := l.file
	l.mu.Unlock()

	late := time.NewTimer(closeWait)
	defer late.Stop()
	if first {
		f.SetWriteDeadline(time.Now().Add(closeWrite)) // if it can be had: of a FIFO, not of a file
		signal(l.orders)
	}
	select {
	case <-l.done:
	case <-late.C:
	}
	if first {
		l.giveUp()
	}
	select {
	case <-l.told:
	case <-time.After(closeWait / 10): // Report is stuck
	}
}

// giveUp counts what is left as lost, as far as anybody can know.
func (l *Log) giveUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.given = true
	rest := l.queued + l.heldN
	l.lost += rest
	l.queue, l.queued, l.heldN = nil, 0, 0
	if n := l.lost - l.lostOnce; l.losing || rest > 0 {
		l.post(fmt.Errorf("%d audit lines were lost: %w", n, l.whyLeft()))
	}
	close(l.reports)
}

// whyLeft is why lines are left at the end. The lock is held.
func (l *Log) whyLeft() error {
	if l.failing == nil || errors.Is(l.failing, os.ErrDeadlineExceeded) {
		return errStuck
	}
	return l.failing
}

// post has Report told; it does not wait. The lock is held, and giveUp has not
// closed the channel.
func (l *Log) post(err error) {
	select {
	case l.reports <- err:
	default: // sixteen are waiting already
	}
}

func (l *Log) tell() {
	defer close(l.told)
	for err := range l.reports {
		if l.cfg.Report != nil {
			l.cfg.Report(err)
		}
	}
}

// failed notes that a write has failed.
func (l *Log) failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err = cause(err)
	if l.failing == nil && !l.losing && !l.closed {
		l.post(fmt.Errorf("audit lines cannot be written, and wait: %w", err))
	}
	l.failing = err
}

// recovered notes that all that was queued is written.
func (l *Log) recovered() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if (l.failing != nil || l.losing) && !l.given {
		l.post(fmt.Errorf("the audit is written again; %d lines were lost", l.lost-l.lostOnce))
	}
	l.failing, l.losing, l.lostOnce = nil, false, l.lost
}

// cause leaves out the name of the file, which the operator has chosen.
func cause(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

// countLines counts the lines that end in p.
func countLines(p []byte) int64 { return int64(bytes.Count(p, lineFeed)) }

var lineFeed = []byte{'\n'}
