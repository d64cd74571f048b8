package escape

import (
	"io"

	"golang.org/x/sys/unix"
)

const instruction = 2 // bytes of SYSCALL

// oldProcessCalls and oldCalls are attempts by system calls that later architectures do not have.
var oldProcessCalls = []attempt{
	try("fork", seccomp, nil, unix.SYS_FORK),
	try("vfork", seccomp, nil, unix.SYS_VFORK),
}

func oldCalls(readable string) []attempt {
	return []attempt{
		try("open to write", seccomp, path(readable+".new"), unix.SYS_OPEN, here, unix.O_WRONLY|unix.O_CREAT, 0o600),
		try("open to read", seccomp, path(readable), unix.SYS_OPEN, here, unix.O_RDONLY),
		try("chmod", seccomp, path(readable), unix.SYS_CHMOD, here, 0o777),
		try("unlink", seccomp, path(readable), unix.SYS_UNLINK, here),
		try("x32's getpid", seccomp, nil, 0x40000000|unix.SYS_GETPID),
	}
}

// gate returns the address of the instruction with which a stopped thread has made its system call.
func gate(mem io.ReaderAt, r unix.PtraceRegs, _ uint64) (uint64, error) {
	var code [instruction]byte
	if _, err := mem.ReadAt(code[:], int64(r.Rip-instruction)); err != nil || code != [...]byte{0x0f, 0x05} {
		return 0, errElsewhere
	}
	return r.Rip - instruction, nil
}

func stack(r unix.PtraceRegs) uint64 { return r.Rsp }

func result(r unix.PtraceRegs) int64 { return int64(r.Rax) }

// registers are those with which the call is made.
func (c call) registers(r unix.PtraceRegs, gate, place uint64) unix.PtraceRegs {
	r.Rip = gate
	r.Orig_rax = ^uint64(0) // no call to be continued
	r.Rax = c.nr
	for i, to := range []*uint64{&r.Rdi, &r.Rsi, &r.Rdx, &r.R10, &r.R8, &r.R9} {
		*to = c.resolved(place)[i]
	}
	return r
}
