package harden

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dumpSignals are those that Go answers with stacks and registers.
var dumpSignals = []os.Signal{
	unix.SIGQUIT, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV, unix.SIGSTKFLT, unix.SIGSYS,
}

// lockDown asks how the process was started before it changes that, and whether
// it is traced once nobody can attach any more.
func lockDown() (r Report, err error) {
	r.Window, err = startWindow()
	return r, errors.Join(err, NoDump(), notTraced(), noCore(), noPreemptionSignal())
}

// NoDump makes /proc/PID/{mem,maps,environ,fd}, ptrace and process_vm_readv
// refuse every process without CAP_SYS_PTRACE, those of the same user included
// (prctl(2), PR_SET_DUMPABLE), and reads that back. It must be called again after
// every change of credentials: the kernel then sets fs.suid_dumpable, which may
// be 2.
func NoDump() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_DUMPABLE, 0): %w", err)
	}
	got, err := dumpable()
	if err != nil {
		return err
	}
	if got != 0 {
		return fmt.Errorf("PR_SET_DUMPABLE had no effect: it is still %d", got)
	}
	return nil
}

// noPreemptionSignal turns Go's asynchronous preemption off for this process.
// It works by SIGURG, and its handler saves the vector registers, which may
// hold a piece of a key in the middle of a copy, on a signal stack in the heap.
// The caller must not spin without function calls after this.
func noPreemptionSignal() error {
	signal.Ignore(unix.SIGURG)
	handler, err := signalHandler(unix.SIGURG)
	if err != nil {
		return fmt.Errorf("rt_sigaction(SIGURG): %w", err)
	}
	const sigIgn = 1
	if handler != sigIgn {
		return errors.New("ignoring SIGURG had no effect")
	}
	return nil
}

// signalHandler asks the kernel for a signal's handler (rt_sigaction(2)); the
// structure is the same on amd64 and arm64.
func signalHandler(sig unix.Signal) (uintptr, error) {
	var act struct {
		handler  uintptr
		flags    uint64
		restorer uintptr
		mask     uint64
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), 0,
		uintptr(unsafe.Pointer(&act)), unsafe.Sizeof(act.mask), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return act.handler, nil
}
