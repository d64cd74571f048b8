package harden

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// suidDumpUser is the kernel's SUID_DUMP_USER: processes of the same user may
// attach. The other values of PR_GET_DUMPABLE, 0 and 2, refuse them alike.
const suidDumpUser = 1

var errWindow = errors.New("the program's file could be read when it was started, so that until then a process of the same " +
	"user could attach; make the file root's, with mode 0711, and where setpriv is used, start it from a shell")

// startWindow returns why a process of the same user could have attached to
// this one between execve and now; nil if none could. It must be called before
// NoDump.
//
// The kernel makes a process dumpable at execve if its user may read the file
// (or setpriv(1) leaves it capabilities until then, which read everything). By
// /proc/PID/mem it can then be written to by any process of its user. Yama is no
// exception: what it refuses is attaching, not perf_event_open(2), whose events
// bring the registers and are good for the life of the process, too.
//
// root keeps its capabilities at execve: the kernel lets attach only who has
// them as well, and so could attach at any time.
func startWindow() (window, err error) {
	got, err := dumpable()
	if err != nil || got != suidDumpUser {
		return nil, err
	}
	if held, err := rootsRights(); err != nil || held {
		return nil, err
	}
	return errWindow, nil
}

func dumpable() (int, error) {
	got, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		return 0, fmt.Errorf("prctl(PR_GET_DUMPABLE): %w", err)
	}
	return got, nil
}

// Dumpable reports whether processes of the same user may attach to this one
// now.
func Dumpable() (bool, error) {
	got, err := dumpable()
	return got == suidDumpUser, err
}

// rootsRights reports whether this process is root and holds capabilities. A
// container's root may have lost all of them, and is a user like any other then.
func rootsRights() (bool, error) {
	var sets [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return false, fmt.Errorf("capget: %w", err)
	}
	return os.Geteuid() == 0 && sets[0].Permitted|sets[1].Permitted != 0, nil
}

// notTraced returns an error if a thread of this process is traced, or if that
// cannot be read. A tracer can make the process believe what it likes: this
// finds those who do not hide, and none outside of this PID namespace.
func notTraced() error {
	const dir = "/proc/self/task"
	threads, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("whether the process is traced cannot be read: %w; mount /proc", err)
	}
	for _, thread := range threads {
		status, err := os.ReadFile(dir + "/" + thread.Name() + "/status")
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(status), "\nTracerPid:\t")
		tracer, _, _ := strings.Cut(rest, "\n")
		switch {
		case tracer == "":
			return fmt.Errorf("whether the process is traced cannot be read: thread %s has no TracerPid (%v)", thread.Name(), err)
		case tracer != "0":
			return fmt.Errorf("process or thread %s traces this one, and can read and change it; start it without a debugger", tracer)
		}
	}
	return nil
}
