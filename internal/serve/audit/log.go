package audit

import (
	"fmt"
	"sync"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/linelog"
)

// gatherFor is how long a first line waits for others: a wake-up of the writer and a write cost several times as much
// as a line.
const gatherFor = 50 * time.Millisecond

// Log writes records; see [linelog.Log]. It never blocks a request. It writes ten refusals a second of each user, and
// the number of the others. Its methods may be called concurrently.
type Log struct {
	*linelog.Log
	refusals *linelog.Limiter
}

// Open opens the file at path, or standard output for "-". [linelog.File] describes path and owner. A FIFO needs no
// reader: lines beyond its capacity are queued, and the content of the FIFO is lost when the process ends. An
// incomplete line of an earlier process is terminated first. report receives what [linelog.New] describes; nil ignores
// it.
func Open(path string, owner int, report func(error)) (l *Log, err error) {
	var to *linelog.Target
	if path == "-" {
		to, err = linelog.Standard(1)
	} else {
		to, err = linelog.File(path, owner)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot write the audit: %w", err)
	}
	l = &Log{Log: linelog.New(to, "audit", gatherFor, report)}
	l.refusals = linelog.NewLimiter(l.writeSuppressed)
	return l, nil
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, MaxLine); return &b }}

// Write queues a record, unless it is a refusal and its user has had too many within the second. It does not block and
// does not keep e.
func (l *Log) Write(e *Entry) {
	// A refusal before anything was sent has cost nothing, so that a line for each is not needed.
	if e.Code != "" && !e.Upstream && !l.refusals.Allow(e.Caller.User()) {
		return
	}
	b := buffers.Get().(*[]byte)
	*b = e.AppendJSON((*b)[:0])
	l.Log.Write(*b)
	buffers.Put(b)
}

// User returns the user for a [linelog.Limiter].
func (c *Caller) User() int64 {
	if !c.Known {
		return linelog.Unidentified
	}
	return int64(c.UID)
}

// writeSuppressed queues a line for n suppressed refusals of one user. It names no user for [linelog.Others] and
// [linelog.Unidentified].
func (l *Log) writeSuppressed(uid, n int64) {
	suppressed := begin(nil, time.Now())
	if uid >= 0 {
		suppressed.int("uid", uid)
	}
	suppressed.int("suppressed", n)
	l.Log.Write(suppressed.end())
}

// Close writes the queue, for at most a second, and reports the lines that remain. It may be called more than once.
func (l *Log) Close() {
	l.refusals.Flush()
	l.Log.Close()
}
