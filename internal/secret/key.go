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

// keySpace is the memory of a key that is not longer than MaxKey: one line, in a page of its own on most systems.
const keySpace = 4096

// ErrWiped is returned by operations on a missing key: before the first Set after New, after Forget and after Wipe.
var ErrWiped = errors.New("the API key has been wiped")

var errNoSpare = errors.New("bug: a key without a spare page cannot be replaced")

// Config describes a key and the memory that it needs. All of it is mapped at once, because the sandbox later refuses
// memfd_secret(2). The zero value is a key for "authorization: Bearer" from standard input, in the best memory
// available.
type Config struct {
	// Require makes missing secret memory an error. Without it the key then lies in locked memory, which root can read.
	Require bool
	// Header is the field in which the key is sent.
	Header Header
	// File, if not empty, is the name, for errors, of the regular file whose descriptors Read and Replace get.
	File string
	// Terminal states that a user types what Read gets, for errors.
	Terminal bool
	// Spare maps a second page, which Replace and Set need.
	Spare bool
	// Token accepts a token (RFC 6750, section 2.1) in place of a key: visible ASCII.
	Token bool
	// NoSlots omits the memory of the slots, for a key that package upstream's Client does not send.
	NoSlots bool
}

// Key is one API key in secret memory, stored as the header line in which it is sent, so that sending it copies it once
// and composes nothing. It prints as [redacted]. Its methods may be called concurrently.
//
// A request must neither wait for a replacement, which can take long, nor see a key that is half written. So a new key
// is written to the spare room, which no request reads, and becomes the current generation by one atomic store. The old
// one is wiped when its last borrower returns it; its room is the spare room of the next replacement.
type Key struct {
	unprintable
	cfg     Config
	memory  *Buffer
	slots   chan *Slot
	current atomic.Pointer[generation] // the key that Line lends; nil if there is none

	more   atomic.Bool   // the last input had more lines than the key
	change sync.Mutex    // held during a replacement, its input included
	rooms  []secretBytes // the current generation's memory, and with Config.Spare a second one

	mu      sync.Mutex // guards the fields below, and changes of current
	retired int        // retired generations that are not wiped yet
	wiped   sync.Cond  // signals that retired is 0
	closed  bool
}

// generation is one key. It is immutable while it is borrowed. Its room is wiped exactly once, by the release that
// makes refs 0, and not written again before.
type generation struct {
	room secretBytes  // all of its memory
	line secretBytes  // prefix, key, suffix
	refs atomic.Int64 // borrowers, plus one until it is retired; at 0 it is wiped
}

// Read reads a key from the file descriptor fd directly into secret memory, without a buffer in between. It blocks
// until a line feed, the end of the input, or too many bytes arrive; it ignores what follows the first line. Carriage
// returns at the end of the line are not part of the key. After an error nothing of the input is left in memory. fd
// stays open, and is the caller's. The pages of a pipe by which the key came are the kernel's, which frees them without
// wiping them (unless booted with init_on_free=1, Linux 5.3): who reads the kernel's memory may find the key there.
func Read(fd int, cfg Config) (*Key, error) {
	k, err := mapKey(cfg)
	if err != nil {
		return nil, err
	}
	err = k.put(k.rooms[0], cfg.source(), func(p []byte) (int, error) {
		n, err := fill(fd, p)
		if err != nil {
			return 0, fmt.Errorf("reading the API key from %s: %w", cmp.Or(cfg.File, "standard input"), err)
		}
		k.more.Store(hasMore(p[:n]))
		return cfg.validate(p, n)
	})
	if err != nil { // put has wiped the key's room, and nothing has borrowed it
		return nil, errors.Join(err, unmapGuarded(k.memory.Bytes()))
	}
	return k, nil
}

// New maps the memory of a key that Set or Replace will provide; until then Line returns ErrWiped. It implies
// Config.Spare.
func New(cfg Config) (*Key, error) {
	cfg.Spare = true
	return mapKey(cfg)
}

