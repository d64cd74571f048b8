package secret

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
)

// keySpace is the memory of a key that is not longer than MaxKey: room for the
// line, and a page of its own on most systems.
const keySpace = 4096

// ErrWiped is returned by everything that needs a key where there is none:
// before the first Set of New's, after Forget and after Wipe.
var ErrWiped = errors.New("the API key has been wiped")

// Config says what kind of key it is and what memory it needs. All of that is
// mapped at once: nothing is later, when a sandbox may forbid it. The zero
// value is Auto's policy and a key for "authorization: Bearer".
type Config struct {
	// Policy says what to do without secret memory; empty means Auto.
	Policy Policy
	// Header is the field in which the key goes out.
	Header Header
	// Spare maps a second page, without which the key cannot be replaced.
	Spare bool
	// Room, if not 0, makes the key a token (RFC 6750, section 2.1): visible
	// ASCII of at most Room bytes. Room is at most MaxRoom; with NoSlots,
	// MaxToken.
	Room int
	// NoSlots saves the memory of the slots, for a key that package upstream's
	// Client does not send.
	NoSlots bool
}

// Key is one API key in secret memory, as the whole header line in which it
// goes out. It prints as [redacted]. Its methods may be used concurrently.
type Key struct {
	r       *region
	slots   chan *Slot
	rules   rules
	pages   []*page              // one, or two with Config.Spare
	current atomic.Pointer[page] // the one that is lent

	change sync.Mutex // held while a key is being replaced, input included
	swap   sync.Mutex // held while current changes, and over closed
	closed bool
}

// page is the memory of one key. While line is empty, room belongs to whoever
// holds Key.change.
type page struct {
	room secretBytes
	mu   sync.RWMutex // held for reading while line is lent
	line secretBytes  // prefix, key, suffix; empty if there is no key
}

// Read takes a key from the file descriptor fd into secret memory without any
// buffer in between. It blocks until a line feed, the end of the input, or
// too many bytes have come; what follows the first line is dropped. Carriage
// returns at the line's end are not part of the key. On any error nothing of
// the input is left in memory.
func Read(fd int, cfg Config) (*Key, error) {
	k, err := mapKey(cfg)
	if err != nil {
		return nil, err
	}
	p := k.pages[0]
	line, err := k.rules.read(p.room.slice(), func(b []byte) (int, error) { return readFD(fd, b) })
	if err != nil {
		wipe(k.r.slice())
		return nil, errors.Join(k.rules.onStdin(err), unmapGuarded(k.r.slice()))
	}
	p.line = hide(line)
	return k, nil
}

// New maps the memory of a key that Set or Replace will bring; until then Line
// returns ErrWiped. Config.Spare is taken for set.
func New(cfg Config) (*Key, error) {
	cfg.Spare = true
	return mapKey(cfg)
}

// Line lends the header line "authorization: Bearer KEY\r\n", or that of
// another Config.Header, to use, which must neither keep nor change it, and
// returns use's error. Wipe, Replace and Set wait for it.
func (k *Key) Line(use func(line []byte) error) error {
	p := k.borrow()
	defer p.mu.RUnlock()
	if p.line.n == 0 {
		return ErrWiped
	}
	return use(p.line.slice())
}

// borrow returns the page that is lent, locked for reading. A page that was
// replaced in between may still have its key; if not, the new one has.
func (k *Key) borrow() *page {
	for {
		p := k.current.Load()
		if !p.mu.TryRLock() { // somebody waits to wipe it
			if p != k.current.Load() {
				continue // not behind borrowers whose writes may be stalled
			}
			p.mu.RLock()
		}
		if p.line.n > 0 || p == k.current.Load() {
			return p
		}
		p.mu.RUnlock()
	}
}

// Len is the length of what Line lends, in bytes; 0 without a key.
func (k *Key) Len() int {
	p := k.borrow()
	defer p.mu.RUnlock()
	return p.line.n
}

// MaxLen is the length of the longest line that Line will ever lend, in bytes:
// today's, unless the key can be replaced.
func (k *Key) MaxLen() int {
	if len(k.pages) == 1 {
		return k.Len()
	}
	return k.rules.lineSize(k.rules.max)
}

// Wipe overwrites the key for good: a Replace that is under way fails. It
// blocks while Line lends it. The memory stays mapped, so that a late reader
// finds zeros. It may be called twice.
func (k *Key) Wipe() {
	k.swap.Lock()
	k.closed = true
	k.swap.Unlock()
	k.Forget()
}

// Forget overwrites the key like Wipe, but another may still take its place.
func (k *Key) Forget() {
	for _, p := range k.pages {
		p.wipe()
	}
}

// wipe waits for the borrowers. A page without a key is not touched: it may be
// somebody's who reads a new one into it, and wipes it if that fails.
func (p *page) wipe() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.line.n > 0 {
		p.line = secretBytes{}
		wipe(p.room.slice())
	}
}

// Memory tells what the key lies in, and if that is not MemfdSecret, why.
func (k *Key) Memory() (Kind, error) { return k.r.kind, k.r.why }

// Format prints [redacted] whatever the verb.
func (k *Key) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalText keeps the key out of encoding/json and its kin.
func (k *Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue keeps the key out of log/slog.
func (k *Key) LogValue() slog.Value { return slog.StringValue(redacted) }

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
		k.pages = append(k.pages, &page{room: hide(r.slice()[i*space : (i+1)*space])})
	}
	k.current.Store(k.pages[0])
	if !cfg.NoSlots {
		k.slots = cutSlots(r.slice()[pages*space:])
	}
	return k, nil
}

// sizes are those of a region with keys of so many bytes, with many slots and
// with one.
func (c Config) sizes(keys int) []int {
	page := os.Getpagesize()
	if c.NoSlots {
		return []int{roundUp(keys, page)}
	}
	return []int{roundUp(keys+maxSlots*SlotSize, page), roundUp(keys+SlotSize, page)}
}

func roundUp(n, unit int) int { return (n + unit - 1) / unit * unit }
