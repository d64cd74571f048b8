package secret

import (
	"context"
	"fmt"
	"io"
)

const (
	// SlotSize is the size of a Slot's buffer in bytes.
	SlotSize = 8192
	// maxSlots bounds the locked memory; a slot is taken for microseconds, so
	// that more would not serve more requests.
	maxSlots = 4
)

// Slot is a piece of secret memory in which one message that holds the key is
// put together. It prints as [redacted].
type Slot struct {
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

// Bytes is the slot's memory, SlotSize long and zero when taken. It must not be
// used after Release.
func (s *Slot) Bytes() []byte { return s.buf.slice() }

// Release wipes the first used bytes, which must be all that was written to,
// and the vector registers, and gives the slot back.
func (s *Slot) Release(used int) {
	wipe(s.buf.slice()[:max(used, len(zeros))])
	s.home <- s
}

// Format prints [redacted] whatever the verb.
func (s Slot) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }
