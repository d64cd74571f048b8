// Package dump writes what passes between clients and the upstream to files, for debugging, without ever holding up what
// passes.
//
// Each exchange makes two files that share a prefix of a sequence number and a time in Unix milliseconds,
// 000001-1795442312499-request.json and 000001-1795442312499-response.json. They are JSON, indented by two spaces:
//
//	{"method": …, "url": …, "headers": [{"name": …, "value": …}], "body": …}
//	{"status": …, "headers": [{"name": …, "value": …}], "body": …}
//
// Names in a response are in lower case. Values of headers that may hold credentials are [REDACTED]; see redact. A body
// that is JSON is written as such, with its keys in their order, its duplicates and its numbers as they were. Every
// other body is a string, in which U+FFFD stands for each byte that is not UTF-8; so is JSON of more than 2 MiB, JSON that
// is nested deeper than 128, and JSON that would grow to more than eight times its size.
//
// A file whose body is known to lack something, because the request was not sent to its end or because the disk could not
// follow, ends with the member "truncated": true. A response that the upstream or the client broke off is written with
// what came.
//
// Bodies are not redacted: a user who can read the directory reads prompts and responses. An upstream that repeats the key in
// a body would put it on the disk.
//
// Files appear whole, by a rename, but are not synced: a crash of the system may lose those of the last seconds.
package dump

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/safefile"
)

// DefaultMaxBytes is the limit of a Config that does not name one.
const DefaultMaxBytes = 1 << 30

const (
	defaultCloseTime = 5 * time.Second  // how long Close waits for the disk
	reportPause      = 10 * time.Second // between two reports
	maxUnfinished    = 512              // files: the descriptors are the clients' first of all
	maxQueued        = 16 << 20         // bytes that wait for the disk
	maxOfOne         = 4 << 20          // of one file among them: what comes in 10 ms at 400 MB/s
	maxJSON          = 2 << 20          // of a body that is written as JSON
	yieldAt          = 128 << 10        // of one file among them, from which on its caller lets the writer run first
	maxSpare         = 64 << 10         // of a buffer that is used again
	maxSpares        = 16               // such buffers
	pieceCost        = 512              // that each piece counts for besides its own
)

// Config says where dumps go. In the sandbox the process must be allowed to make, read, write, rename and remove files
// in Dir.
type Config struct {
	// Dir is the directory. Required. It is made, with its parents, mode 0700. One that is there must belong to Owner,
	// or to us if there is none, and be closed to everybody else; no other process may use it at the same time.
	Dir string
	// MaxBytes is how much the files in Dir may take, in bytes, each counted in whole blocks of 4 KiB; 0 is
	// DefaultMaxBytes. Dumps are removed to make room: the oldest of earlier runs, then the oldest of the user who has
	// the most. Unfinished files of one user take half of it at most. Files whose names are not those of dumps are
	// neither counted nor touched.
	MaxBytes int64
	// Owner is the user, by number, to whom new directories are given: the one that the process will become; -1 is us.
	// It is ignored on systems other than Unix.
	Owner int
	// Report receives the error of a dump that was lost, if none was reported in the last ten seconds, and the last of
	// the others when the Dir is closed; nil drops it. It must not block.
	Report func(error)
}

// Dir takes dumps. Its methods may be used concurrently; those of a nil Dir do nothing.
type Dir struct {
	files     *safefile.Dir
	lock      *os.File
	quota     quota // the writer's
	losses    losses
	sequence  atomic.Int64
	closing   sync.Once
	closeTime time.Duration
	idle      chan struct{} // closed when the writer has ended

	mu         sync.Mutex
	closed     bool
	pieces     chan piece // for the writer
	unfinished map[*message]struct{}
	open       share    // of maxUnfinished
	queue      share    // of maxQueued
	spare      [][]byte // buffers that the writer has given back
}

// Open makes the directory, or checks the one that is there, removes the unfinished dumps of earlier runs, and removes
// the oldest dumps until the rest are within the limit. Errors are for the operator.
func Open(cfg Config) (*Dir, error) {
	d, err := prepare(cfg)
	if err == nil {
		go d.write()
	}
	return d, err
}

