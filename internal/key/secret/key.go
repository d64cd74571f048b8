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
// mmap(2) and mlock(2) count whole pages, so that less would not save locked memory.
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
// is written to the spare room, which no request reads, and becomes the current one by one atomic store. The old one is
// wiped when its last borrower has returned it; its room is the spare room of the next replacement.
type Key struct {
	Unprintable
	cfg     Config
	memory  *Buffer
	slots   chan *Slot
	current atomic.Pointer[room] // the key that Line lends; nil if there is none

	more   atomic.Bool // the last input had more lines than the key
	change sync.Mutex  // held during a replacement, its input included
	rooms  []*room     // the last one that was current, and with Config.Spare a second one

	swap   sync.Mutex  // held until another room is current and the old one is wiped
	closed atomic.Bool // by Wipe, which must not wait for swap first
}

// room is the memory of one key.
type room struct {
	secretBytes
	line secretBytes  // the header line, at its beginning
	lent sync.RWMutex // locked by each borrower for reading; for writing, unless the room is current
}

// Read reads a key from the file descriptor fd directly into secret memory, without a buffer in between. It blocks
// until a line feed, the end of the input, or too many bytes arrive; it ignores what follows the first line. Carriage
// returns at the end of the line are not part of the key. After an error nothing of the input is left in memory. fd
// stays open, and is the caller's. The pages of a pipe by which the key came are the kernel's, which frees them without
// wiping them (unless booted with init_on_free=1, Linux 5.3): who reads the kernel's memory may find the key there.
func Read(fd int, cfg Config) (*Key, error) {
	k, err := New(cfg)
	if err != nil {
		return nil, err
	}
	err = k.put(k.rooms[0], cfg.source(), func(p []byte) (int, error) {
		n, err := k.fill(fd, p)
		if err != nil {
			return 0, fmt.Errorf("reading the API key from %s: %w", cmp.Or(cfg.File, "standard input"), err)
		}
		return cfg.validate(p, n)
	})
	if err != nil { // put has wiped the key's room, and nothing has borrowed it
		return nil, errors.Join(err, unmapGuarded(k.memory.Bytes()))
	}
	return k, nil
}

