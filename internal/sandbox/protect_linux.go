package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"

	"golang.org/x/sys/unix"
)

// protect looks at whether the process is traced once no other process can attach any more.
func protect() (Report, error) {
	before, err := noDump()
	window, noCaps := startWindow(before)
	state := "closed"
	if window != nil {
		state = "open"
	}
	// Go's asynchronous preemption works by SIGURG. Its handler saves the vector registers, which may hold a piece of a
	// key in the middle of a copy, on a signal stack in the heap. Without it nothing may loop without function calls.
	signal.Ignore(unix.SIGURG)
	err = errors.Join(err, noCaps, checkStart())
	core, errCore := noCrashOutput(unix.SIGSTKFLT)
	return Report{{"dumpable", "no", nil}, core, {"start-window", state, window}}, errors.Join(err, errCore)
}

// suidDumpUser is the kernel's SUID_DUMP_USER: processes of the same user may attach. The other values of
// PR_GET_DUMPABLE, 0 and 2, refuse them alike.
const suidDumpUser = 1

// noDump makes /proc/PID/{mem,maps,environ,fd}, ptrace and process_vm_readv refuse every process without CAP_SYS_PTRACE,
// those of the same user included (prctl(2), PR_SET_DUMPABLE), and reads that back. It returns what the attribute was
// before. It must be called again after every change of credentials, for which the kernel sets it to fs.suid_dumpable.
func noDump() (before int, err error) {
	get := func() int {
		got, getErr := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		if getErr != nil {
			err = fmt.Errorf("prctl(PR_GET_DUMPABLE): %w", getErr)
		}
		return got
	}
	before = get()
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return before, fmt.Errorf("prctl(PR_SET_DUMPABLE, 0): %w", err)
	}
	if got := get(); got != 0 && err == nil {
		err = fmt.Errorf("PR_SET_DUMPABLE had no effect: it is still %d", got)
	}
	return before, err
}

var errWindow = errors.New("the program's file could be read when it was started, so that until then a process of the same " +
	"user could attach; make the file root's, with mode 0711, and where setpriv is used, start it from a shell")

// startWindow returns why a process of the same user could have attached to this one between execve and now; nil if none
// could. dumpable is the attribute as it was at the start. A descriptor that was opened then stays good for the life of
// the process.
//
// The kernel makes a process dumpable at execve if its user may read the file (or setpriv(1) leaves it capabilities
// until then, which read everything). By /proc/PID/mem it can then be written to by any process of its user. Yama is no
// exception: what it refuses is attaching, not perf_event_open(2), whose events bring the registers and are good for
// the life of the process, too.
//
// root keeps its capabilities at execve: the kernel lets attach only who has them as well, and so could attach at any
// time. A container's root may have lost all of them, and is a user like any other then.
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

// checkStart returns an error if a thread of this process is traced, if SIGURG is not ignored, or if that cannot be read. A
// tracer can feign anything: this finds tracers that do not hide, and none outside of this PID namespace.
func checkStart() error {
	t := openThreads("/proc/self/task")
	defer t.close()
	all, err := t.read()
	if err != nil {
		return fmt.Errorf("whether the process is traced cannot be read: %w; mount /proc", err)
	}
	for _, st := range all {
		ignored, err := strconv.ParseUint(st["SigIgn"], 16, 64)
		switch tracer := st["TracerPid"]; {
		case tracer == "":
			return fmt.Errorf("whether the process is traced cannot be read: thread %s has no TracerPid", st["Pid"])
		case tracer != "0":
			return fmt.Errorf("process or thread %s traces this one, and can read and change it; start it without a debugger", tracer)
		case err != nil || ignored&(1<<(unix.SIGURG-1)) == 0:
			return errors.New("ignoring SIGURG had no effect")
		}
	}
	return nil
}
