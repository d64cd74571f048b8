//go:build unix

package linelog

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// TestRedirect: lines before the call are written to the old target, and later ones to the new one.
func TestRedirect(t *testing.T) {
	path, next, r := filepath.Join(t.TempDir(), "audit"), filepath.Join(t.TempDir(), "next"), proctest.NewReports()
	l := mustOpen(t, path, r)
	to, err := File(next, -1)
	if err != nil {
		t.Fatal(err)
	}
	write(l, 0, 100)
	l.Redirect(to)
	write(l, 100, 200)
	if err := os.Rename(next, next+".1"); err != nil {
		t.Fatal(err)
	}
	l.Reopen()
	proctest.Eventually(t, "there is a new file", func() bool { _, err := os.Stat(next); return err == nil })
	write(l, 200, 210)
	l.Close()
	proctest.CheckLines(t, 100, 0, path)
	proctest.CheckLines(t, 210, 0, path, next, next+".1")
	r.Silent(t)
}

// TestRedirectFromStuckTarget: a blocked target costs the lines that it has taken, and none after them.
func TestRedirectFromStuckTarget(t *testing.T) {
	const n = 1000 // more than a pipe's capacity
	reader, stuck := proctest.Pipe(t)
	path, r := filepath.Join(t.TempDir(), "audit"), proctest.NewReports()
	l := open(t, &Target{file: stuck}, r.Report)
	write(l, 0, n)
	proctest.Eventually(t, "the pipe is full", func() bool { n := unwritten(l); return 0 < n && n < 900 })
	old := l.w
	to, err := File(path, -1)
	if err != nil {
		t.Fatal(err)
	}
	l.Redirect(to)
	r.Want(t, "the audit is written again; ")
	late := taken(l, old)
	if lost := l.Lost.Load(); lost == 0 || int(lost) != late {
		t.Errorf("%d lines are lost, of %d taken", lost, late)
	}
	write(l, n, n+10)
	arrived := arrive(t, reader) // the old writer continues, and ends
	l.Close()
	seen, broken := proctest.Lines(t, path)
	checkSum(t, l, arrived-late+len(seen), n+10)
	if broken != 0 {
		t.Errorf("%d broken lines", broken)
	}
	for i := n; i < n+10; i++ {
		if seen[i] != 1 {
			t.Errorf("line %d is there %d times", i, seen[i])
		}
	}
	r.Silent(t)
}

// TestReopenBeforeRedirect: a rotation while the log still has its old target renames the file of the next one.
func TestReopenBeforeRedirect(t *testing.T) {
	reader, writer := proctest.Pipe(t)
	next, r := filepath.Join(t.TempDir(), "next"), proctest.NewReports()
	l := open(t, &Target{file: writer}, r.Report)
	to, err := File(next, -1)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, next+".1"); err != nil {
		t.Fatal(err)
	}
	l.Reopen()
	write(l, 0, 1)
	if _, err := bufio.NewReader(reader).ReadBytes('\n'); err != nil { // so that Reopen is done, too
		t.Fatal(err)
	}
	l.Redirect(to)
	write(l, 0, 10)
	l.Close()
	proctest.CheckLines(t, 10, 0, next)
	proctest.CheckLines(t, 0, 0, next+".1")
	r.Silent(t)
}

// TestReportsIntoItself: a log that reports to itself contains the report of dropped lines, and does not loop.
func TestReportsIntoItself(t *testing.T) {
	reader, writer := proctest.Pipe(t)
	var l *Log
	l = open(t, &Target{file: writer}, func(err error) { l.Write([]byte(err.Error() + "\n")) })
	write(l, 0, 10_000)
	proctest.Eventually(t, "lines are lost", func() bool { return l.Lost.Load() > 0 })
	text, recovered := make(chan []byte), make(chan struct{})
	go func() {
		var all []byte
		for lines := bufio.NewReader(reader); ; {
			line, err := lines.ReadBytes('\n')
			if all = append(all, line...); err != nil {
				break
			}
			if bytes.Contains(line, []byte("is written again; ")) {
				close(recovered) // a second time panics
			}
		}
		text <- all
	}()
	select {
	case <-recovered: // and so all lines and both reports are written or lost
	case <-time.After(time.Minute):
		t.Fatal("the log does not report that it is written again")
	}
	l.Close()
	got := <-text
	if bytes.Count(got, []byte("lines are being dropped")) > 1 || bytes.Count(got, []byte("is written again; ")) != 1 {
		t.Errorf("it ends with %q", got[max(0, len(got)-500):])
	}
	checkSum(t, l, int(countLines(got)), 10_002)
}

// TestOneWriteIsWhole: one write consists of whole lines, and is small enough to be atomic on a pipe.
func TestOneWriteIsWhole(t *testing.T) {
	line := func(n int) string { return strings.Repeat("x", n-1) + "\n" }
	for _, c := range []struct {
		text string
		want int
	}{
		{line(1), 1},
		{line(10) + line(10), 20},
		{line(maxWrite), maxWrite},
		{line(maxWrite-1) + line(2), maxWrite - 1},
		{line(10) + line(maxWrite), 10},
		{line(10_000) + line(5), 10_000}, // a long line on its own
		{"a prompt: ", 10},
	} {
		if got := len(piece([]byte(c.text))); got != c.want {
			t.Errorf("of %d bytes %d, want %d", len(c.text), got, c.want)
		}
	}
}

// TestStandardIsOurOwn: Close leaves the standard stream open.
func TestStandardIsOurOwn(t *testing.T) {
	to, err := Standard(2)
	if err != nil {
		t.Fatal(err)
	}
	to.Close()
	if _, err := os.Stderr.Stat(); err != nil || errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}
