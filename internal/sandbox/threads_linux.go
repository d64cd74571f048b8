package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// threads are the status files of this process's threads, opened while files
// can be opened. Threads that start later inherit all of it from these.
type threads struct {
	status  []*os.File
	filters int   // seccomp filters at first
	blind   error // why nothing can be read back
}

func openThreads() *threads {
	t := &threads{}
	if err := t.open("/proc/self/task"); err != nil {
		t.blind = fmt.Errorf("cannot be read back: %w", err)
	}
	return t
}

func (t *threads) open(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		f, err := os.Open(dir + "/" + e.Name() + "/status")
		if err == nil { // or the thread has ended
			t.status = append(t.status, f)
		}
	}
	if len(t.status) == 0 {
		return errors.New("no thread can be looked at")
	}
	first, err := readStatus(t.status[0])
	t.filters = first.filters()
	return err
}

func (t *threads) close() {
	for _, f := range t.status {
		f.Close()
	}
}

// seen tells what is not as it should be, of the first thread of which that is so.
type seen struct{ user, caps, noNewPrivs, seccomp error }

// look reads back what the kernel says of every thread.
func (t *threads) look(who identity, boundingKept bool) (s seen) {
	if t.blind != nil {
		return seen{t.blind, t.blind, t.blind, t.blind}
	}
	for _, f := range t.status {
		st, err := readStatus(f)
		if err != nil {
			continue // the thread has ended
		}
		s.user = cmp.Or(s.user, st.want("Uid", ids(who.uid)), st.want("Gid", ids(who.gid)))
		s.noNewPrivs = cmp.Or(s.noNewPrivs, st.want("NoNewPrivs", "1"))
		s.caps = cmp.Or(s.caps, st.wantNone("CapInh", "CapPrm", "CapEff", "CapAmb"))
		if !boundingKept {
			s.caps = cmp.Or(s.caps, st.wantNone("CapBnd"))
		}
		s.seccomp = cmp.Or(s.seccomp, st.wantFilter(t.filters))
	}
	return s
}

func ids(id int) string {
	s := strconv.Itoa(id)
	return strings.Join([]string{s, s, s, s}, " ")
}

// status is /proc/PID/task/TID/status (proc_pid_status(5)).
type status map[string]string

func readStatus(f *os.File) (status, error) {
	buf := make([]byte, 16<<10)
	n, err := f.ReadAt(buf, 0) // made anew for every read from the start
	if n == 0 {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	st := status{}
	for line := range strings.Lines(string(buf[:n])) {
		name, value, _ := strings.Cut(line, ":")
		st[name] = strings.Join(strings.Fields(value), " ")
	}
	return st, nil
}

func (st status) want(name, value string) error {
	if st[name] != value {
		return fmt.Errorf("thread %s has %s %s", st["Pid"], name, st[name])
	}
	return nil
}

// wantNone wants sets of capabilities to be empty.
func (st status) wantNone(sets ...string) error {
	for _, name := range sets {
		if err := st.want(name, "0000000000000000"); err != nil {
			return err
		}
	}
	return nil
}

// filters is 0 where the kernel does not count them.
func (st status) filters() int {
	n, _ := strconv.Atoi(st["Seccomp_filters"])
	return n
}

// wantFilter wants one filter more than there were: a container's own makes
// the mode 2 as well.
func (st status) wantFilter(before int) error {
	if err := st.want("Seccomp", "2"); err != nil {
		return err
	}
	if _, counted := st["Seccomp_filters"]; counted && st.filters() != before+1 {
		return fmt.Errorf("thread %s has %d filters, not %d", st["Pid"], st.filters(), before+1)
	}
	return nil
}
