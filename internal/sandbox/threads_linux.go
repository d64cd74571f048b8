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
// seccomp(2)). A thread that was missed would have everything that the others have lost, and share their memory. So each
// of them is changed and looked at.

var errCgo = errors.New("this binary is linked with cgo; build it with CGO_ENABLED=0")

const thisThread, allThreads = false, true

// call makes a system call, whose arguments from the fourth on are 0, on this thread or on all of them. Those must agree
// on its result: the runtime ends the process if they do not. On all it works by signals, and not in a binary with cgo.
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

// threads are the status files of this process's threads, opened while files can be opened. A thread that starts later
// inherits from one of these all that is looked at here (clone(2)).
type threads struct {
	files   []*os.File
	filters int   // seccomp filters that each had then; -1 if the kernel does not count them (before Linux 5.9)
	blind   error // why nothing could be read then
}

// openThreads opens the status files in dir, which is /proc/self/task.
func openThreads(dir string) *threads {
	t := &threads{}
	names, _ := filepath.Glob(dir + "/*/status") // none is an error of read's
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

// read returns the status of every thread that has not ended, of one at least.
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

func readStatus(f *os.File) (status, error) {
	buf := make([]byte, 16<<10)
	n, err := f.ReadAt(buf, 0) // the kernel writes it anew for each read from the start
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

// want returns an error if a thread's status has another value under one of these names, or cannot be read.
func (t *threads) want(value string, names ...string) error {
	all, err := t.read()
	if err != nil {
		return fmt.Errorf("cannot be read back: %w", err)
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

// wantIDs wants all four ids of a kind to be id: real, effective, saved and of the file system.
func (t *threads) wantIDs(id int, name string) error {
	return t.want(fmt.Sprintf("%d %[1]d %[1]d %[1]d", id), name)
}

// wantNoCaps wants the sets of capabilities to be empty.
func (t *threads) wantNoCaps(boundingKept bool) error {
	sets := []string{"CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"}
	if boundingKept {
		sets = sets[:4]
	}
	return t.want("0000000000000000", sets...)
}

// wantFilter wants one filter more than there were: one that a container has brought makes the mode 2 as well.
func (t *threads) wantFilter() error {
	const modeFilter = "2"
	if err := t.want(modeFilter, "Seccomp"); err != nil || t.filters < 0 {
		return err
	}
	return t.want(strconv.Itoa(t.filters+1), "Seccomp_filters")
}
