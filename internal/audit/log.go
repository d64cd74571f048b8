package audit

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/linelog"
)

// gatherFor is how long a first line waits for others: to wake the writer and to write cost several times what a line
// does.
const gatherFor = 50 * time.Millisecond

// Config says where the lines go.
type Config struct {
	// Path is the file, which is appended to and made if need be, with mode 0600; or a FIFO, or a device. "-" is
	// standard output. Required.
	Path string

	// Owner is the uid that a newly made file is given to, so that a process that becomes this user can go on with it;
	// -1 leaves it alone. It is trusted: a file of Owner's is written to as our own is.
	Owner int

	// Report takes an error when lines cannot be written, when the first of them is lost, and a notice when all is well
	// again; nil drops them. It is called by one goroutine of the log's, and may block.
	Report func(error)
}

// Log writes records to a file or to standard output; see [linelog.Log]. No request ever waits for it. Refusals are
// limited: of each user, ten a second are written, and the number of the others is. Its methods may be used
// concurrently.
type Log struct {
	*linelog.Log
	refusals *linelog.Limiter
}

// Open opens the log. It refuses a directory, a symbolic link, and a file that another user could write to; see package
// safefile. A FIFO needs no reader: what it cannot take waits, and what it holds when the process ends is gone.
//
// A line that an earlier process left unfinished is ended first.
func Open(cfg Config) (*Log, error) {
	to, err := target(cfg)
	if err != nil {
		hint := ""
		if _, ok := errors.AsType[*os.PathError](err); ok { // the others say what to do
			hint = "; name a file that you may write to, in a directory that is there"
		}
		return nil, fmt.Errorf("cannot write the audit: %w%s", err, hint)
	}
	l := &Log{Log: linelog.New(to, linelog.Config{Name: "audit", Gather: gatherFor, Report: cfg.Report})}
	l.refusals = linelog.NewLimiter(l.writeSuppressed)
	return l, nil
}

func target(cfg Config) (*linelog.Target, error) {
	if cfg.Path == "-" {
		return linelog.Standard(1)
	}
	return linelog.File(cfg.Path, cfg.Owner)
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, MaxLine); return &b }}

// Write queues a record, unless it is a refusal and its user has had too many within the second. It never blocks, and
// keeps no reference to e.
func (l *Log) Write(e *Entry) {
	if e.refused() && !l.refusals.Allow(e.Caller.User()) {
		return
	}
	b := buffers.Get().(*[]byte)
	*b = e.AppendJSON((*b)[:0])
	l.Log.Write(*b)
	buffers.Put(b)
}

// refused reports whether the request was refused before anything was sent: it has cost nothing, so it is worth no line
// where there are many.
func (e *Entry) refused() bool { return e.Code != "" && !e.Upstream }

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
	line := append([]byte(`{"time":"`), time.Now().UTC().Format(timeFormat)...)
	line = append(line, '"')
	if uid >= 0 {
		line = strconv.AppendInt(append(line, `,"uid":`...), uid, 10)
	}
	line = strconv.AppendInt(append(line, `,"suppressed":`...), n, 10)
	l.Log.Write(append(line, "}\n"...))
}

// Close writes what is queued, for a second at most, and reports if that was not all. Closing again does nothing.
func (l *Log) Close() {
	l.refusals.Flush()
	l.Log.Close()
}
