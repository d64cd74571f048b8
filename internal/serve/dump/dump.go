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
// something, because it did not come to its end or because the disk could not follow.
//
// Files appear whole, by a rename, but are not synced: a crash of the system may lose those of the last seconds.
package dump

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
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
	finished  []stored // finished dumps, the oldest first
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
	return d.begin(name, head{Method: text(method), URL: text(target)}.render(fields))
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

// File is the dump of one request or response. Its methods never wait for the disk, do not keep their arguments, and
// may be called concurrently. Those of a nil File do nothing.
type File struct {
	dir  *Dir
	name string

	// Guarded by dir.mu.
	ended  bool
	short  bool // a part of the body is not in the dump
	lost   bool // it was counted as lost
	queued int  // its part of dir.queued

	// The writer's.
	body   []byte // received and not written
	isText bool   // the body is a string, whose beginning is written
	failed bool
	size   int64 // bytes written
}

// piece is a message to the writer: first everything before the body, then the body piece by piece, and at the end a
// piece without data.
type piece struct {
	*File
	data []byte
}

// Response begins the dump of the response to the request that f is the dump of, with the fields as the upstream sent
// them. It returns nil as Dir.Request does.
func (f *File) Response(status int, fields []http1.Field) *File {
	if f == nil {
		return nil
	}
	return f.dir.begin(strings.TrimSuffix(f.name, "request.json")+"response.json", head{Status: status}.render(fields))
}

// begin queues everything before the body.
func (d *Dir) begin(name string, head []byte) *File {
	f := &File{dir: d, name: name}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return nil
	case !f.reserve(pieceCost + len(head) + pieceCost): // the second for the end, which must never block
		f.recordLoss(errors.New("the disk is slower than the traffic; it is left out"))
		return nil
	}
	d.pieces <- piece{f, head}
	return f
}

// Write adds a piece of the body, unless the File has ended. After a lost piece it ignores all others.
func (f *File) Write(p []byte) {
	if f == nil {
		return
	}
	f.dir.mu.Lock()
	defer f.dir.mu.Unlock()
	switch {
	case f.dir.closed || f.ended || f.short || len(p) == 0:
	case f.reserve(len(p) + pieceCost):
		f.dir.pieces <- piece{f, bytes.Clone(p)}
	default:
		f.short = true
		f.recordLoss(errors.New("the disk is slower than the traffic; its body is truncated"))
	}
}

// End ends the File, once; complete reports whether it has all of the body that it should.
func (f *File) End(complete bool) {
	if f == nil {
		return
	}
	f.dir.mu.Lock()
	defer f.dir.mu.Unlock()
	if !f.dir.closed && !f.ended {
		f.ended, f.short = true, f.short || !complete
		f.dir.pieces <- piece{f, nil}
	}
}

// reserve takes n bytes of the queue, of which no File can take all, and reports whether it could. dir.mu must be held.
func (f *File) reserve(n int) bool {
	if f.queued+n > maxOfOne || f.dir.queued+n > maxQueued {
		return false
	}
	f.queued += n
	f.dir.queued += n
	return true
}

// recordLoss counts a lost dump, once, and reports the first one. dir.mu must be held.
func (f *File) recordLoss(err error) {
	if f.lost {
		return
	}
	f.lost = true
	f.dir.lost++
	if path, ok := errors.AsType[*os.PathError](err); ok {
		err = path.Err // the path is a temporary one
	}
	if f.dir.lost == 1 {
		f.dir.report(fmt.Errorf("cannot dump %s: %w; more losses are only counted", f.name, err))
	}
}
