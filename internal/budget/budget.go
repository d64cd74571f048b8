// Package budget adds up how many tokens every user has spent, and keeps the sums in a small file.
//
// The callers never wait for the disk: they change numbers in memory, and a timer writes the file after them.
package budget

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"path/filepath"
	"sync"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/safefile"
)

// pause is the least time between two writes, and so what a change waits for at most before it is written: a crash
// loses no more than the last second, with half of that left for a slow disk.
const pause = time.Second / 2

// Config says what a budget is and where it is kept.
type Config struct {
	// Limit is how many tokens each user may spend. Required, at least 1.
	Limit int64

	// Period is how long they may spend it for; then the sums start anew.
	Period Period

	// File keeps the sums from one start to the next; empty means that they are forgotten at the end. It is made if it
	// is missing, as is a lock file beside it (.NAME.lock). The directory must be writable and should be the proxy's
	// own: a user who can write there can remove the file, and with it what was spent.
	//
	// To give users a new budget within a period, stop the proxy and delete their lines.
	File string

	// Also are users, besides our own and root, whom File may belong to: the one whom the process becomes after Open.
	Also []uint32

	// Report takes the error when the file cannot be written, once for every kind of failure until it works again. It
	// is called from another goroutine. nil means that only Close returns it.
	Report func(error)
}

// Book keeps the sums. Its methods may be called from any goroutine.
type Book struct {
	cfg   Config
	pause time.Duration
	file  *safefile.Store // nil: memory only

	mu       sync.Mutex
	since    time.Time // the sums count since then: the start of their period, or later
	spent    map[uint32]int64
	reserved map[uint32]int64 // for requests that run; the file has nothing of it
	dirty    bool             // spent has changed since it was last copied for the file, and write will be called
	copied   time.Time        // when that was

	writing  sync.Mutex // the file is being written; guards the rest
	reported map[string]bool
	closed   bool
	closeErr error
}

// Open reads the sums from c.File. What is there but is not to be trusted or understood is an error; it is never taken
// for an empty book.
func Open(c Config) (*Book, error) { return open(c, pause) }

func open(c Config, pause time.Duration) (*Book, error) {
	if c.Limit < 1 {
		return nil, errors.New("the limit of tokens must be at least 1")
	}
	b := &Book{cfg: c, pause: pause, since: c.Period.start(time.Now()), spent: map[uint32]int64{}, reserved: map[uint32]int64{}, reported: map[string]bool{}}
	if c.File == "" {
		return b, nil
	}
	if err := b.load(c.File); err != nil {
		return nil, err
	}
	return b, nil
}

// load opens the file, makes sure that no other process uses it, and writes back what it has read: what cannot be
// written is better known at the start.
func (b *Book) load(path string) error {
	if name := filepath.Base(path); name == "." || name == ".." || path[len(path)-1] == filepath.Separator {
		return fmt.Errorf("the budget file %q is a directory; name a file", path)
	}
	file, err := safefile.OpenStore(path, b.cfg.Also...)
	switch {
	case errors.Is(err, safefile.ErrLocked):
		return fmt.Errorf("the budget file %s is in use by another process; stop that, or name another file", path)
	case err != nil:
		return fmt.Errorf("cannot lock the budget file %s: %w; its directory must be there, and be readable and writable", path, err)
	}
	b.file = file
	if err = b.read(); err == nil {
		err = b.save(true)
	}
	if err != nil {
		file.Close()
	}
	return err
}

// read reads the file. A file that is not there is an empty book.
func (b *Book) read() error {
	text, err := b.file.Read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("cannot read the budget file: %w", err)
	}
	from, spent, err := parse(text)
	if err != nil {
		return fmt.Errorf("the budget file %s is malformed: %w; fix it, or remove it to start from nothing", b.cfg.File, err)
	}
	if b.spent = spent; !from.IsZero() { // otherwise it is not known, and the sums count in the present period
		b.since = from
	}
	return nil
}

// CheckWritable writes the file as it is, and returns why it cannot be written. A process that has changed its user
// must call it before it serves: later there is nothing to do but to report it.
func (b *Book) CheckWritable() error {
	b.writing.Lock()
	defer b.writing.Unlock()
	return b.save(true)
}

// maxDeposit is the largest deposit, in tokens: about what the largest context window of a model on offer holds, which
// is what one response can cost unless tools make the model read it several times.
const maxDeposit = 1_000_000

// Deposit is what each request has reserved while it runs, and is charged if nothing says what it cost, in tokens. At
// least four requests of a user can run at a time, whatever the limit.
func (b *Book) Deposit() int64 { return min(max(b.cfg.Limit/4, 1), maxDeposit) }

