// Package dump writes requests and responses to files as they pass, for debugging, and never delays them.
//
// Each exchange makes two files that share a prefix of a sequence number and a time in Unix milliseconds,
// 000001-1795442312499-request.json and 000001-1795442312499-response.json. They are JSON, indented by two spaces:
//
//	{"method": …, "url": …, "headers": [{"name": …, "value": …}], "body": …}
//	{"status": …, "headers": [{"name": …, "value": …}], "body": …}
//
// Names in a response are in lower case. Values that may be credentials are [REDACTED]; see redact. Bodies are not
// redacted: an upstream that repeats the key in a body would put it on the disk. A body that is JSON is written as such,
// with its keys in their order, its duplicates and its numbers as they were. Every other body is a string, in which
// U+FFFD stands for each byte that is not UTF-8; so is JSON of more than 2 MiB, JSON that is nested deeper than 128, and
// JSON that would grow to more than eight times its size. "truncated": true follows a body that is known to lack
// something, because the request was not sent to its end or because the disk could not follow.
//
// Files appear whole, by a rename, but are not synced: a crash of the system may lose those of the last seconds.
package dump

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/safefile"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

const (
	maxQueued = 16 << 20 // bytes queued for the disk
	maxOfOne  = 4 << 20  // of one file: what arrives in 10 ms at 400 MB/s
	maxJSON   = 2 << 20  // of a body that is written as JSON
	pieceCost = 512      // added to the size of each queued piece
)

// Dir writes dumps. Its methods may be called concurrently; those of a nil Dir do nothing.
type Dir struct {
	files     *safefile.Dir
	report    func(error)
	sequence  atomic.Int64
	closing   sync.Once
	closeTime time.Duration // how long Close waits for the disk
	idle      chan struct{} // closed when the writer has ended

	// The writer's.
	finished  []stored // the oldest first
	used, max int64    // bytes of all dumps, in whole blocks

	mu     sync.Mutex
	closed bool
	pieces chan piece // for the writer; never full
	queued int        // bytes, of maxQueued
	lost   int        // files that are missing, or truncated because the disk was too slow
}

// Open opens the directory at path. It must belong to owner, a uid, or to the effective user if owner is -1, be
// accessible to no other user, and be used by no other process. A missing one is created, with its parents, with mode
// 0700. Open removes what an earlier run left unfinished, and the oldest dumps beyond 1 GiB; files with other names are
// neither counted nor changed. In the sandbox the process must be allowed to create, read, write, rename and remove
// files in it. report receives the first loss, and at Close the number of losses if there are more; it must not block.
func Open(path string, owner int, report func(error)) (*Dir, error) {
	d, err := prepare(path, owner, report, 1<<30)
	if err == nil {
		go d.write()
	}
	return d, err
}

// prepare is Open without the writer, for max bytes.
func prepare(path string, owner int, report func(error), max int64) (*Dir, error) {
	dir, err := safefile.OpenPrivate(path, owner)
	if err != nil {
		return nil, fmt.Errorf("cannot use the dump directory %s: %w", path, err)
	}
	d := &Dir{
		files: dir, report: report, closeTime: 5 * time.Second, idle: make(chan struct{}),
		max: max, pieces: make(chan piece, maxQueued/pieceCost),
	}
	if err := d.load(); err != nil {
		dir.Close()
		return nil, fmt.Errorf("cannot tidy up the dump directory %s: %w", path, err)
	}
	return d, nil
}

// Request begins the dump of a request, whose fields must be without the API key. It returns nil for a nil Dir, after
// Close, and if there is no space, which counts as a loss.
func (d *Dir) Request(method, target []byte, fields []http1.Field) *File {
	if d == nil {
		return nil
	}
	name := fmt.Sprintf("%06d-%d-request.json", d.sequence.Add(1), time.Now().UnixMilli())
	return d.begin(name, head{Method: text(method), URL: text(target)}.render(fields, bytes.Clone))
}

// Close waits for the disk for up to five seconds. The next Open removes the dumps that are unfinished then, or were
// not ended.
func (d *Dir) Close() {
	if d != nil {
		d.closing.Do(d.finishAll)
	}
}

func (d *Dir) finishAll() {
	d.mu.Lock()
	d.closed = true
	close(d.pieces)
	d.mu.Unlock()
	select {
	case <-d.idle:
		d.files.Close()
	case <-time.After(d.closeTime):
		d.report(fmt.Errorf("the last dumps could not be written within %v", d.closeTime))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lost > 1 {
		d.report(fmt.Errorf("%d dumps are missing or truncated", d.lost))
	}
}
