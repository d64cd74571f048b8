//go:build unix

package proctest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Reports receives the errors that a log reports.
type Reports chan error

// NewReports returns a channel with space for 100 reports.
func NewReports() Reports { return make(Reports, 100) }

// Report is the log's Report function.
func (r Reports) Report(err error) { r <- err }

// Want waits for the next report and checks that it contains text.
func (r Reports) Want(t testing.TB, text string) {
	t.Helper()
	select {
	case err := <-r:
		if !strings.Contains(err.Error(), text) {
			t.Fatalf("reported: %v, want %q", err, text)
		}
	case <-time.After(lineTimeout):
		t.Fatalf("not reported: %s", text)
	}
}

// Silent fails the test if anything else was reported.
func (r Reports) Silent(t testing.TB) {
	t.Helper()
	select {
	case err := <-r:
		t.Errorf("reported: %v", err)
	default:
	}
}

// Eventually fails the test unless ok, described by what, becomes true within half a minute.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	late := time.After(lineTimeout)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("it never came true that %s", what)
		}
	}
}

// LineNumber returns the number in the request_id of a line of JSON, or false if the line is incomplete.
func LineNumber(line []byte) (int, bool) {
	var e struct {
		ID string `json:"request_id"`
	}
	if json.Unmarshal(line, &e) != nil {
		return 0, false
	}
	n, err := strconv.Atoi(e.ID)
	return n, err == nil
}

// Lines reads files and returns how often each number occurs in a whole line, and the number of incomplete lines.
func Lines(t testing.TB, paths ...string) (seen map[int]int, broken int) {
	t.Helper()
	seen = map[int]int{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			if n, ok := LineNumber(line); ok && line[len(line)-1] == '\n' {
				seen[n]++
			} else {
				broken++
			}
		}
	}
	return seen, broken
}

// CheckLines checks that the files contain the lines 0 to n-1, each once and whole.
func CheckLines(t testing.TB, n, wantBroken int, paths ...string) {
	t.Helper()
	seen, broken := Lines(t, paths...)
	for i := range n {
		if seen[i] != 1 {
			t.Errorf("line %d is there %d times", i, seen[i])
			break
		}
	}
	if len(seen) != n || broken != wantBroken {
		t.Errorf("%d lines, want %d; %d broken, want %d", len(seen), n, broken, wantBroken)
	}
}

// Pipe returns a pipe whose writing end blocks, as standard output's may.
func Pipe(t testing.TB) (reader, writer *os.File) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe(fds[:]); err != nil {
		t.Fatal(err)
	}
	reader, writer = os.NewFile(uintptr(fds[0]), "reader"), os.NewFile(uintptr(fds[1]), "writer")
	t.Cleanup(func() { reader.Close() })
	return reader, writer
}

// AgainVar is the environment variable that AgainDir returns.
const AgainVar = "PROCTEST_AGAIN"

// Again runs the test once more in a child of the given binary, which does in dir what would affect the test process or
// cannot be undone.
func Again(t testing.TB, binary, dir string, attr *syscall.SysProcAttr) {
	t.Helper()
	cmd := exec.Command(binary, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=2m")
	cmd.Env, cmd.SysProcAttr = append(os.Environ(), AgainVar+"="+dir), attr
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, fs.ErrPermission): // a container, or a user, that may not have such a child
		Cannot(t, "the child does not start: "+err.Error())
	case err != nil:
		t.Fatalf("in the child: %v\n%s", err, out)
	case bytes.Contains(out, []byte("--- SKIP")):
		Cannot(t, string(out))
	case !bytes.Contains(out, []byte("--- PASS: "+t.Name())):
		t.Fatalf("the child did not run the test:\n%s", out)
	}
}

// AgainDir returns the directory of Again in the child, and "" elsewhere.
func AgainDir() string { return os.Getenv(AgainVar) }
