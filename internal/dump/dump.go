// Package dump writes what passes between clients and the upstream to files,
// for debugging, without ever holding up what passes.
//
// Each exchange makes two files that share a prefix of a sequence number and a
// time in Unix milliseconds, 000001-1795442312499-request.json and
// 000001-1795442312499-response.json. They are JSON, indented by two blanks:
//
//	{"method": …, "url": …, "headers": [{"name": …, "value": …}], "body": …}
//	{"status": …, "headers": [{"name": …, "value": …}], "body": …}
//
// Names in an answer are in lower case. Values of headers that may hold
// credentials are [REDACTED]; see redact. A body that is JSON stands there as
// such, with its keys in their order, its duplicates and its numbers as they
// were. Every other body is a string, in which U+FFFD stands for each byte that
// is not UTF-8; so is JSON that is nested deeper than 128, or would grow to
// more than eight times its size.
//
// A file whose body is known to lack something, because the request was not
// sent to its end or because the disk could not follow, ends with the member
// "truncated": true. An answer that the upstream or the client broke off is
// written with what came.
//
// Bodies are not redacted: whoever can read the folder reads prompts and
// answers. An upstream that repeats the key in a body would put it on the disk.
//
// Files appear whole, by a rename, but are not synced: a crash of the system may
// lose those of the last seconds.
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
)

// DefaultMaxBytes is the limit of a Config that does not name one.
const DefaultMaxBytes = 1 << 30

const (
	// defaultCloseTime is how long Close waits for the disk.
	defaultCloseTime = 5 * time.Second
	// reportPause is the time between two reports.
	reportPause = 10 * time.Second
)

// Config says where dumps go. In the jail the process must be allowed to make,
// read, write, rename and remove files in Dir.
type Config struct {
	// Dir is the folder. Required. It is made, with its parents, mode 0700. One
	// that is there must belong to Owner, or to us if there is none, and be
	// closed to everybody else; no other process may use it at the same time.
	Dir string
	// MaxBytes is how much the files in Dir may take, in bytes, each counted in
	// whole blocks of 4 KiB and those that are being written included; 0 is
	// DefaultMaxBytes. The oldest dumps are removed to make room, those of
	// earlier runs too. Files whose names are not those of dumps are neither
	// counted nor touched. For a moment a dump takes twice its size.
	MaxBytes int64
	// Owner is the user, by number, to whom new folders are given: the one that
	// the process will become; -1 is us. Elsewhere than on Unix it is passed
	// over.
	Owner int
	// Report is told of a dump that was lost, at most every ten seconds, from a
	// goroutine of its own; nil drops it. It may block.
	Report func(error)
}

// Dir takes dumps. Its methods may be used concurrently; those of a nil Dir do
// nothing.
type Dir struct {
	folder *folder
	shelf  shelf
	queue  queue
	report func(error)

	sequence atomic.Int64
	lost     atomic.Int64

	open     map[*message]bool // those with a file to which the writer still adds
	complete chan *message     // from the writer to the composer
	news     chan error        // to the reporter; holds the first that was not told
	stop     chan struct{}     // the reporter must end
	idle     chan struct{}     // all goroutines have ended
	closing  sync.Once

	closeTime time.Duration
}

// Open makes the folder, or judges the one that is there, removes what a crash
// has left of unfinished dumps, and removes the oldest dumps until the rest are
// within the limit. Errors are for the operator.
func Open(cfg Config) (*Dir, error) {
	switch {
	case cfg.Dir == "":
		return nil, errors.New("the dump folder has no name; name one")
	case cfg.MaxBytes < 0:
		return nil, fmt.Errorf("the dump folder's limit of %d bytes is negative; name a size", cfg.MaxBytes)
	}
	f, err := openFolder(cfg.Dir, cfg.Owner)
	if err != nil {
		return nil, err
	}
	d := newDir(f, cfg)
	if err := d.shelf.load(f.dir); err != nil {
		f.close()
		return nil, fmt.Errorf("cannot tidy up the dump folder %s: %w", cfg.Dir, err)
	}
	d.start()
	return d, nil
}

func newDir(f *folder, cfg Config) *Dir {
	d := &Dir{
		folder:    f,
		report:    cfg.Report,
		closeTime: defaultCloseTime,
		open:      map[*message]bool{},
		complete:  make(chan *message, 1024),
		news:      make(chan error, 1),
		stop:      make(chan struct{}),
		idle:      make(chan struct{}),
	}
	d.shelf.root, d.shelf.max = f.root, cmp.Or(cfg.MaxBytes, DefaultMaxBytes)
	d.queue.wake.L = &d.queue.mu
	return d
}

// start starts the three goroutines: one takes pieces off the queue, so that
// the queue stays short while the second makes the final files, and neither
// waits for the third, which reports.
func (d *Dir) start() {
	go d.write()
	go d.compose()
	go d.tell()
}

// Begin begins the dump of a request, which is given without our own
// credential, and copies what it needs. It returns nil when there is nothing to
// dump to, or no room in the queue, which counts as one lost file.
func (d *Dir) Begin(method, target []byte, fields []http1.Field) *Exchange {
	if d == nil {
		return nil
	}
	e := &Exchange{dir: d}
	e.id = id{time: time.Now().UnixMilli(), sequence: d.sequence.Add(1)}
	e.request.of, e.answer.of, e.answer.isAnswer = e, e, true
	head := heads.Get().(*[]byte)
	defer heads.Put(head)
	*head = appendRequestHead((*head)[:0], method, target, fields)
	if !e.request.begin(*head) {
		return nil
	}
	return e
}

var heads = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// Lost tells how many files are missing, or truncated because the disk could
// not follow.
func (d *Dir) Lost() int64 {
	if d == nil {
		return 0
	}
	return d.lost.Load()
}

// Close finishes the dumps that were begun, with what came of them so far. It
// waits for the disk for up to five seconds; what is unfinished then is removed
// by the next Open.
func (d *Dir) Close() {
	if d == nil {
		return
	}
	d.closing.Do(func() {
		d.queue.close()
		select {
		case <-d.idle:
			d.folder.close()
		case <-time.After(d.closeTime):
			if d.report != nil {
				d.report(fmt.Errorf("the last dumps could not be written within %v", d.closeTime))
			}
		}
	})
}

// lose counts a file off and has it reported. It never blocks.
func (d *Dir) lose(m *message, err error) {
	if m.lost.Swap(true) {
		return
	}
	d.lost.Add(1)
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err // the path is a temporary one
	}
	select {
	case d.news <- fmt.Errorf("cannot dump %s: %w", m.id(), err):
	default: // one waits to be told, and Lost tells of the others
	}
}

// tell reports what was lost, never too often.
func (d *Dir) tell() {
	defer close(d.idle)
	for {
		select {
		case err := <-d.news:
			d.tellOne(err)
		case <-d.stop:
			select {
			case err := <-d.news:
				d.tellOne(err)
			default:
			}
			return
		}
		select {
		case <-time.After(reportPause):
		case <-d.stop:
		}
	}
}

func (d *Dir) tellOne(err error) {
	if d.report != nil {
		d.report(fmt.Errorf("%w; %d lost so far", err, d.Lost()))
	}
}