// State is what Reserve decides.
type State int

// The states. The zero value allows nothing.
const (
	// Spent: the user has spent the limit.
	Spent State = iota
	// Reserved: what the user has not spent is reserved for running requests.
	Reserved
	// OK: a deposit has been reserved.
	OK
)

// Reserve reserves a deposit for a request, which must be settled once, unless what the user has spent and reserved has
// reached the limit. The request may cost more than its deposit: its price is not known before.
func (b *Book) Reserve(uid uint32) (spent int64, state State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.renew()
	spent = b.spent[uid]
	switch {
	case spent >= b.cfg.Limit:
		return spent, Spent
	case plus(spent, b.reserved[uid]) >= b.cfg.Limit:
		return spent, Reserved
	}
	b.reserved[uid] = plus(b.reserved[uid], b.Deposit())
	return spent, OK
}

// Settle releases a deposit and adds what its request cost, in one step.
func (b *Book) Settle(uid uint32, tokens int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reserved[uid] -= b.Deposit(); b.reserved[uid] <= 0 {
		delete(b.reserved, uid)
	}
	b.add(uid, max(tokens, 0))
}

// Add adds to what a user has spent. A sum stops at the largest number; a negative number adds nothing. What is added
// after Close is not written.
func (b *Book) Add(uid uint32, tokens int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.add(uid, max(tokens, 0))
}

// Refund takes back what a user was charged too much since the start of the period: no more than all of it.
func (b *Book) Refund(uid uint32, tokens int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.renew()
	b.add(uid, -min(max(tokens, 0), b.spent[uid]))
}

// Period returns since when the sums count, and when they start anew; never if that is zero.
func (b *Book) Period() (since, resets time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.renew()
	return b.since, b.cfg.Period.end(b.since)
}

// Spent returns what each user has spent in the period.
func (b *Book) Spent() map[uint32]int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.renew()
	return maps.Clone(b.spent)
}

// renew starts the sums anew if their period is over. It needs b.mu. Where the clock is set back it is not, so that
// nothing is forgotten.
func (b *Book) renew() {
	now, end := time.Now(), b.cfg.Period.end(b.since)
	if end.IsZero() || now.Before(end) {
		return
	}
	b.since = b.cfg.Period.start(now)
	clear(b.spent)
	b.markDirty()
}

// add needs b.mu.
func (b *Book) add(uid uint32, tokens int64) {
	b.renew()
	if tokens == 0 {
		return
	}
	b.spent[uid] = plus(b.spent[uid], tokens)
	b.markDirty()
}

// plus adds b, which may be negative, to a, which is not.
func plus(a, b int64) int64 {
	if b > 0 && a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// markDirty has the file written: at once, or when pause has passed since the last time. It needs b.mu.
func (b *Book) markDirty() {
	if b.file != nil && !b.dirty {
		time.AfterFunc(b.pause-time.Since(b.copied), b.write)
	}
	b.dirty = true
}

// write writes what has changed. After a failure it is called again, change or not.
func (b *Book) write() {
	b.writing.Lock()
	defer b.writing.Unlock()
	if !b.closed {
		b.reportOnce(b.save(false))
	}
}

// save writes the sums if they have changed, or must be written. It needs b.writing.
func (b *Book) save(must bool) error {
	b.mu.Lock()
	changed := b.dirty
	if b.file == nil || !changed && !must {
		b.mu.Unlock()
		return nil
	}
	text := format(b.since, b.spent)
	if changed {
		b.dirty, b.copied = false, time.Now()
	}
	b.mu.Unlock()
	err := b.file.Write(text)
	if err == nil {
		return nil
	}
	if changed {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.markDirty()
	}
	return fmt.Errorf("cannot write the budget file %s: %w", b.cfg.File, err)
}

// reportOnce reports a failure unless it has been reported. Its text is its kind: it names a step, the file and the
// system's error, and nothing that varies.
func (b *Book) reportOnce(err error) {
	switch {
	case err == nil:
		clear(b.reported)
	case b.cfg.Report != nil && !b.reported[err.Error()]:
		b.reported[err.Error()] = true
		b.cfg.Report(err)
	}
}

// Close writes what is left and closes the file. It waits for a write that is under way. Further calls return the same.
func (b *Book) Close() error {
	b.writing.Lock()
	defer b.writing.Unlock()
	if !b.closed && b.file != nil {
		b.closeErr = errors.Join(b.save(false), b.file.Close())
	}
	b.closed = true
	return b.closeErr
}
