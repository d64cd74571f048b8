// Package budget sums the tokens that each user has spent, and keeps the sums in a small file. Callers never wait for the
// disk: they change numbers in memory, and a timer writes the file afterwards.
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

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/safefile"
)

// pause is the minimum time between two writes, and so the maximum time before a change is written. A crash loses at
// most the last second, of which half is for a slow disk.
const pause = time.Second / 2

// Config describes a budget and its file.
type Config struct {
	// Limit is the number of tokens that each user may spend in a Period, at whose end the sums restart at 0. It is
	// required, at least 1.
	Limit  int64
	Period Period
	// File keeps the sums between runs; empty means that they are kept in memory only. It is created if it is missing,
	// as is a lock file beside it (.NAME.lock). The directory must be writable and should belong to the proxy alone: a
	// user who can write there can remove the file, and with it the sums. To give users a new budget within a period,
	// stop the proxy and delete their lines.
	File string
	// Owner is a user, besides root and the effective user, who may own File: the one that the process becomes after
	// Open; -1 if it becomes none.
	Owner int
	// Report receives the error when the file cannot be written, once for each kind of failure until a write succeeds
	// again. It is called from another goroutine. nil means that only Close returns the error.
	Report func(error)
}

// Ledger keeps the sums. Its methods may be called concurrently.
type Ledger struct {
	cfg   Config
	pause time.Duration
	file  *safefile.Store // nil without a file

	mu       sync.Mutex
	since    time.Time // when the sums started: the start of their period, or later
	spent    map[uint32]int64
	reserved map[uint32]int64 // for running requests; not in the file
	dirty    bool             // spent has changed since it was copied for the file, and a call of write is due
	copied   time.Time        // when it was copied

	writing  sync.Mutex // held while the file is written; guards the fields below
	reported map[string]bool
	closed   bool
}

