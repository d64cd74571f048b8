// Package secret holds one API key in one region of secret memory: read there straight from a file descriptor, lent to
// a writer, wiped, and never printed.
package secret

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"unsafe"
)

// Policy says what to do where the kernel has no secret memory.
type Policy string

// The policies of --secret-memory.
const (
	// Auto falls back to locked anonymous memory, which root can read; Kind is what was had.
	Auto Policy = "auto"
	// Require refuses every fallback.
	Require Policy = "require"
)

// Kind names what a region's memory is made of, in the words of the start line.
type Kind string

// The kinds, best first.
const (
	// MemfdSecret is memory that the kernel itself cannot reach for others: memfd_secret(2). Not readable through
	// /proc/PID/mem, even by root.
	MemfdSecret Kind = "memfd_secret"
	// Locked is ordinary memory that is neither swapped nor, where the system allows it, dumped or inherited. Root can
	// read it.
	Locked Kind = "locked"
)

// redacted is what every type of this package prints.
const redacted = "[redacted]"

// Buffer is one mapping of secret memory, on Linux between two inaccessible pages, such as one for a message that holds
// a token. Its Bytes are all of the memory; the caller must see to it that there is one user at a time. It prints as
// [redacted].
type Buffer struct {
	secretBytes
	kind Kind
	why  error // why kind is not MemfdSecret
}

// NewBuffer maps memory of the best kind that policy and system allow, at least the first of sizes (in bytes,
// descending) for which the limit on locked memory has room. The memory is zero.
func NewBuffer(policy Policy, sizes ...int) (*Buffer, error) {
	b, why := mapFirst(mapSecret, sizes)
	if why == nil {
		return &Buffer{hide(b), MemfdSecret, nil}, nil
	}
	if policy == Require {
		return nil, fmt.Errorf("no secret memory: %w; --secret-memory=auto would accept memory that root can read", why)
	}
	b, err := mapFirst(mapLocked, sizes)
	if err != nil {
		return nil, fmt.Errorf("no memory that is safe for a key: %w; %w", why, err)
	}
	return &Buffer{hide(b), Locked, why}, nil
}

// Wipe overwrites all of it, and the vector registers.
func (b *Buffer) Wipe() { Wipe(b.Bytes()) }

// Memory returns what the buffer is made of, and if that is not MemfdSecret, why.
func (b *Buffer) Memory() (Kind, error) { return b.kind, b.why }

// secretBytes is a slice that reflection, and so fmt and its kin, cannot look into: where a Format method is not called
// (a value that was copied, a field that is not exported, a verb that does not fit), an unsafe.Pointer prints as an
// address, and a slice as what it holds.
type secretBytes struct {
	unprintable
	start unsafe.Pointer
	n     int
}

func hide(b []byte) secretBytes {
	return secretBytes{start: unsafe.Pointer(unsafe.SliceData(b)), n: len(b)}
}

// Bytes returns the slice.
func (s secretBytes) Bytes() []byte { return unsafe.Slice((*byte)(s.start), s.n) }

// unprintable is embedded in what neither fmt nor encoding/json, log/slog and their kin may print.
type unprintable struct{}

// Format prints [redacted] whatever the verb.
func (unprintable) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalText is for encoding/json, log/slog and their kin.
func (unprintable) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// mapFirst returns the first size that can be had, in whole pages, or the last error.
func mapFirst(mapper func(int) ([]byte, error), sizes []int) (b []byte, err error) {
	for _, size := range sizes {
		if b, err = mapper(roundUp(size, os.Getpagesize())); err == nil {
			return b, nil
		}
	}
	return nil, err
}

func roundUp(n, unit int) int { return (n + unit - 1) / unit * unit }

var (
	zeros [256]byte

	// span is len(zeros), as a variable: a copy of constant length would not be made by memmove.
	span = len(zeros)
)

// Wipe overwrites b, and what an earlier copy left in the vector registers.
func Wipe(b []byte) {
	clear(b)
	runtime.KeepAlive(&b)
	Scrub()
}

// Scrub overwrites what an earlier copy has left in the vector registers, by a memmove of 256 bytes, which passes
// through all of them. A thread that is interrupted by a signal stores its registers in ordinary memory: so the code
// that has copied a secret calls Scrub at once, before anything that may block. It is nosplit so that no other
// goroutine comes in between.
//
//go:nosplit
func Scrub() {
	var sink [256]byte
	copy(sink[:span], zeros[:span])
	runtime.KeepAlive(&sink)
}