// Replace reads one line with a new key from the file descriptor fd, directly into the spare page, and lends it from
// then on. It returns when the old key has no borrowers left and is wiped. On an error the old key stays in use and
// nothing of the input is left in memory. The error is io.EOF if the input ends before the first byte, one that wraps
// ErrEmpty, ErrTooLong or ErrBadBytes if the line is not a key, and ErrWiped after Wipe.
//
// It blocks until the line has arrived, and ignores what follows it.
func (k *Key) Replace(fd int) error {
	return k.replace(func(p []byte) (int, error) {
		n, err := fill(fd, p)
		switch {
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		k.more.Store(hasMore(p[:n]))
		return k.cfg.validate(p, n)
	})
}

// Set lets write put a new key into secret memory. room has the size of the longest key; write returns the number of
// bytes used and must not keep room. Set otherwise behaves as Replace; it returns an error of write unchanged.
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

// hasMore reports whether input has more than spaces behind the first line.
func hasMore(input []byte) bool {
	_, rest, _ := bytes.Cut(input, []byte("\n"))
	return slices.ContainsFunc(rest, func(c byte) bool { return c > ' ' })
}

// More reports whether the input of Read or of the last Replace, as far as it was read, had another line than the
// key's.
func (k *Key) More() bool { return k.more.Load() }

// fill reads from fd into p until that contains a line feed or is full, or the input ends. A pipe may give a line in
// several parts (pipe(7)), so that one read is not enough. Only the new part is searched.
func fill(fd int, p []byte) (n int, err error) {
	for n < len(p) {
		m, err := readFD(fd, p[n:])
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

// replace puts a key into the spare room and then swaps the rooms. When put returns, the old generation is wiped, so
// that its room is free for the next replacement. Replacements exclude each other: there is one spare room.
func (k *Key) replace(input func(p []byte) (int, error)) error {
	k.change.Lock()
	defer k.change.Unlock()
	if len(k.rooms) == 1 {
		return errNoSpare
	}
	err := k.put(k.rooms[1], replacement, input)
	if err == nil {
		k.rooms[0], k.rooms[1] = k.rooms[1], k.rooms[0]
	}
	return err
}

// put calls input to write a key after the header's prefix in room, terminates the line, and lends it from then on. p
// has one byte more than the longest key, so that a key that is too long is recognized. input returns the length of the
// key and checks it; it returns the length also with an error of a malformed key. On any error, and on a panic, room is
// wiped. So is what follows the key, which may be another line of the input.
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
	// Until install, only this goroutine has access to room.
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

// Line lends the header line "authorization: Bearer KEY\r\n", or that of Config.Header, to use, and returns use's
// error. use must neither keep nor change it, and must call Scrub when it has copied it. Wipe, Replace and Set wait
// until use returns; Line itself does not block.
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
	// At 0 references a generation is retired and may be wiped, so that the count is raised only from another value
	// than 0; by then another generation is current, or none.
	for g := k.current.Load(); g != nil; g = k.current.Load() {
		if n := g.refs.Load(); n > 0 && g.refs.CompareAndSwap(n, n+1) {
			return g
		}
	}
	return nil
}

// release ends a loan. The last release of a retired generation wipes it, on the goroutine of the last borrower, and
// wakes install afterwards.
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

// install makes next the current generation, or none if it is nil, and waits until every retired generation is wiped:
// only then may the caller claim that the old key is gone. A borrower holds it for one write to a slot or a socket. The
// error is ErrWiped if Wipe was called, so that a replacement that was under way cannot bring a key back.
func (k *Key) install(next *generation) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if next != nil && k.closed {
		return ErrWiped
	}
	// From the swap on, borrow returns next. The old generation loses the reference that install gave it, and is wiped
	// here, or else by its last borrower.
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

// Wipe overwrites the key permanently; a Replace in progress fails. It blocks while Line lends the key. The memory
// stays mapped, so that a late reader sees zeros instead of a fault. It may be called more than once. When the process
// ends, the kernel clears the pages of memfd_secret(2), but not locked ones, which is why the caller should wipe them.
func (k *Key) Wipe() {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.Forget()
}

// Forget overwrites the key as Wipe does, but Set and Replace may still provide a new one. It is for a token that has
// expired.
func (k *Key) Forget() { _ = k.install(nil) } // installing nil does not fail

// Len returns the length of the line that Line lends, in bytes; 0 without a key. It may be another by the next call.
func (k *Key) Len() int {
	if g := k.current.Load(); g != nil {
		return g.line.n
	}
	return 0
}

// MaxLen returns the length of the longest line that Line can ever lend, in bytes, for which the caller must reserve
// space in a slot: the key may be replaced while a request waits. Without Config.Spare that is the current one.
func (k *Key) MaxLen() int {
	if len(k.rooms) == 1 {
		return k.Len()
	}
	return k.cfg.maxLine()
}

// Locked returns why the key lies in locked memory, which root can read; nil if it lies in secret memory.
func (k *Key) Locked() error { return k.memory.Locked() }

// mapKey maps the memory for a key and for as many slots as the limit on locked memory allows (RLIMIT_MEMLOCK,
// getrlimit(2)).
func mapKey(cfg Config) (*Key, error) {
	if int(cfg.Header) >= len(headers) {
		return nil, fmt.Errorf("bug: header %d is unknown", cfg.Header)
	}
	space := roundUp(cfg.maxLine()+1, keySpace) // one byte more, to recognize a key that is too long
	keys := space
	if cfg.Spare {
		keys = 2 * space
	}
	sizes := []int{keys + maxSlots*SlotSize, keys + SlotSize}
	if cfg.NoSlots {
		sizes = []int{keys}
	}
	memory, err := NewBuffer(cfg.Require, sizes...)
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
