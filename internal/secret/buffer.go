package secret

import (
	"fmt"
	"io"
	"os"
)

// Buffer is secret memory for what is only passing through, such as a message
// that holds a token. It prints as [redacted].
type Buffer struct{ r *region }

// NewBuffer maps at least size bytes, which are zero.
func NewBuffer(policy Policy, size int) (*Buffer, error) {
	r, err := newRegion(policy, roundUp(size, os.Getpagesize()))
	if err != nil {
		return nil, err
	}
	return &Buffer{r}, nil
}

// Bytes is all of the memory. Whoever uses it must know that nobody else does.
func (b *Buffer) Bytes() []byte { return b.r.slice() }

// Wipe overwrites all of it, and the vector registers.
func (b *Buffer) Wipe() { wipe(b.r.slice()) }

// Memory tells what the buffer is made of, and if that is not MemfdSecret, why.
func (b *Buffer) Memory() (Kind, error) { return b.r.kind, b.r.why }

// Format prints [redacted] whatever the verb.
func (b Buffer) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// Wipe overwrites b, and the vector registers, through which what b held may
// have come.
func Wipe(b []byte) { wipe(b) }
