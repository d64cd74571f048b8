package secret

import (
	"errors"
	"os"
	"slices"
	"sync"
	"sync/atomic"
)

// keySpace is the memory of a key that is not longer than MaxKey: room for the line, and a page of its own on most
// systems.
const keySpace = 4096

// ErrWiped is returned by everything that needs a key where there is none: before the first Set of New's, after Forget
// and after Wipe.
var ErrWiped = errors.New("the API key has been wiped")

// Config says what kind of key it is and what memory it needs. All of that is mapped at once: nothing is later, when a
// sandbox may forbid it. The zero value is Auto's policy and a key for "authorization: Bearer".
type Config struct {
	// Policy says what to do without secret memory; empty means Auto.
	Policy Policy
	// Header is the field in which the key goes out.
	Header Header
	// Spare maps a second page, without which the key cannot be replaced.
	Spare bool
	// Room, if not 0, makes the key a token (RFC 6750, section 2.1): visible ASCII of at most Room bytes. Room is at
	// most MaxRoom; with NoSlots, MaxToken.
	Room int
	// NoSlots saves the memory of the slots, for a key that package upstream's Client does not send.
	NoSlots bool
}

// Key is one API key in secret memory, as the whole header line in which it goes out. It prints as [redacted]. Its
// methods may be used concurrently.
type Key struct {
	unprintable
	r       *region
	slots   chan *Slot
	rules   rules
	current atomic.Pointer[generation] // the one that is lent; nil if there is none

	change sync.Mutex    // held while a key is being replaced, input included
	rooms  []secretBytes // the latest generation's, and with Config.Spare another

	mu      sync.Mutex    // over what follows, and while current changes
	retired []*generation // those that may not have been wiped yet
	closed  bool
}

// generation is one key. It does not change while it is lent.
type generation struct {
	room  secretBytes   // all of its memory
	line  secretBytes   // prefix, key, suffix
	refs  atomic.Int64  // its borrowers, and one more until it is retired
	wiped chan struct{} // closed once refs is 0 and room has been overwritten
}

func newGeneration(room secretBytes, line []byte) *generation {
	g := &generation{room: room, line: hide(line), wiped: make(chan struct{})}
	g.refs.Store(1)
	return g
}

// borrow fails when the generation has been retired and was not lent any more.
func (g *generation) borrow() bool {
	for n := g.refs.Load(); n > 0; n = g.refs.Load() {
		if g.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

// release wipes a retired generation if it is the last borrower's.
func (g *generation) release() {
	if g.refs.Add(-1) == 0 {
		Wipe(g.room.slice())
		close(g.wiped)
	}
}

// Read takes a key from the file descriptor fd into secret memory without any buffer in between. It blocks until a line
// feed, the end of the input, or too many bytes have come; what follows the first line is dropped. Carriage returns at
// the line's end are not part of the key. On any error nothing of the input is left in memory.
func Read(fd int, cfg Config) (*Key, error) {
	k, err := mapKey(cfg)
	if err != nil {
		return nil, err
	}
	line, err := k.rules.read(k.rooms[0].slice(), func(b []byte) (int, error) { return readFD(fd, b) })
	if err != nil {
		Wipe(k.r.slice())
		return nil, errors.Join(k.rules.onStdin(err), unmapGuarded(k.r.slice()))
	}
	k.current.Store(newGeneration(k.rooms[0], line))
	return k, nil
}

// New maps the memory of a key that Set or Replace will bring; until then Line returns ErrWiped. Config.Spare is taken
// for set.
func New(cfg Config) (*Key, error) {
	cfg.Spare = true
	return mapKey(cfg)
}

// Line lends the header line "authorization: Bearer KEY\r\n", or that of another Config.Header, to use, which must
// neither keep nor change it, and returns use's error. Wipe, Replace and Set wait for it.
func (k *Key) Line(use func(line []byte) error) error {
	g := k.borrow()
	if g == nil {
		return ErrWiped
	}
	defer g.release()
	return use(g.line.slice())
}

// borrow returns the current generation, which the caller must release, or nil.
func (k *Key) borrow() *generation {
	for {
		if g := k.current.Load(); g == nil || g.borrow() {
			return g
		}
	}
}

// Len is the length of what Line lends, in bytes; 0 without a key.
func (k *Key) Len() int {
	if g := k.current.Load(); g != nil {
		return g.line.n
	}
	return 0
}

// MaxLen is the length of the longest line that Line will ever lend, in bytes: today's, unless the key can be replaced.
func (k *Key) MaxLen() int {
	if len(k.rooms) == 1 {
		return k.Len()
	}
	return k.rules.lineSize(k.rules.max)
}

// Wipe overwrites the key for good: a Replace that is under way fails. It blocks while Line lends it. The memory stays
// mapped, so that a late reader finds zeros. It may be called twice.
func (k *Key) Wipe() {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.Forget()
}

// Forget overwrites the key like Wipe, but another may still take its place.
func (k *Key) Forget() { _ = k.install(nil) } // which does not fail

// install puts next, if it is not nil, in the place of the current generation, and waits until all that were retired
// have been wiped.
func (k *Key) install(next *generation) error {
	k.mu.Lock()
	if next != nil && k.closed {
		k.mu.Unlock()
		return ErrWiped
	}
	if old := k.current.Swap(next); old != nil {
		k.retired = append(slices.DeleteFunc(k.retired, (*generation).isWiped), old)
		old.release()
	}
	retired := slices.Clone(k.retired)
	k.mu.Unlock()
	for _, g := range retired {
		<-g.wiped
	}
	return nil
}

func (g *generation) isWiped() bool {
	select {
	case <-g.wiped:
		return true
	default:
		return false
	}
}

// Memory returns what the key lies in, and if that is not MemfdSecret, why.
func (k *Key) Memory() (Kind, error) { return k.r.kind, k.r.why }

// mapKey maps the memory for a key and for as many slots as can be had.
func mapKey(cfg Config) (*Key, error) {
	rules, err := cfg.rules()
	if err != nil {
		return nil, err
	}
	space, pages := rules.space(), 1
	if cfg.Spare {
		pages = 2
	}
	r, err := newRegion(cfg.Policy, cfg.sizes(pages*space)...)
	if err != nil {
		return nil, err
	}
	k := &Key{r: r, rules: rules}
	for i := range pages {
		k.rooms = append(k.rooms, hide(r.slice()[i*space:(i+1)*space]))
	}
	if !cfg.NoSlots {
		k.slots = cutSlots(r.slice()[pages*space:])
	}
	return k, nil
}

// sizes are those of a region with keys of so many bytes, with many slots and with one.
func (c Config) sizes(keys int) []int {
	page := os.Getpagesize()
	if c.NoSlots {
		return []int{roundUp(keys, page)}
	}
	return []int{roundUp(keys+maxSlots*SlotSize, page), roundUp(keys+SlotSize, page)}
}

func roundUp(n, unit int) int { return (n + unit - 1) / unit * unit }
