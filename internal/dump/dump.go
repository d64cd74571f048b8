// Package dump writes what passes between clients and the upstream to files, for debugging, without ever holding up what passes.
//
// Each exchange makes two files that share a prefix of a sequence number and a time in Unix milliseconds,
// 000001-1795442312499-request.json and 000001-1795442312499-response.json. They are JSON, indented by two spaces:
//
//	{"method": …, "url": …, "headers": [{"name": …, "value": …}], "body": …}
//	{"status": …, "headers": [{"name": …, "value": …}], "body": …}
//
// Names in a response are in lower case. Values of headers that may hold credentials are [REDACTED]; see redact. A body that is
// JSON is written as such, with its keys in their order, its duplicates and its numbers as they were. Every other body is a
// string, in which U+FFFD stands for each byte that is not UTF-8; so is JSON of more than 2 MiB, JSON that is nested deeper than
// 128, and JSON that would grow to more than eight times its size.
//
// A file whose body is known to lack something, because the request was not sent to its end or because the disk could not follow,
// ends with the member "truncated": true. A response that the upstream or the client broke off is written with what came.
//
// Bodies are not redacted: a user who can read the directory reads prompts and responses. An upstream that repeats the key in a
// body would put it on the disk.
//
// Files appear whole, by a rename, but are not synced: a crash of the system may lose those of the last seconds.
package dump

import (
	"bytes"
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
	maxUnfinished    = 512              // files: most descriptors are for clients
	maxQueued        = 16 << 20         // bytes queued for the disk
	maxOfOne         = 4 << 20          // of one file: what arrives in 10 ms at 400 MB/s
	maxJSON          = 2 << 20          // of a body that is written as JSON
	yieldAt          = 128 << 10        // of one file, from which its caller lets the writer run first
	pieceCost        = 512              // added to the size of each queued piece
)

// Config describes where dumps are written. In the sandbox the process must be allowed to create, read, write, rename
// and remove files in Dir.
type Config struct {
	// Dir is the directory. Required. It is created, with its parents, with mode 0700. An existing one must belong to
	// Owner, or to the effective user if Owner is -1, and be accessible to no other user; no other process may use it
	// at the same time.
	Dir string
	// MaxBytes limits the size of the files in Dir, in bytes, each counted in blocks of 4 KiB; 0 is DefaultMaxBytes.
	// Dumps are removed to stay within it: the oldest of earlier runs, then the oldest of the user with the most.
	// Unfinished files of one user may use at most half of it. Files with other names are neither counted nor changed.
	MaxBytes int64
	// Owner is the uid that new directories are given to: that of the user that the process will become; -1 is the
	// effective user. It is ignored on systems other than Unix.
	Owner int
	// Report receives the error of a lost dump, unless one was reported in the last ten seconds, and the last of the
	// others when the Dir is closed; nil drops it. It must not block.
	Report func(error)
}

// Dir writes dumps. Its methods may be called concurrently; those of a nil Dir do nothing.
type Dir struct {
	files     *safefile.Dir
	lock      *os.File
	quota     quota // used by the writer only
	report    func(error)
	sequence  atomic.Int64
	closing   sync.Once
	closeTime time.Duration
	idle      chan struct{} // closed when the writer has ended

	mu         sync.Mutex
	closed     bool
	pieces     chan piece // for the writer; never full
	unfinished map[*message]struct{}
	open       share // of maxUnfinished
	queue      share // of maxQueued
	lost       int64 // files
	unreported error // the last loss
	reported   time.Time
}

// Open creates or checks the directory, removes the unfinished dumps of earlier runs, and removes the oldest dumps
// until the others are within the limit. Errors are for the operator.
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
	case cfg.Report == nil:
		cfg.Report = func(error) {}
	}
	dir, lock, err := safefile.OpenPrivate(cfg.Dir, cfg.Owner)
	if err != nil {
		return nil, fmt.Errorf("cannot use the dump directory %s: %w", cfg.Dir, err)
	}
	d := &Dir{
		files: dir, lock: lock, report: cfg.Report, closeTime: defaultCloseTime, idle: make(chan struct{}),
		pieces: make(chan piece, maxQueued/pieceCost+maxUnfinished), unfinished: map[*message]struct{}{},
		open: newShare(maxUnfinished), queue: newShare(maxQueued),
		quota: quota{files: dir, unfinished: newShare(cmp.Or(cfg.MaxBytes, DefaultMaxBytes)), finished: map[int64]*finished{}},
	}
	if err := d.quota.load(); err != nil {
		d.closeFiles()
		return nil, fmt.Errorf("cannot tidy up the dump directory %s: %w", cfg.Dir, err)
	}
	return d, nil
}

// Begin begins the dump of a user's request, whose fields must be without the API key, and copies what it needs. It
// returns nil for a nil Dir, and if there is no space, which counts as one lost file. No user can use all of the space.
func (d *Dir) Begin(user uint32, method, target []byte, fields []http1.Field) *Exchange {
	if d == nil {
		return nil
	}
	now, n := time.Now().UnixMilli(), d.sequence.Add(1)
	e := &Exchange{message{dir: d, user: user, id: id{now, n, false}}, message{dir: d, user: user, id: id{now, n, true}}}
	if !e.request.begin(head{Method: text(method), URL: text(target)}.render(fields, bytes.Clone)) {
		return nil
	}
	return e
}

// Lost returns the number of files that are missing, or truncated because the disk was too slow.
func (d *Dir) Lost() int64 {
	if d == nil {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lost
}

// Close finishes the dumps that were begun, as far as they were received. It waits for the disk for up to five seconds;
// the next Open removes what is unfinished then.
func (d *Dir) Close() {
	if d != nil {
		d.closing.Do(d.finishAll)
	}
}

func (d *Dir) finishAll() {
	d.mu.Lock()
	d.closed = true
	for m := range d.unfinished {
		m.endLocked(true)
	}
	close(d.pieces)
	d.mu.Unlock()
	select {
	case <-d.idle:
		d.closeFiles()
		d.mu.Lock()
		defer d.mu.Unlock()
		d.reportLoss()
	case <-time.After(d.closeTime):
		d.report(fmt.Errorf("the last dumps could not be written within %v", d.closeTime))
	}
}

func (d *Dir) closeFiles() {
	d.lock.Close()
	d.files.Close()
}

// recordLoss counts a lost file, once, and reports it unless another was reported recently. d.mu must be held.
func (d *Dir) recordLoss(m *message, err error) {
	if m.lost {
		return
	}
	m.lost = true
	d.lost++
	if path, ok := errors.AsType[*os.PathError](err); ok {
		err = path.Err // the path is a temporary one
	}
	d.unreported = fmt.Errorf("cannot dump %s: %w", m.id, err)
	if time.Since(d.reported) >= reportPause {
		d.reportLoss()
	}
}

// reportLoss reports the last loss, once. d.mu must be held.
func (d *Dir) reportLoss() {
	if d.unreported != nil {
		d.report(fmt.Errorf("%w; %d lost so far", d.unreported, d.lost))
	}
	d.unreported, d.reported = nil, time.Now()
}
