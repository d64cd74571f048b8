package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Credentials, no-new-privs, filters and Landlock's domain belong to a thread, not to the process (credentials(7),
// seccomp(2)). A thread that was missed would keep every privilege and share its memory with the others. So each thread
// is changed and checked.

var errCgo = errors.New("this binary is linked with cgo; build it with CGO_ENABLED=0")

const thisThread, allThreads = false, true

// call makes a system call, whose arguments from the fourth on are 0, on this thread or on all of them. On all threads
// it works by signals, is not available in a binary with cgo, and every thread must return the same result: the runtime
// aborts otherwise (syscall.AllThreadsSyscall). If it fails on the first thread, it is not made on the others.
//
// The directive keeps the objects alive whose addresses are among the arguments: an integer does not (unsafe.Pointer,
// rule 4), and a stack may move.
//
//go:uintptrescapes
func call(name string, all bool, trap, a1, a2, a3 uintptr) (uintptr, error) {
	syscalls := syscall.Syscall
	if all {
		syscalls = syscall.AllThreadsSyscall
	}
	got, _, errno := syscalls(trap, a1, a2, a3)
	switch {
	case errno == 0:
		return got, nil
	case all && errno == syscall.ENOTSUP:
		return 0, fmt.Errorf("%s: %w", name, errCgo)
	}
	return 0, fmt.Errorf("%s: %w", name, errno)
}

// threads are the open status files of this process's threads; they stay readable under Landlock, which checks only the
// opening. A thread that starts later inherits everything that is checked here from one of these (clone(2)).
type threads struct {
	files   []*os.File
	filters int   // seccomp filters of each thread at the start; -1 if the kernel does not count them (before Linux 5.9)
	blind   error // why no status could be read at the start
}

// openThreads opens the status files in dir, usually /proc/self/task: /proc/PID/status describes the first thread
// alone.
func openThreads(dir string) *threads {
	t := &threads{}
	// Glob fails only for a malformed pattern; read reports an empty list. /proc may be missing in a chroot.
	names, _ := filepath.Glob(dir + "/*/status")
	for _, name := range names {
		if f, err := os.Open(name); err == nil { // else the thread has ended
			t.files = append(t.files, f)
		}
	}
	all, err := t.read()
	if err != nil {
		t.blind = err
		return t
	}
	// The filters of a container were installed before execve(2), so all threads have the same number.
	if t.filters, err = strconv.Atoi(all[0]["Seccomp_filters"]); err != nil {
		t.filters = -1
	}
	return t
}

func (t *threads) close() {
	for _, f := range t.files {
		f.Close()
	}
}

// status is a /proc/PID/task/TID/status (proc_pid_status(5)): values by name, with single spaces.
type status map[string]string

// read returns the status of every thread that has not ended, of at least one: a check of none would succeed.
func (t *threads) read() (all []status, err error) {
	if t.blind != nil {
		return nil, t.blind
	}
	for _, f := range t.files {
		st, err := readStatus(f)
		if errors.Is(err, unix.ESRCH) {
			continue // the thread has ended
		}
		if err != nil {
			return nil, err
		}
		all = append(all, st)
	}
	if len(all) == 0 {
		return nil, errors.New("no thread has a status in /proc")
	}
	return all, nil
}

// readStatus returns the thread's status at the time of the call: a read from offset 0 makes the kernel generate the
// text again. A text longer than the buffer, by thousands of groups, is cut; a value that is missing then fails its
// check.
func readStatus(f *os.File) (status, error) {
	buf := make([]byte, 16<<10)
	n, err := f.ReadAt(buf, 0)
	if n == 0 {
		return nil, err
	}
	st := status{}
	for line := range strings.Lines(string(buf[:n])) {
		name, value, _ := strings.Cut(line, ":")
		st[name] = strings.Join(strings.Fields(value), " ")
	}
	return st, nil
}

// check returns an error if a thread's status has another value under one of these names, or cannot be read.
func (t *threads) check(value string, names ...string) error {
	all, err := t.read()
	if err != nil {
		return fmt.Errorf("cannot read it back: %w", err)
	}
	for _, st := range all {
		for _, name := range names {
			if st[name] != value {
				return fmt.Errorf("thread %s has %s %s", st["Pid"], name, st[name])
			}
		}
	}
	return nil
}

// checkIDs checks that all four ids of a kind are id: real, effective, saved and file system (credentials(7)).
func (t *threads) checkIDs(id int, name string) error {
	return t.check(fmt.Sprintf("%d %[1]d %[1]d %[1]d", id), name)
}

// checkNoCaps checks that the sets of capabilities are empty, the bounding set only if it was not kept. Each is shown
// as 64 bits in hexadecimal (proc_pid_status(5); CapAmb since Linux 4.3).
func (t *threads) checkNoCaps(boundingKept bool) error {
	sets := []string{"CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"}
	if boundingKept {
		sets = sets[:4]
	}
	return t.check("0000000000000000", sets...)
}

// checkFilter checks that every thread has exactly one filter more than at the start. The mode alone proves nothing: a
// filter that a container installed also makes it 2, SECCOMP_MODE_FILTER. More than one filter more would mean that one
// came from elsewhere.
func (t *threads) checkFilter() error {
	const modeFilter = "2"
	if err := t.check(modeFilter, "Seccomp"); err != nil || t.filters < 0 {
		return err
	}
	return t.check(strconv.Itoa(t.filters+1), "Seccomp_filters")
}
