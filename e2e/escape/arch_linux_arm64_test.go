package escape

import (
	"bytes"
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

const instruction = 4 // bytes of SVC

var svc = []byte{0x01, 0x00, 0x00, 0xd4} // SVC #0

// This architecture has none of the older system calls.
var oldProcessCalls []attempt

func oldCalls(string) []attempt { return nil }

// gate returns the address of an SVC other than the one with which a stopped thread has made its system call: where the
// kernel continues a call (do_signal in arch/arm64/kernel/signal.c), it would change the registers if the thread were to
// go on there.
func gate(mem io.ReaderAt, r unix.PtraceRegs, last uint64) (uint64, error) {
	was, ok := interrupted(mem, r)
	if !ok {
		return 0, errElsewhere
	}
	if last != 0 && last != was {
		return last, nil
	}
	// The runtime's functions that make system calls lie together.
	const around, page = 1 << 20, 4096
	code := make([]byte, page)
	for start := (was &^ (page - 1)) - min(around, was&^(page-1)); start < was+around; start += page {
		if _, err := mem.ReadAt(code, int64(start)); err != nil {
			continue // not mapped
		}
		for at := 0; at < page; at += instruction {
			if bytes.Equal(code[at:at+instruction], svc) && start+uint64(at) != was {
				return start + uint64(at), nil
			}
		}
	}
	return 0, errors.New("there is no other SVC near the one that was used")
}

// interrupted returns the address of the SVC of the system call in which a thread was stopped. It is the next
// instruction if the kernel makes the call again, and the last one otherwise.
func interrupted(mem io.ReaderAt, r unix.PtraceRegs) (uint64, bool) {
	for _, at := range []uint64{r.Pc, r.Pc - instruction} {
		var code [instruction]byte
		if _, err := mem.ReadAt(code[:], int64(at)); err == nil && bytes.Equal(code[:], svc) {
			return at, true
		}
	}
	return 0, false
}

func stack(r unix.PtraceRegs) uint64 { return r.Sp }

func result(r unix.PtraceRegs) int64 { return int64(r.Regs[0]) }

// registers are those with which the call is made.
func (c call) registers(r unix.PtraceRegs, gate, place uint64) unix.PtraceRegs {
	args := c.resolved(place)
	copy(r.Regs[:], args[:])
	r.Regs[8] = c.nr
	r.Pc = gate
	return r
}
