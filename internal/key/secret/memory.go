// Package secret holds one API key in one region of secret memory: it reads the key from a file descriptor into that
// region, lends it to a writer, and wipes it. The key is never copied elsewhere and never printed.
package secret

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

// redacted is the text that every type of this package prints as.
const redacted = "[redacted]"

// Buffer is one mapping of secret memory, on Linux between two inaccessible pages. Bytes returns all of it; the caller
// must serialize its use. It prints as [redacted].
//
// The memory is that of memfd_secret(2), which the kernel removes from its own mappings: it cannot be read through
// /proc/PID/mem or process_vm_readv(2), even by root, and is not in a core file or a hibernation image. If there is
// none, it is ordinary locked memory, which is not swapped and, where the system supports it, neither dumped nor
// inherited, but which root can read.
type Buffer struct {
	secretBytes
	locked error // why it is locked memory; nil for memfd_secret(2)
}

// NewBuffer maps memory, which must be that of memfd_secret(2) if require is true. It tries sizes, in bytes and
// descending, until one fits the limit on locked memory. The memory is zero.
func NewBuffer(require bool, sizes ...int) (*Buffer, error) {
	b, why := mapFirst(mapSecret, sizes)
	if why == nil {
		return &Buffer{hide(b), nil}, nil
	}
	if require {
		hint := "use --protection auto to accept memory that root can read"
		// ENOSYS is an old kernel, or one that was not booted for it; EAGAIN is the limit on locked memory (mmap(2));
		// EPERM is usually the filter of a container, for which nothing can be advised but to accept it.
		if errors.Is(why, syscall.ENOSYS) {
			hint = "boot Linux 5.14 to 6.4 with secretmem.enable=1, or " + hint
		}
		if errors.Is(why, syscall.EAGAIN) { // which would be too little for other memory, too
			least := roundUp(sizes[len(sizes)-1], os.Getpagesize())
			hint = fmt.Sprintf("raise RLIMIT_MEMLOCK (ulimit -l) to at least %d KiB", least/1024)
		}
		return nil, fmt.Errorf("no secret memory: %w; %s", why, hint)
	}
	b, err := mapFirst(mapLocked, sizes)
	if err != nil {
		return nil, fmt.Errorf("no memory that is safe for a key: %w; %w", why, err)
	}
	return &Buffer{hide(b), why}, nil
}

// Locked returns why the buffer is locked memory, which root can read; nil if it is secret memory.
func (b *Buffer) Locked() error { return b.locked }

// secretBytes is a slice that reflection cannot look into, and so fmt and similar packages cannot print. They do not
// call Format on a copied value, an unexported field, or a verb that does not fit; then an unsafe.Pointer prints as an
// address, but a slice would print its content.
type secretBytes struct {
	Unprintable
	start unsafe.Pointer
	n     int
}

func hide(b []byte) secretBytes {
	return secretBytes{start: unsafe.Pointer(unsafe.SliceData(b)), n: len(b)}
}

// Bytes returns the memory as a slice, whose capacity is its length: append cannot write beyond it.
func (s secretBytes) Bytes() []byte { return unsafe.Slice((*byte)(s.start), s.n) }

// Unprintable is embedded in types that fmt, encoding/json, log/slog and similar packages must not print.
type Unprintable struct{}

// Format prints [redacted] for every verb.
func (Unprintable) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalText returns [redacted], for encoding/json and log/slog.
func (Unprintable) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// mapFirst maps the first of sizes, rounded up to whole pages, that mapper can map, or returns the last error.
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

	// span is len(zeros) in a variable: for a copy of constant length the compiler would not call memmove.
	span = len(zeros)
)

// Wipe overwrites b, and what an earlier copy left in the vector registers. KeepAlive keeps the compiler from removing
// the store to memory that is not read again.
func Wipe(b []byte) {
	clear(b)
	runtime.KeepAlive(&b)
	Scrub()
}

// Scrub overwrites what an earlier copy left in the vector registers, by a memmove of 256 bytes, which uses all of
// them. When a signal interrupts a thread, the kernel stores its registers in ordinary memory (sigreturn(2)). So code
// that has copied a secret calls Scrub immediately, before it may block. It is nosplit so that no other goroutine can
// run on the thread in between, and not inlined, since the 256 bytes would enlarge its callers' stack frames while they
// block.
//
//go:nosplit
//go:noinline
func Scrub() {
	var sink [256]byte
	copy(sink[:span], zeros[:span])
	runtime.KeepAlive(&sink)
}