// Open reads the sums from c.File. A file that is not trusted or malformed is an error; it is never replaced by an
// empty one.
func Open(c Config) (*Ledger, error) {
	if c.Limit < 1 {
		return nil, errors.New("the token limit must be at least 1")
	}
	b := &Ledger{cfg: c, pause: pause, since: c.Period.start(time.Now()), spent: map[uint32]int64{}, reserved: map[uint32]int64{}, reported: map[string]bool{}}
	if c.File != "" {
		if err := b.load(c.File); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// load opens and locks the file, reads it, and writes it back: a file that cannot be written must be an error at the
// start.
func (b *Ledger) load(path string) error {
	if name := filepath.Base(path); name == "." || name == ".." || path[len(path)-1] == filepath.Separator {
		return fmt.Errorf("the budget file %q is a directory; name a file", path)
	}
	file, err := safefile.OpenStore(path, b.cfg.Owner)
	switch {
	case errors.Is(err, safefile.ErrLocked):
		return fmt.Errorf("the budget file %s is in use by another process; stop that process, or name another file", path)
	case err != nil:
		return fmt.Errorf("cannot lock the budget file %s: %w; its directory must exist, and be readable and writable", path, err)
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

// read reads the file. Without a file the sums are empty.
func (b *Ledger) read() error {
	text, err := b.file.Read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("cannot read the budget file: %w", err)
	}
	from, spent, err := parse(text)
	if err != nil {
		return fmt.Errorf("the budget file %s is malformed: %w; fix it, or remove it to start from zero", b.cfg.File, err)
	}
	if b.spent = spent; !from.IsZero() { // otherwise unknown, and the sums count in the present period
		b.since = from
	}
	return nil
}

// CheckWritable writes the file unchanged, and returns the error. A process that has changed its user must call it
// before it serves: later an error can only be reported.
func (b *Ledger) CheckWritable() error {
	b.writing.Lock()
	defer b.writing.Unlock()
	return b.save(true)
}

// maxDeposit is the largest deposit, in tokens: about the largest context window of the models on offer. One response
// can cost that much, or more if tools make the model read it several times.
const maxDeposit = 1_000_000

// Deposit returns the number of tokens that each request reserves while it runs, and that it is charged if its usage is
// unknown. It allows at least four concurrent requests of a user, whatever the limit.
func (b *Ledger) Deposit() int64 { return min(max(b.cfg.Limit/4, 1), maxDeposit) }

// Limit returns the number of tokens that each user may spend.
func (b *Ledger) Limit() int64 { return b.cfg.Limit }

// Reserve reserves a deposit for a request, unless the user's spent and reserved tokens have reached the limit. The
// caller must release it with Charge. The request may cost more than its deposit, because its cost is not known before.
func (b *Ledger) Reserve(uid uint32) (spent int64, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.renew()
	spent = b.spent[uid]
	if plus(spent, b.reserved[uid]) >= b.cfg.Limit {
		return spent, false
	}
	b.reserved[uid] = plus(b.reserved[uid], b.Deposit())
	return spent, true
}

// Charge releases deposits of a user and adds tokens to the sum, in one step. The sum saturates at the largest number.
// Without a deposit, a negative number subtracts, at most down to 0, for a charge since the start of the period; with
// one it counts as 0. What is charged after Close is not written.
func (b *Ledger) Charge(uid uint32, deposits int, tokens int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.renew()
	if deposits > 0 {
		tokens = max(tokens, 0)
	}
	if b.reserved[uid] -= int64(deposits) * b.Deposit(); b.reserved[uid] <= 0 {
		delete(b.reserved, uid)
	}
	if tokens = max(tokens, -b.spent[uid]); tokens != 0 {
		b.spent[uid] = plus(b.spent[uid], tokens)
		b.markDirty()
	}
}

// Period returns when the sums started, and when they restart; the zero time if never.
func (b *Ledger) Period() (since, resets time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.renew()
	return b.since, b.cfg.Period.end(b.since)
}

// Spent returns the sum of each user in the period.
func (b *Ledger) Spent() map[uint32]int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.renew()
	return maps.Clone(b.spent)
}

// renew resets the sums if their period is over. b.mu must be held. If the clock is set back it keeps them.
func (b *Ledger) renew() {
	now, end := time.Now(), b.cfg.Period.end(b.since)
	if end.IsZero() || now.Before(end) {
		return
	}
	b.since = b.cfg.Period.start(now)
	clear(b.spent)
	b.markDirty()
}

// plus returns the saturated sum of a, which is not negative, and b, which may be.
func plus(a, b int64) int64 {
	if b > 0 && a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// markDirty schedules a write of the file: at once, or when pause has passed since the last one. b.mu must be held.
func (b *Ledger) markDirty() {
	if b.file != nil && !b.dirty {
		time.AfterFunc(b.pause-time.Since(b.copied), b.write)
	}
	b.dirty = true
}

// write writes the changed sums. After a failure it runs again, even without a change. It reports a failure unless it
// has done so since the last success. Failures are compared by their text, which names a step, the file and the system's
// error, and nothing variable.
func (b *Ledger) write() {
	b.writing.Lock()
	defer b.writing.Unlock()
	if b.closed {
		return
	}
	switch err := b.save(false); {
	case err == nil:
		clear(b.reported)
	case b.cfg.Report != nil && !b.reported[err.Error()]:
		b.reported[err.Error()] = true
		b.cfg.Report(err)
	}
}

// save writes the sums if they have changed or if must is set. b.writing must be held.
func (b *Ledger) save(must bool) error {
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

// Close writes the remaining changes and closes the file. It waits for a running write. Further calls do nothing.
func (b *Ledger) Close() error {
	b.writing.Lock()
	defer b.writing.Unlock()
	if b.closed || b.file == nil {
		return nil
	}
	b.closed = true
	return errors.Join(b.save(false), b.file.Close())
}

// Period is the time after which sums restart at 0: a duration, or [Month]. Periods of a duration are aligned in UTC,
// so that those of 24h begin at midnight.
type Period time.Duration

// Month is a calendar month in UTC.
const Month Period = -1

// ParsePeriod reads "month", or a duration of whole seconds such as "24h".
func ParsePeriod(s string) (Period, error) {
	if s == "month" {
		return Month, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d%time.Second != 0 {
		return 0, errors.New("a period is month, or a number of whole seconds with a unit, such as 24h")
	}
	return Period(d), nil
}

// start returns the start of the period that contains t; without periods t, in whole seconds.
func (p Period) start(t time.Time) time.Time {
	t = t.UTC()
	if p == Month {
		return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	}
	return t.Truncate(max(time.Duration(p), time.Second))
}

// end returns the end of the period that contains t; the zero time without periods.
func (p Period) end(t time.Time) time.Time {
	switch p {
	case 0:
		return time.Time{}
	case Month:
		return p.start(t).AddDate(0, 1, 0)
	}
	return p.start(t).Add(time.Duration(p))
}
