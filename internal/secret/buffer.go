package secret

import (
	"context"
	"os"
)

const (
	// SlotSize is the size of a Slot's buffer in bytes.
	SlotSize = 8192
	// maxSlots bounds the locked memory; a slot is taken for microseconds, so that more would not serve more requests.
	maxSlots = 4
)

// Slot is a piece of secret memory in which one message that holds the key is put together. It prints as [redacted].
type Slot struct {
	unprintable
	buf  secretBytes
	home chan *Slot
}

func cutSlots(memory []byte) chan *Slot {
	n := min(len(memory)/SlotSize, maxSlots)
	slots := make(chan *Slot, n)
	for i := range n {
		slots <- &Slot{buf: hide(memory[i*SlotSize : (i+1)*SlotSize]), home: slots}
	}
	return slots
}

// Slot waits for a free slot, until ctx is done. The caller must Release it.
func (k *Key) Slot(ctx context.Context) (*Slot, error) {
	select {
	case s := <-k.slots:
		return s, nil
	default:
	}
	select {
	case s := <-k.slots:
		return s, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Bytes is the slot's memory, SlotSize long and zero when taken. It must not be used after Release.
func (s *Slot) Bytes() []byte { return s.buf.slice() }

// Release wipes the first used bytes, which must be all that was written to, and the vector registers, and gives the
// slot back.
func (s *Slot) Release(used int) {
	Wipe(s.buf.slice()[:max(used, len(zeros))])
	s.home <- s
}

// Buffer is secret memory for what is only passing through, such as a message that holds a token. It prints as
// [redacted].
type Buffer struct {
	unprintable
	r *region
}

// NewBuffer maps at least size bytes, which are zero.
func NewBuffer(policy Policy, size int) (*Buffer, error) {
	r, err := newRegion(policy, roundUp(size, os.Getpagesize()))
	if err != nil {
		return nil, err
	}
	return &Buffer{r: r}, nil
}

// Bytes returns all of the memory. The caller must see to it that there is one user at a time.
func (b *Buffer) Bytes() []byte { return b.r.slice() }

// Wipe overwrites all of it, and the vector registers.
func (b *Buffer) Wipe() { Wipe(b.r.slice()) }

// Memory returns what the buffer is made of, and if that is not MemfdSecret, why.
func (b *Buffer) Memory() (Kind, error) { return b.r.kind, b.r.why }
