// Package budget adds up how many tokens every user has spent, and keeps the sums in a small file.
//
// The callers never wait for the disk: they change numbers in memory, and one goroutine writes the file after them.
package budget

import (
	"errors"
	"math"
	"sync"
	"time"
)

// pause is the least time between two writes, and so what a change waits for at most before it is written: a crash
// loses no more than the last second, with half of that left for a slow disk.
const pause = time.Second / 2

// Config says what a budget is and where it is kept.
type Config struct {
	// Limit is how many tokens each user may spend. Required, at least 1.
	Limit int64

	// File keeps the sums from one start to the next; empty means that they are forgotten at the end. It is made if it
	// is missing, as is a lock file beside it (.NAME.lock). The directory must be writable and should be the proxy's
	// own: a user who can write there can remove the file, and with it what was spent.
	//
	// To give users a new budget, stop the proxy and delete their lines.
	File string

	// Also are users, besides our own and root, whom File may belong to: the one whom the process becomes after Open.
	Also []uint32

	// Report takes the error when the file cannot be written, once for every kind of failure until it works again. It
	// is called from another goroutine. nil means that only Close returns it.
	Report func(error)
}

// Book keeps the sums. Its methods may be called from any goroutine.
type Book struct {
	limit  int64
	report func(error)
	pause  time.Duration

	mu       sync.Mutex
	spent    map[uint32]int64
	reserved map[uint32]int64 // for requests that run; the file has nothing of it
	dirty    bool             // spent has changed since it was last copied for the file

	store    *store        // nil: memory only
	changed  chan struct{} // holds one token while dirty is news
	stop     chan struct{}
	stopped  chan struct{} // closed by the writer
	close    sync.Once
	closeErr error
	reported map[string]bool // owned by the writer
}

// Open reads the sums from c.File. What is there but is not to be trusted or understood is an error; it is never taken
// for an empty book.
func Open(c Config) (*Book, error) { return open(c, pause) }

func open(c Config, pause time.Duration) (*Book, error) {
	if c.Limit < 1 {
		return nil, errors.New("the limit of tokens must be at least 1")
	}
	b := &Book{
		limit:    c.Limit,
		report:   c.Report,
		pause:    pause,
		spent:    map[uint32]int64{},
		reserved: map[uint32]int64{},
		changed:  make(chan struct{}, 1),
		stop:     make(chan struct{}),
		stopped:  make(chan struct{}),
		reported: map[string]bool{},
	}
	if c.File == "" {
		close(b.stopped)
		return b, nil
	}
	if err := b.load(c.File, c.Also); err != nil {
		return nil, err
	}
	go b.write()
	return b, nil
}

// load opens the store and writes back what it has read: what cannot be written is better known at the start.
func (b *Book) load(file string, also []uint32) error {
	s, err := openStore(file, also)
	if err != nil {
		return err
	}
	if b.spent, err = s.load(); err == nil {
		err = s.save(format(b.spent))
	}
	if err != nil {
		s.close()
		return err
	}
	b.store = s
	return nil
}

// CheckWritable writes the file as it is, and returns why it cannot be written. A process that has changed its user
// must call it before it serves: later there is nothing to do but to report it.
func (b *Book) CheckWritable() error {
	if b.store == nil {
		return nil
	}
	b.mu.Lock()
	text := format(b.spent)
	b.mu.Unlock()
	return b.store.save(text)
}

// maxDeposit is the largest deposit, in tokens: about what the largest context window of a model on offer holds, which
// is what one response can cost unless tools make the model read it several times.
const maxDeposit = 1_000_000

// deposit is what is reserved for a request out of a budget of limit tokens. At least four requests of a user can run
// at a time, whatever the limit.
func deposit(limit int64) int64 { return min(max(limit/4, 1), maxDeposit) }

// Deposit is what each request has reserved while it runs, and is charged if nothing says what it cost, in tokens.
func (b *Book) Deposit() int64 { return deposit(b.limit) }

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
	spent = b.spent[uid]
	switch {
	case spent >= b.limit:
		return spent, Spent
	case plus(spent, b.reserved[uid]) >= b.limit:
		return spent, Reserved
	}
	b.reserved[uid] = plus(b.reserved[uid], deposit(b.limit))
	return spent, OK
}

// Settle releases a deposit and adds what its request cost, in one step.
func (b *Book) Settle(uid uint32, tokens int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reserved[uid] -= deposit(b.limit); b.reserved[uid] <= 0 {
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

// Refund takes back what a user was charged too much: no more than all of it.
func (b *Book) Refund(uid uint32, tokens int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.add(uid, -min(max(tokens, 0), b.spent[uid]))
}

// add needs b.mu.
func (b *Book) add(uid uint32, tokens int64) {
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

// write is the goroutine that writes the file after every change, but not more often than once in a pause. After a
// failure it tries again, change or not.
func (b *Book) write() {
	defer close(b.stopped)
	for {
		select {
		case <-b.changed:
		case <-b.stop:
			return
		}
		b.reportOnce(b.save())
		select {
		case <-time.After(b.pause):
		case <-b.stop:
			return
		}
	}
}

// save writes the sums if they have changed.
func (b *Book) save() error {
	text := b.take()
	if text == nil {
		return nil
	}
	err := b.store.save(text)
	if err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.markDirty()
	}
	return err
}

// take returns the sums to write, or nil if the file has them.
func (b *Book) take() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.dirty {
		return nil
	}
	b.dirty = false
	return format(b.spent)
}

// markDirty has the writer write. It needs b.mu.
func (b *Book) markDirty() {
	b.dirty = true
	select {
	case b.changed <- struct{}{}:
	default: // the writer has a token already
	}
}

// reportOnce reports a failure unless it has been reported. Its text is its kind: it names a step, the file and the
// system's error, and nothing that varies.
func (b *Book) reportOnce(err error) {
	if err == nil {
		clear(b.reported)
		return
	}
	if b.reported[err.Error()] || b.report == nil {
		return
	}
	b.reported[err.Error()] = true
	b.report(err)
}

// Close writes what is left and lets go of the file. It waits for a write that is under way. Further calls return the
// same.
func (b *Book) Close() error {
	b.close.Do(func() {
		close(b.stop)
		<-b.stopped
		if b.store != nil {
			b.closeErr = errors.Join(b.save(), b.store.close())
		}
	})
	return b.closeErr
}
