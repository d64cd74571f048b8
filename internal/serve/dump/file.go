package dump

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

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
	return f.dir.begin(strings.TrimSuffix(f.name, "request.json")+"response.json", head{Status: status}.render(fields, bytes.ToLower))
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
