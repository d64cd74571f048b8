package secret

import (
	"context"
	"slices"
)

const (
	// SlotSize is the size of a Slot's memory in bytes: half of the longest plaintext of a TLS record (RFC 8446,
	// section 5.1). Locked memory is scarce: before Linux 5.16 RLIMIT_MEMLOCK is 64 KiB by default.
	SlotSize = 8192
	// maxSlots limits the locked memory. A slot is in use for microseconds, so more slots would not serve more
	// requests.
	maxSlots = 4
)

// Slot is a region of secret memory in which one message with the key is assembled and sealed, since a record is sealed
// in place. Its owner alone uses it, from Key.Slot to Release. Bytes returns SlotSize bytes, zero when the slot is
// acquired; they must not be used after Release. It prints as [redacted].
type Slot struct {
	secretBytes
	free chan *Slot // Release returns the slot to it
}

// cutSlots cuts memory into slots, at most maxSlots, and returns them as a channel that serves as the list of the free
// ones.
func cutSlots(memory []byte) chan *Slot {
	n := min(len(memory)/SlotSize, maxSlots)
	slots := make(chan *Slot, n)
	for b := range slices.Chunk(memory[:n*SlotSize], SlotSize) {
		slots <- &Slot{hide(b), slots}
	}
	return slots
}

// Slot acquires a slot. It blocks until one is free or ctx is done. The caller must call Release.
func (k *Key) Slot(ctx context.Context) (*Slot, error) {
	select {
	case s := <-k.slots:
		return s, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Release wipes the first used bytes, which must include everything that was written, and the vector registers, and
// makes the slot available again. It does not block, since the channel has room for every slot. A slot is wiped now and
// not when it is acquired, so that between two requests no plaintext with the key lies in memory.
func (s *Slot) Release(used int) {
	Wipe(s.Bytes()[:max(used, len(zeros))])
	s.free <- s
}
