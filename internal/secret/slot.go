package secret

import (
	"context"
	"slices"
)

const (
	// SlotSize is the size of a Slot's memory in bytes.
	SlotSize = 8192
	// maxSlots bounds the locked memory; a slot is taken for microseconds, so that more would not serve more requests.
	maxSlots = 4
)

// Slot is a piece of secret memory in which one message that holds the key is put together. Its Bytes are SlotSize
// long, and zero when it is taken; they must not be used after Release. It prints as [redacted].
type Slot struct {
	secretBytes
	free chan *Slot // where it goes on Release
}

func cutSlots(memory []byte) chan *Slot {
	n := min(len(memory)/SlotSize, maxSlots)
	slots := make(chan *Slot, n)
	for b := range slices.Chunk(memory[:n*SlotSize], SlotSize) {
		slots <- &Slot{hide(b), slots}
	}
	return slots
}

// Slot waits for a free slot, until ctx is done. The caller must Release it.
func (k *Key) Slot(ctx context.Context) (*Slot, error) {
	select {
	case s := <-k.slots:
		return s, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Release wipes the first used bytes, which must be all that was written to, and the vector registers, and gives the
// slot back.
func (s *Slot) Release(used int) {
	Wipe(s.Bytes()[:max(used, len(zeros))])
	s.free <- s
}
