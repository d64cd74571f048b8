package secret

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
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

var errNoSpare = errors.New("bug: a key without a spare page cannot be replaced")

// Config describes a key and the memory that it needs. All of that is mapped at once: nothing is later, when a sandbox
// may forbid it. The zero value is Auto's policy and a key for "authorization: Bearer" from standard input.
type Config struct {
	// Policy decides what happens where the kernel has no secret memory; empty means Auto.
	Policy Policy
	// Header is the field in which the key goes out.
	Header Header
	// File, if not empty, names the regular file whose descriptors Read and Replace get, in errors. Replace drops
	// what follows the line then, as Read does.
	File string
	// Spare maps a second page, without which the key cannot be replaced.
	Spare bool
	// Token makes the key a token (RFC 6750, section 2.1): visible ASCII.
	Token bool
	// NoSlots saves the memory of the slots, for a key that package upstream's Client does not send.
	NoSlots bool
}

// Key is one API key in secret memory, as the whole header line in which it goes out. It prints as [redacted]. Its
// methods may be used concurrently.
type Key struct {
	unprintable
	cfg     Config
	memory  *Buffer
	slots   chan *Slot
	current atomic.Pointer[generation] // the one that is lent; nil if there is none

	change sync.Mutex    // held while a key is being replaced, input included
	rooms  []secretBytes // the latest generation's, and with Config.Spare another

	mu      sync.Mutex // over what follows, and while current changes
	retired int        // generations that were current and have not been wiped yet
	wiped   sync.Cond  // retired is 0
	closed  bool
}

// generation is one key. It does not change while it is lent.
type generation struct {
	room secretBytes  // all of its memory
	line secretBytes  // prefix, key, suffix
	refs atomic.Int64 // its borrowers, and one more until it is retired; at 0 it is wiped
}

// Read takes a key from the file descriptor fd into secret memory without any buffer in between. It blocks until a line
// feed, the end of the input, or too many bytes have come; what follows the first line is dropped. Carriage returns at
// the line's end are not part of the key. On any error nothing of the input is left in memory.
func Read(fd int, cfg Config) (*Key, error) {
	k, err := mapKey(cfg)
	if err != nil {
		return nil, err
	}
	err = k.put(k.rooms[0], cfg.given(), func(p []byte) (int, error) {
		n, err := fill(fd, p, len(p))
		if err != nil {
			return 0, fmt.Errorf("reading the API key from %s: %w", cmp.Or(cfg.File, "standard input"), err)
		}
		return cfg.validate(p, n)
	})
	if err != nil {
		return nil, errors.Join(err, unmapGuarded(k.memory.Bytes()))
	}
	return k, nil
}

// New maps the memory of a key that Set or Replace will bring; until then Line returns ErrWiped. Config.Spare is taken
// for set.
func New(cfg Config) (*Key, error) {
	cfg.Spare = true
	return mapKey(cfg)
}

// Replace reads one line with another key from the file descriptor fd, straight into the spare page, and lends that
// from then on. It returns when nobody has the old key any more, which is wiped. On any error the old key stays and
// nothing of the input is left in memory: io.EOF, if the input ends before the first byte; an error that is ErrEmpty,
// ErrTooLong or ErrBadBytes, if the line is not a key; ErrWiped, after Wipe.
//
// It blocks until the line is there. It reads byte by byte, so as to take nothing of the next line: of two keys that are
// written to a FIFO in quick succession, each gets its Replace. A line that is too long is read to its end. With
// Config.File it reads as Read does.
func (k *Key) Replace(fd int) error {
	return k.replace(func(p []byte) (int, error) {
		step := 1
		if k.cfg.File != "" {
			step = len(p)
		}
		n, err := fill(fd, p, step)
		switch {
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		length, err := k.cfg.validate(p, n)
		if err == ErrTooLong && step == 1 {
			err = cmp.Or(skipLine(fd, p[:1]), err)
		}
		return length, err
	})
}

// Set lets write put another key into secret memory, of which it gets as much as the longest key needs and returns how
// much it has used. The rest is as with Replace; an error of write's is returned as it is. write must not keep room.
func (k *Key) Set(write func(room []byte) (n int, err error)) error {
	return k.replace(func(p []byte) (int, error) {
		longest := k.cfg.maxLen()
		n, err := write(p[:longest:longest])
		if err != nil {
			return 0, err
		}
		return n, k.cfg.check(p[:n])
	})
}

// fill reads from fd into p, at most step bytes at a time, until p holds a line feed, is full, or the input ends.
func fill(fd int, p []byte, step int) (n int, err error) {
	for n < len(p) {
		m, err := readFD(fd, p[n:min(n+step, len(p))])
		if err != nil {
			return n, err
		}
		n += m
		if m == 0 || bytes.IndexByte(p[n-m:n], '\n') >= 0 {
			break
		}
	}
	return n, nil
}

// skipLine reads to the end of a line, all of it into the same byte.
func skipLine(fd int, p []byte) error {
	for {
		n, err := readFD(fd, p)
		if err != nil || n == 0 || p[0] == '\n' {
			return err
		}
	}
}

// replace puts a key into the spare room, which becomes the current one's.
func (k *Key) replace(input func(p []byte) (int, error)) error {
	k.change.Lock()
	defer k.change.Unlock()
	if len(k.rooms) == 1 {
		return errNoSpare
	}
	err := k.put(k.rooms[1], another, input)
	if err == nil {
		k.rooms[0], k.rooms[1] = k.rooms[1], k.rooms[0]
	}
	return err
}

// put lets input write a key behind the header's prefix in room, finishes the line, and lends it from then on. p has one
// byte more than the longest key, which shows that one is too long. input returns the length of the key, which it has
// checked, also with an error of its form. On any error, and on a panic, room is wiped.
func (k *Key) put(room secretBytes, from source, input func(p []byte) (length int, err error)) error {
	installed := false
	defer func() {
		if !installed {
			Wipe(room.Bytes())
		}
	}()
	b := room.Bytes()
	start := copy(b, k.cfg.Header.prefix())
	p := b[start : start+k.cfg.maxLen()+1]
	length, err := input(p)
	if err != nil {
		return k.cfg.explain(err, p[:length], from)
	}
	end := start + length
	Wipe(b[end:])
	end += copy(b[end:], suffix)
	next := &generation{room: room, line: hide(b[:end])}
	next.refs.Store(1)
	err = k.install(next)
	installed = err == nil
	return err
}

// Line lends the header line "authorization: Bearer KEY\r\n", or that of another Config.Header, to use, which must
// neither keep nor change it, and returns use's error. Wipe, Replace and Set wait for it.
func (k *Key) Line(use func(line []byte) error) error {
	g := k.borrow()
	if g == nil {
		return ErrWiped
	}
	defer k.release(g)
	return use(g.line.Bytes())
}

// borrow returns the current generation, which the caller must release, or nil.
func (k *Key) borrow() *generation {
	for g := k.current.Load(); g != nil; g = k.current.Load() {
		if n := g.refs.Load(); n > 0 && g.refs.CompareAndSwap(n, n+1) { // at 0 it is no longer the current one
			return g
		}
	}
	return nil
}

// release wipes a retired generation if it is the last borrower's.
func (k *Key) release(g *generation) {
	if g.refs.Add(-1) > 0 {
		return
	}
	Wipe(g.room.Bytes())
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.retired--; k.retired == 0 {
		k.wiped.Broadcast()
	}
}

// install puts next, if it is not nil, in the place of the current generation, and waits until all that were retired
// have been wiped.
func (k *Key) install(next *generation) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if next != nil && k.closed {
		return ErrWiped
	}
	if old := k.current.Swap(next); old != nil {
		k.retired++
		k.mu.Unlock() // release locks it
		k.release(old)
		k.mu.Lock()
	}
	for k.retired > 0 {
		k.wiped.Wait()
	}
	return nil
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
	return k.cfg.maxLine()
}

// Memory returns what the key lies in, and if that is not MemfdSecret, why.
func (k *Key) Memory() (Kind, error) { return k.memory.Memory() }

// mapKey maps the memory for a key and for as many slots as can be had.
func mapKey(cfg Config) (*Key, error) {
	if int(cfg.Header) >= len(headers) {
		return nil, fmt.Errorf("bug: header %d is unknown", cfg.Header)
	}
	space := roundUp(cfg.maxLine()+1, keySpace) // a byte more, which shows a key that is too long
	keys := space
	if cfg.Spare {
		keys = 2 * space
	}
	sizes := []int{keys + maxSlots*SlotSize, keys + SlotSize}
	if cfg.NoSlots {
		sizes = []int{keys}
	}
	memory, err := NewBuffer(cfg.Policy, sizes...)
	if err != nil {
		return nil, err
	}
	k := &Key{cfg: cfg, memory: memory, slots: cutSlots(memory.Bytes()[keys:])}
	k.wiped.L = &k.mu
	for room := range slices.Chunk(memory.Bytes()[:keys], space) {
		k.rooms = append(k.rooms, hide(room))
	}
	return k, nil
}
