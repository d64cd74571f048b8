package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
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
	files []*os.File
	err   error // why not all could be opened
}

// openThreads opens the status files in dir, usually /proc/self/task: /proc/PID/status describes the first thread
// alone. The caller closes them.
func openThreads(dir string) (t threads) {
	var tids []os.DirEntry
	tids, t.err = os.ReadDir(dir) // /proc may be missing in a chroot
	for _, tid := range tids {
		switch f, err := os.Open(filepath.Join(dir, tid.Name(), "status")); {
		case err == nil:
			t.files = append(t.files, f)
		case !errors.Is(err, fs.ErrNotExist): // else the thread has ended
			t.err = err
		}
	}
	return t
}

func (t threads) close() {
	for _, f := range t.files {
		f.Close()
	}
}

// statuses are those of all threads at one time, of at least one: a check of none would succeed.
type statuses struct {
	all []status
	err error // why they could not be read
}

// read returns the status of every thread that has not ended.
func (t threads) read() statuses {
	s := statuses{err: t.err}
	for _, f := range t.files {
		st, err := readStatus(f)
		if errors.Is(err, unix.ESRCH) {
			continue // the thread has ended
		}
		if err != nil {
			return statuses{err: err}
		}
		s.all = append(s.all, st)
	}
	if len(s.all) == 0 && s.err == nil {
		s.err = errors.New("no thread has a status in /proc")
	}
	return s
}

// status is a /proc/PID/task/TID/status (proc_pid_status(5)), after a line feed.
type status string

// readStatus returns the thread's status at the time of the call: a read from offset 0 makes the kernel generate the
// text again. A text longer than the buffer, by thousands of groups, is cut; a value that is missing then fails its
// check.
func readStatus(f *os.File) (status, error) {
	buf := make([]byte, 16<<10)
	n, err := f.ReadAt(buf, 0)
	if n == 0 {
		return "", err
	}
	return "\n" + status(buf[:n]), nil
}

// value returns the value of that name, with single spaces; "" if there is none.
func (s status) value(name string) string {
	_, rest, _ := strings.Cut(string(s), "\n"+name+":")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.Join(strings.Fields(line), " ")
}

// check returns an error if a thread has another value under one of these names, or if no status could be read.
func (s statuses) check(value string, names ...string) error {
	if s.err != nil {
		return fmt.Errorf("cannot read it back: %w", s.err)
	}
	for _, st := range s.all {
		for _, name := range names {
			if got := st.value(name); got != value {
				return fmt.Errorf("thread %s has %s %s", st.value("Pid"), name, got)
			}
		}
	}
	return nil
}

// checkIDs checks that all four ids of a kind are id: real, effective, saved and file system (credentials(7)).
func (s statuses) checkIDs(id int, name string) error {
	return s.check(fmt.Sprintf("%d %[1]d %[1]d %[1]d", id), name)
}

// checkNoCaps checks that the sets of capabilities are empty, the bounding set only if it was not kept. Each is shown
// as 64 bits in hexadecimal (proc_pid_status(5); CapAmb since Linux 4.3).
func (s statuses) checkNoCaps(boundingKept bool) error {
	sets := []string{"CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"}
	if boundingKept {
		sets = sets[:4]
	}
	return s.check("0000000000000000", sets...)
}

// checkFilter checks that every thread has exactly one filter more than at the start. The mode alone proves nothing: a
// filter that a container installed also makes it 2, SECCOMP_MODE_FILTER. More than one filter more would mean that one
// came from elsewhere. Filters of a container were installed before execve(2), so that all threads have as many. Linux
// 5.9 and later count them.
func (s statuses) checkFilter(start statuses) error {
	const modeFilter = "2"
	if err := cmp.Or(start.err, s.check(modeFilter, "Seccomp")); err != nil {
		return err
	}
	count := start.all[0].value("Seccomp_filters")
	if count == "" {
		return nil
	}
	filters, err := strconv.Atoi(count)
	return cmp.Or(err, s.check(strconv.Itoa(filters+1), "Seccomp_filters"))
}
