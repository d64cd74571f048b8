package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"

	"golang.org/x/sys/unix"
)

// protect first makes the process undumpable and then checks for a tracer, so that none can attach after the check. It
// goes on after an error, so that as much as possible is in force when the caller reports the errors.
func protect() (Report, error) {
	before, err := noDump()
	window, noCaps := startWindow(before)
	// Enforce does it again, reports errors and reads it back. But the calls, 41 on every thread, are faster here, where
	// the process has few threads.
	dropBounding()
	state := "closed"
	if window != nil {
		state = "open"
	}
	// The Go runtime preempts goroutines by SIGURG. The kernel saves the vector registers, which may hold part of a key
	// during a copy, on the handler's stack, which lies in the heap (signal(7), sigaltstack(2)). Ignoring SIGURG
	// prevents that; a loop without function calls can then delay the garbage collector, so there must be none.
	signal.Ignore(unix.SIGURG)
	err = errors.Join(err, noCaps, checkStart())
	// SIGSTKFLT, which only Linux has, is another signal for which the runtime prints all stacks
	// (runtime/sigtab_linux_generic.go).
	core, errCore := noCrashOutput(unix.SIGSTKFLT)
	return Report{{"dumpable", "no", nil}, core, {"start-window", state, window}}, errors.Join(err, errCore)
}

// suidDumpUser is the kernel's SUID_DUMP_USER: processes of the same user may attach. The other values of
// PR_GET_DUMPABLE, 0 and 2, both refuse them.
const suidDumpUser = 1

// noDump makes /proc/PID/{mem,maps,environ,fd}, ptrace(2) and process_vm_readv(2) refuse every process without
// CAP_SYS_PTRACE, those of the same user included (prctl(2), PR_SET_DUMPABLE; ptrace(2), "Ptrace access mode
// checking"), and reads the attribute back. The files of /proc/PID then belong to root (proc(5)), and no signal makes
// the kernel write a core file. noDump returns the attribute's previous value. It must be called again after every
// change of credentials, for which the kernel resets it to fs.suid_dumpable (proc_sys_fs(5)).
//
// The check is made at the time of access, so that it does not close what another process has opened before; see
// startWindow.
func noDump() (before int, err error) {
	before, errBefore := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return before, fmt.Errorf("prctl(PR_SET_DUMPABLE, 0): %w", err)
	}
	after, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err := cmp.Or(errBefore, err); err != nil {
		return before, fmt.Errorf("prctl(PR_GET_DUMPABLE): %w", err)
	}
	if after != 0 {
		return before, fmt.Errorf("PR_SET_DUMPABLE had no effect: it is still %d", after)
	}
	return before, nil
}

var errWindow = errors.New("the program's file could be read when it was started, so that until then a process of the same " +
	"user could attach; make the file root's, with mode 0711, and where setpriv is used, start it from a shell")

// startWindow returns why a process of the same user could have attached to this one between execve(2) and now; nil if
// none could. dumpable is the attribute at the start. A descriptor of /proc/PID/mem that was opened in that window
// stays valid for the life of the process.
//
// The kernel makes a process dumpable at execve(2) if its user may read the file (or if setpriv(1) leaves it
// capabilities until then, which override the file's mode). Any process of its user can then write to it through
// /proc/PID/mem. Yama does not prevent this: it refuses attaching, but not perf_event_open(2), whose events include
// registers and also last for the life of the process.
//
// root keeps its capabilities at execve(2): only a process that has them too may attach, and that process could attach
// at any time. A container's root may have none of them, and then is treated like any other user.
func startWindow(dumpable int) (window, err error) {
	if dumpable != suidDumpUser {
		return nil, nil
	}
	sets, err := capabilities()
	if err != nil || os.Geteuid() == 0 && sets[0].Permitted|sets[1].Permitted != 0 {
		return nil, err
	}
	return errWindow, nil
}

// checkStart returns an error if a thread of this process is traced, if SIGURG is not ignored, or if neither can be
// determined. Each thread has a tracer of its own (ptrace(2)). A tracer from before PR_SET_DUMPABLE stays attached, and
// can read the registers with which the key is copied. checkStart does not find tracers that falsify system calls, nor
// any outside this PID namespace, whose ids are shown as 0.
func checkStart() error {
	t := openThreads("/proc/self/task")
	defer t.close()
	now := t.read()
	if now.err != nil {
		err := fmt.Errorf("cannot determine whether the process is traced: %w", now.err)
		if errors.Is(err, unix.EMFILE) { // withHint says what to do
			return err
		}
		return fmt.Errorf("%w; mount /proc", err)
	}
	for _, st := range now.all {
		ignored, err := strconv.ParseUint(st.value("SigIgn"), 16, 64)
		switch tracer := st.value("TracerPid"); {
		case tracer == "":
			return fmt.Errorf("cannot determine whether the process is traced: thread %s has no TracerPid", st.value("Pid"))
		case tracer != "0":
			return fmt.Errorf("process or thread %s traces this process and can read its memory; start it without a debugger", tracer)
		case err != nil || ignored&(1<<(unix.SIGURG-1)) == 0:
			return errors.New("ignoring SIGURG had no effect")
		}
	}
	return nil
}