// Replace reads one line with a new key from the file descriptor fd, directly into the spare page, and lends it from
// then on. It returns when the old key has no borrowers left and is wiped. On an error the old key stays in use and
// nothing of the input is left in memory. The error is io.EOF if the input ends before the first byte, one that wraps
// ErrEmpty, ErrTooLong or ErrBadBytes if the line is not a key, and ErrWiped after Wipe.
//
// It blocks until the line has arrived, and ignores what follows it.
func (k *Key) Replace(fd int) error {
	return k.replace(func(p []byte) (int, error) {
		n, err := k.fill(fd, p)
		switch {
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return k.cfg.validate(p, n)
	})
}

// Set copies a new key from memory that should be secret too. It otherwise behaves as Replace. The vector registers, by
// which the key is copied, are overwritten before it is lent: put wipes the rest of the room last.
func (k *Key) Set(key []byte) error {
	return k.replace(func(p []byte) (int, error) {
		n := copy(p, key)
		return n, k.cfg.check(p[:n])
	})
}

// More reports whether the input of Read or of the last Replace, as far as it was read, had another line than the
// key's.
func (k *Key) More() bool { return k.more.Load() }

// fill reads from fd into p until that contains a line feed or is full, or the input ends. A pipe may give a line in
// several parts (pipe(7)), so that one read is not enough. Only the new part is searched. It notes for More whether more
// than spaces follow the first line.
func (k *Key) fill(fd int, p []byte) (n int, err error) {
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
	_, rest, _ := bytes.Cut(p[:n], []byte("\n"))
	k.more.Store(slices.ContainsFunc(rest, func(c byte) bool { return c > ' ' }))
	return n, nil
}

// replace puts a key into the spare room and then swaps the rooms. When put returns, the old key is wiped, so that its
// room is free for the next replacement. Replacements exclude each other: there is one spare room.
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

// put calls input to write a key after the header's prefix in r, terminates the line, and lends it from then on. p
// has one byte more than the longest key, so that a key that is too long is recognized. input returns the length of the
// key and checks it; it returns the length also with an error of a malformed key. On any error, and on a panic, r is
// wiped. So is what follows the key, which may be another line of the input.
func (k *Key) put(r *room, from source, input func(p []byte) (length int, err error)) error {
	installed := false
	defer func() {
		if !installed {
			Wipe(r.Bytes())
		}
	}()
	b := r.Bytes()
	start := copy(b, k.cfg.Header.prefix())
	p := b[start : start+k.cfg.maxLen()+1]
	// Until install, only this goroutine has access to r.
	length, err := input(p)
	if err != nil {
		return k.cfg.explain(err, p[:length], from)
	}
	end := start + length
	Wipe(b[end:])
	end += copy(b[end:], suffix)
	r.line = hide(b[:end])
	err = k.install(r)
	installed = err == nil
	return err
}

// Line lends the header line "authorization: Bearer KEY\r\n", or that of Config.Header, to use, and returns use's
// error. use must neither keep nor change it, and must call Scrub when it has copied it. Wipe, Replace and Set wait
// until use returns; Line itself does not block. use is a function, so that a panic in it gives the key back, too: Wipe
// would otherwise wait for ever, and the key outlive the service.
func (k *Key) Line(use func(line []byte) error) error {
	r := k.borrow()
	if r == nil {
		return ErrWiped
	}
	defer r.lent.RUnlock()
	return use(r.line.Bytes())
}

// borrow returns the current room, with its lock held for reading, or nil. It is not a part of Line, since a deferred
// call in a loop allocates memory.
func (k *Key) borrow() *room {
	for r := k.current.Load(); r != nil && !k.closed.Load(); r = k.current.Load() {
		if r.lent.TryRLock() { // fails once the room is no longer current; by then another is, or none
			return r
		}
	}
	return nil
}

// install makes next the current room, or none if it is nil, waits until the borrowers of the old one have returned it,
// and wipes that: only then may the caller claim that the old key is gone. A borrower holds it for one write to a slot
// or a socket. The error is ErrWiped if Wipe was called, so that a replacement that was under way cannot bring a key
// back.
func (k *Key) install(next *room) error {
	k.swap.Lock()
	defer k.swap.Unlock()
	if next != nil {
		if k.closed.Load() {
			return ErrWiped
		}
		next.lent.Unlock()
	}
	if old := k.current.Swap(next); old != nil {
		old.lent.Lock()
		Wipe(old.Bytes())
	}
	return nil
}

// Wipe overwrites the key permanently; a Replace in progress fails. From the call on Line lends nothing. Wipe blocks
// while the key is lent, or an old one that a Replace has not wiped yet. The memory stays mapped, so that a late reader
// sees zeros instead of a fault. It may be called more than once. When the process ends, the kernel clears the pages of
// memfd_secret(2), but not locked ones, which is why the caller should wipe them.
func (k *Key) Wipe() {
	k.closed.Store(true)
	k.Forget()
}

// Forget overwrites the key as Wipe does, but Set and Replace may still provide a new one. It is for a token that has
// expired.
func (k *Key) Forget() { _ = k.install(nil) } // installing nil does not fail

// Len returns the length of the line that Line lends, in bytes; 0 without a key. It may be another by the next call.
func (k *Key) Len() (n int) {
	_ = k.Line(func(line []byte) error { n = len(line); return nil }) // ErrWiped without a key
	return n
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

// New maps the memory for a key that Set or Replace will provide, and for as many slots as the limit on locked memory
// allows (RLIMIT_MEMLOCK, getrlimit(2)). Until then Line returns ErrWiped.
func New(cfg Config) (*Key, error) {
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
	for b := range slices.Chunk(memory.Bytes()[:keys], space) {
		r := &room{secretBytes: hide(b)}
		r.lent.Lock()
		k.rooms = append(k.rooms, r)
	}
	return k, nil
}
