package secret

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestLineReturnsTheErrorOfItsUse(t *testing.T) {
	want := errors.New("of the use")
	if err := newKey(t, key16).Line(func([]byte) error { return want }); err != want {
		t.Error(err)
	}
}

// TestLineHasNoRoom: append to the lent line must not write beyond it.
func TestLineHasNoRoom(t *testing.T) {
	newKey(t, key16).Line(func(line []byte) error {
		if cap(line) != len(line) {
			t.Errorf("%d bytes with room for %d", len(line), cap(line))
		}
		return nil
	})
}

func TestWipedKey(t *testing.T) {
	k := newKey(t, key16)
	for range 2 {
		k.Wipe()
		err := k.Line(func([]byte) error { t.Error("a wiped key was lent"); return nil })
		if err != ErrWiped {
			t.Errorf("Line: %v", err)
		}
		if k.Len() != 0 {
			t.Errorf("Len is %d", k.Len())
		}
		if i := firstNonZero(memoryOf(k)); i >= 0 {
			t.Errorf("byte %d is not zero", i)
		}
	}
}

// TestWipeWaitsForLine: Wipe waits for a Line in progress and allows no new one.
func TestWipeWaitsForLine(t *testing.T) {
	k := newKey(t, key16)
	done := make(chan struct{})
	err := k.Line(func(line []byte) error {
		go func() {
			k.Wipe()
			close(done)
		}()
		waitForWriter(t, k)
		select {
		case <-done:
			t.Error("Wipe did not wait")
		default:
		}
		if string(line) != prefix+key16+suffix {
			t.Errorf("the lent line is %q", line)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	<-done
	if i := firstNonZero(memoryOf(k)); i >= 0 {
		t.Errorf("byte %d is not zero", i)
	}
}

// waitForWriter returns when the key is retired, and so no longer lent.
func waitForWriter(t *testing.T, k *Key) {
	t.Helper()
	for end := time.Now().Add(deadline); k.current.Load() != nil; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("Wipe does not begin")
		}
	}
}

func TestLineAndWipeTogether(t *testing.T) {
	k := newKey(t, key16)
	var users sync.WaitGroup
	for range 8 {
		users.Go(func() {
			for {
				err := k.Line(func(line []byte) error {
					if string(line) != prefix+key16+suffix {
						t.Errorf("line %q", line)
					}
					return nil
				})
				if errors.Is(err, ErrWiped) {
					return
				}
			}
		})
	}
	users.Go(k.Wipe)
	users.Go(k.Wipe)
	users.Wait()
}

func takeSlot(t *testing.T, k *Key) *Slot {
	t.Helper()
	s, err := k.Slot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSlotsAreExclusive: slots overlap neither each other nor the key, and lie in the same mapping.
func TestSlotsAreExclusive(t *testing.T) {
	k := newKey(t, key16)
	n := cap(k.slots)
	if n != maxSlots {
		t.Fatalf("%d slots, want %d", n, maxSlots)
	}
	var slots []*Slot
	for i := range n {
		s := takeSlot(t, k)
		if len(s.Bytes()) != SlotSize || cap(s.Bytes()) != SlotSize {
			t.Errorf("slot of %d bytes with room for %d", len(s.Bytes()), cap(s.Bytes()))
		}
		for j := range s.Bytes() {
			s.Bytes()[j] = byte(i + 1)
		}
		slots = append(slots, s)
	}
	for i, s := range slots {
		if bytes.Count(s.Bytes(), []byte{byte(i + 1)}) != SlotSize {
			t.Errorf("slot %d overlaps another", i)
		}
		if off := address(s.Bytes()) - address(memoryOf(k)); off < keySpace || off+SlotSize > uintptr(len(memoryOf(k))) {
			t.Errorf("slot %d lies at %d of %d", i, off, len(memoryOf(k)))
		}
	}
	if got := lineOf(t, k); got != prefix+key16+suffix {
		t.Errorf("the key's line is now %q", got)
	}
	for _, s := range slots {
		s.Release(SlotSize)
	}
	if i := firstNonZero(memoryOf(k)[keySpace:]); i >= 0 {
		t.Errorf("byte %d of the slots is not zero", i)
	}
}

func TestReleaseWipes(t *testing.T) {
	for _, used := range []int{0, 1, 255, 256, 257, SlotSize} {
		k := newKey(t, key16)
		s := takeSlot(t, k)
		for i := range used {
			s.Bytes()[i] = 0xaa
		}
		s.Release(used)
		if i := firstNonZero(memoryOf(k)[keySpace:]); i >= 0 {
			t.Errorf("%d bytes used: byte %d is left", used, i)
		}
	}
}

func TestSlotWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKey(t, key16)
		first := takeSlot(t, k)
		for range cap(k.slots) - 1 {
			takeSlot(t, k)
		}
		got := make(chan *Slot, 1)
		go func() {
			s, err := k.Slot(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- s
		}()
		synctest.Wait()
		if len(got) != 0 {
			t.Fatal("a slot was given out twice")
		}
		first.Bytes()[0] = 1
		first.Release(1)
		if s := <-got; s != first || s.Bytes()[0] != 0 {
			t.Errorf("got %p, want %p, and zero", s, first)
		}
	})
}

// TestSlotHeedsItsContext: Slot returns the cause of a context that ends.
func TestSlotHeedsItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKey(t, key16)
		for range cap(k.slots) {
			takeSlot(t, k)
		}
		why := errors.New("the client is gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() {
			s, err := k.Slot(ctx)
			if s != nil {
				t.Error("a slot beside the error")
			}
			done <- err
		}()
		synctest.Wait()
		if len(done) != 0 {
			t.Fatal("Slot did not wait")
		}
		cancel(why)
		if err := <-done; err != why {
			t.Errorf("%v, want %v", err, why)
		}
		if len(k.slots) != 0 {
			t.Error("a slot was returned although none is free")
		}
	})
}

// TestSlotsConcurrently finds, under -race, two owners of one slot.
func TestSlotsConcurrently(t *testing.T) {
	k := newKey(t, key16)
	var users sync.WaitGroup
	for id := range 16 {
		users.Go(func() {
			for range 50 {
				s, err := k.Slot(context.Background())
				if err != nil {
					t.Error(err)
					return
				}
				b := s.Bytes()
				if firstNonZero(b[:1024]) >= 0 {
					t.Error("a slot that was taken is not zero")
				}
				fillWith(b[:1024], byte(id+1))
				runtime.Gosched()
				if bytes.Count(b[:1024], []byte{byte(id + 1)}) != 1024 {
					t.Error("two owners of one slot")
				}
				s.Release(1024)
			}
		})
	}
	users.Wait()
	if len(k.slots) != cap(k.slots) {
		t.Errorf("%d of %d slots came back", len(k.slots), cap(k.slots))
	}
}

func fillWith(b []byte, c byte) {
	for i := range b {
		b[i] = c
	}
}
