package audit

import (
	"fmt"
	"sync"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/linelog"
)

// gatherFor is how long a first line waits for others: to wake the writer and to write cost several times what a line
// does.
const gatherFor = 50 * time.Millisecond

// Log writes records; see [linelog.Log]. No request ever waits for it. Of each user, ten refusals a second are written,
// and the number of the others is. Its methods may be used concurrently.
type Log struct {
	*linelog.Log
	refusals *linelog.Limiter
}

// Open opens the file at path, or standard output for "-". What [linelog.File] says of path and owner holds. A FIFO needs
// no reader: what it cannot take waits, and what it holds when the process ends is lost. A line that an earlier process
// left unfinished is ended first. report takes what [linelog.Config] has reported; nil drops it.
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
	l = &Log{Log: linelog.New(to, linelog.Config{Name: "audit", Gather: gatherFor, Report: report})}
	l.refusals = linelog.NewLimiter(l.writeSuppressed)
	return l, nil
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, MaxLine); return &b }}

// Write queues a record, unless it is a refusal and its user has had too many within the second. It never blocks, and
// keeps no reference to e.
func (l *Log) Write(e *Entry) {
	// What was refused before anything was sent has cost nothing, so it is worth no line where there are many.
	if e.Code != "" && !e.Upstream && !l.refusals.Allow(e.Caller.User()) {
		return
	}
	b := buffers.Get().(*[]byte)
	*b = e.AppendJSON((*b)[:0])
	l.Log.Write(*b)
	buffers.Put(b)
}

// User is the caller as a [linelog.Limiter] knows it.
func (c *Caller) User() int64 {
	if !c.Known {
		return linelog.Unidentified
	}
	return int64(c.UID)
}

// writeSuppressed queues a line that stands for n refusals of one user's, who is not named if there are several or the
// kernel does not identify them.
func (l *Log) writeSuppressed(uid, n int64) {
	suppressed := begin(nil, time.Now())
	if uid >= 0 {
		suppressed.int("uid", uid)
	}
	suppressed.int("suppressed", n)
	l.Log.Write(suppressed.end())
}

// Close writes what is queued, for a second at most, and reports if that was not all. Closing again does nothing.
func (l *Log) Close() {
	l.refusals.Flush()
	l.Log.Close()
}