// prepare is Open without the writer.
func prepare(cfg Config) (*Dir, error) {
	switch {
	case cfg.Dir == "":
		return nil, errors.New("the dump directory has no name; name one")
	case cfg.MaxBytes < 0:
		return nil, fmt.Errorf("the dump directory's limit of %d bytes is negative; name a size", cfg.MaxBytes)
	}
	dir, lock, err := safefile.OpenPrivate(cfg.Dir, cfg.Owner)
	if err != nil {
		return nil, fmt.Errorf("cannot use the dump directory %s: %w", cfg.Dir, err)
	}
	d := &Dir{
		files: dir, lock: lock, losses: losses{report: cfg.Report}, closeTime: defaultCloseTime, idle: make(chan struct{}),
		pieces: make(chan piece, maxQueued/pieceCost+maxUnfinished), unfinished: map[*message]struct{}{},
		open: newShare(maxUnfinished), queue: newShare(maxQueued),
		quota: quota{files: dir, unfinished: newShare(cmp.Or(cfg.MaxBytes, DefaultMaxBytes)), sizes: map[int64]int64{}},
	}
	if err := d.quota.load(); err != nil {
		d.closeFiles()
		return nil, fmt.Errorf("cannot tidy up the dump directory %s: %w", cfg.Dir, err)
	}
	return d, nil
}

// Begin begins the dump of a user's request, which is given without our own credential, and copies what it needs. It
// returns nil when there is nothing to dump to, or no room, which counts as one lost file. No user takes so much of the
// room that there is none for another.
func (d *Dir) Begin(user uint32, method, target []byte, fields []http1.Field) *Exchange {
	if d == nil {
		return nil
	}
	name := id{time: time.Now().UnixMilli(), sequence: d.sequence.Add(1)}
	e := &Exchange{request: message{dir: d, user: user, id: name}, response: message{dir: d, user: user, id: name}}
	e.response.id.isResponse = true
	if !e.request.begin(requestHead(method, target, fields)) {
		return nil
	}
	return e
}

// Lost returns how many files are missing, or truncated because the disk could not follow.
func (d *Dir) Lost() int64 {
	if d == nil {
		return 0
	}
	return d.losses.number.Load()
}

// Close finishes the dumps that were begun, with what came of them so far. It waits for the disk for up to five
// seconds; what is unfinished then is removed by the next Open.
func (d *Dir) Close() {
	if d != nil {
		d.closing.Do(d.finishAll)
	}
}

func (d *Dir) finishAll() {
	d.mu.Lock()
	d.closed = true
	for m := range d.unfinished {
		d.end(m, true)
	}
	close(d.pieces)
	d.mu.Unlock()
	select {
	case <-d.idle:
		d.closeFiles()
		d.losses.flush()
	case <-time.After(d.closeTime):
		if d.losses.report != nil {
			d.losses.report(fmt.Errorf("the last dumps could not be written within %v", d.closeTime))
		}
	}
}

func (d *Dir) closeFiles() {
	d.lock.Close()
	d.files.Close()
}

// recordLoss counts a file off and has it reported, once. It never blocks.
func (d *Dir) recordLoss(m *message, err error) {
	if m.lost.Swap(true) {
		return
	}
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err // the path is a temporary one
	}
	d.losses.add(fmt.Errorf("cannot dump %s: %w", m.id, err))
}

// losses counts what is lost, and reports it, but rarely.
type losses struct {
	report func(error)
	number atomic.Int64

	mu       sync.Mutex
	last     error // the last that has not been reported
	reported time.Time
}

func (l *losses) add(err error) {
	l.number.Add(1)
	l.mu.Lock()
	l.last = err
	pause := time.Since(l.reported) < reportPause
	l.mu.Unlock()
	if !pause {
		l.flush()
	}
}

// flush reports the last loss, unless that was done.
func (l *losses) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last != nil && l.report != nil {
		l.report(fmt.Errorf("%w; %d lost so far", l.last, l.number.Load()))
	}
	l.last, l.reported = nil, time.Now()
}
