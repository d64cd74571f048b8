//go:build unix

package linelog

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

func mustOpen(t *testing.T, path string, r proctest.Reports) *Log {
	t.Helper()
	to, err := File(path, -1)
	if err != nil {
		t.Fatal(err)
	}
	return open(t, to, r.Report)
}

// open starts a log with the audit log's delay.
func open(t *testing.T, to *Target, report func(error)) *Log {
	t.Helper()
	l := New(to, "audit", 50*time.Millisecond, report)
	t.Cleanup(l.Close)
	return l
}

// rest makes a line as long as one of the audit log's.
var rest = strings.Repeat("x", 400)

// write writes lines with the numbers from first to end.
func write(l *Log, first, end int) {
	for i := first; i < end; i++ {
		l.Write(fmt.Appendf(nil, `{"request_id":"%d","rest":"%s"}`+"\n", i, rest))
	}
}

// checkSum checks that every line of n has arrived or is counted as lost.
func checkSum(t *testing.T, l *Log, arrived, n int) {
	t.Helper()
	if lost := l.Lost.Load(); int64(arrived)+lost != int64(n) {
		t.Errorf("%d arrived, %d lost, of %d", arrived, lost, n)
	}
}

// unwritten returns the number of lines that are queued or being written.
func unwritten(l *Log) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int(countLines(l.queue.Bytes()) + countLines(l.w.held()))
}

// taken returns the number of lines that w, which is or was l's target, has taken and not written.
func taken(l *Log, w *Target) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int(countLines(w.held()))
}

// arrive returns the number of lines that r contains until its end.
func arrive(t *testing.T, r io.Reader) int {
	t.Helper()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	return int(countLines(text))
}

func TestFile(t *testing.T) {
	path, r := filepath.Join(t.TempDir(), "audit"), proctest.NewReports()
	l := mustOpen(t, path, r)
	write(l, 0, 5)
	l.Close()
	l.Close()
	l = mustOpen(t, path, r)
	write(l, 5, 10)
	l.Close()
	write(l, 10, 12) // too late
	proctest.CheckLines(t, 10, 0, path)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if l.Lost.Load() != 2 {
		t.Errorf("%d lost", l.Lost.Load())
	}
	r.Silent(t)
}

// TestTornFile: a line feed terminates the incomplete line of a process that died.
func TestTornFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	if err := os.WriteFile(path, []byte("{}\n{\"time"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := mustOpen(t, path, proctest.NewReports())
	write(l, 0, 1)
	l.Close()
	text, err := os.ReadFile(path)
	if err != nil || !bytes.HasPrefix(text, []byte("{}\n{\"time\n{\"request_id\":")) || bytes.Count(text, lineFeed) != 3 {
		t.Errorf("%s, %v", text, err)
	}
}

// TestFullDevice: a device that is always full accepts nothing and blocks no caller.
func TestFullDevice(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no /dev/full")
	}
	r := proctest.NewReports()
	l := mustOpen(t, "/dev/full", r)
	write(l, 0, 3)
	r.Want(t, "audit lines cannot be written, and are queued: no space left on device")
	write(l, 3, 5000)
	r.Want(t, "audit lines are being dropped: no space left on device")
	if n := l.Lost.Load(); n == 0 || n > 4000 {
		t.Errorf("%d lines are lost by now", n)
	}
	l.Close()
	r.Want(t, "5000 audit lines were dropped: no space left on device")
	checkSum(t, l, 0, 5000)
	r.Silent(t)
}

func fifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// again returns another descriptor of f, which keeps what a FIFO contains.
func again(t *testing.T, f *os.File) *os.File {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var fd int
	raw.Control(func(n uintptr) { fd, err = unix.Dup(int(n)) })
	if err != nil {
		t.Fatal(err)
	}
	other := os.NewFile(uintptr(fd), f.Name())
	t.Cleanup(func() { other.Close() })
	return other
}

// TestFIFOWithoutReader: a FIFO without a reader blocks neither the start, nor writes, nor the end.
func TestFIFOWithoutReader(t *testing.T) {
	r := proctest.NewReports()
	l := mustOpen(t, fifo(t), r)
	write(l, 0, 1000)
	l.Reopen() // does nothing
	reader := again(t, l.w.file)
	l.Close()
	r.Want(t, "audit lines were dropped: no reader")
	arrived := make([]byte, 1<<20)
	size, err := reader.Read(arrived)
	n := int(countLines(arrived[:size]))
	if l.Lost.Load() == 0 || n == 0 {
		t.Errorf("%d lost, %d arrived, %v", l.Lost.Load(), n, err)
	}
	checkSum(t, l, n, 1000)
	r.Silent(t)
}

func TestFIFOLateReader(t *testing.T) {
	const n = 2000 // more than a pipe's capacity, less than the queue's
	path, r := fifo(t), proctest.NewReports()
	l := mustOpen(t, path, r)
	write(l, 0, n)
	proctest.Eventually(t, "the pipe takes some", func() bool { return unwritten(l) < n })
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewReader(f)
	for i := range n {
		line, err := lines.ReadBytes('\n')
		if got, ok := proctest.LineNumber(line); err != nil || !ok || got != i {
			t.Fatalf("line %d is %q, %v", i, line, err)
		}
	}
	l.Close()
	if l.Lost.Load() != 0 {
		t.Errorf("%d lost", l.Lost.Load())
	}
	r.Silent(t)
}

// TestStoppedReader: a reader that stops is reported and costs lines but no time; it receives all others when it
// continues.
func TestStoppedReader(t *testing.T) {
	const n = 6000
	reader, writer := proctest.Pipe(t)
	r := proctest.NewReports()
	l := open(t, &Target{file: writer}, r.Report)
	write(l, 0, n)
	r.Want(t, "audit lines are being dropped: lines arrive faster than they can be written")
	lost := l.Lost.Load()

	done := make(chan int)
	go func() {
		lines, whole := bufio.NewScanner(reader), 0
		for lines.Scan() {
			if _, ok := proctest.LineNumber(lines.Bytes()); ok {
				whole++
			}
		}
		done <- whole
	}()
	r.Want(t, fmt.Sprintf("the audit is written again; %d lines were dropped", lost))
	write(l, n, n+10)
	l.Close()
	checkSum(t, l, <-done, n+10)
	if l.Lost.Load() != lost {
		t.Errorf("%d and then %d lost", lost, l.Lost.Load())
	}
	r.Silent(t)
}

// TestCloseWithStuckWriter: Close does not wait for a blocked write; its lines count as dropped, also if they arrive
// later.
func TestCloseWithStuckWriter(t *testing.T) {
	const n = 1000
	for _, reads := range []bool{false, true} {
		reader, writer := proctest.Pipe(t)
		r := proctest.NewReports()
		l := open(t, &Target{file: writer}, r.Report)
		write(l, 0, n)
		l.Close()
		r.Want(t, "audit lines were dropped: no reader")
		if l.Lost.Load() == 0 {
			t.Error("nothing is lost")
		}
		lost, stuck := l.Lost.Load(), taken(l, l.w)
		l.Close()
		if reads {
			checkSum(t, l, arrive(t, reader)-stuck, n)
		} else {
			reader.Close()
		}
		<-l.w.done
		if l.Lost.Load() != lost {
			t.Errorf("%d were lost, now %d", lost, l.Lost.Load())
		}
		r.Silent(t)
	}
}

// TestReaderGone: a reader that exits does not end the process.
func TestReaderGone(t *testing.T) {
	reader, writer := proctest.Pipe(t)
	reader.Close()
	r := proctest.NewReports()
	l := open(t, &Target{file: writer}, r.Report)
	write(l, 0, 1)
	r.Want(t, "audit lines cannot be written, and are queued: broken pipe")
	l.Close()
	r.Want(t, "1 audit lines were dropped: broken pipe")
	r.Silent(t)
}

// TestStuckReport: a Report that never returns blocks no caller.
func TestStuckReport(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	l := open(t, &Target{file: devFull(t)}, func(error) { <-release })
	write(l, 0, 10_000)
	l.Close()
	checkSum(t, l, 0, 10_000)
}

func devFull(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		proctest.Cannot(t, err.Error())
	}
	return f
}

// TestRotation renames the file repeatedly while goroutines write lines: each line is in one file, once and whole.
func TestRotation(t *testing.T) {
	const writers, each, turns = 4, 3000, 10
	path, r := filepath.Join(t.TempDir(), "audit"), proctest.NewReports()
	l := mustOpen(t, path, r)
	var all sync.WaitGroup
	var sent atomic.Int64
	for i := range writers {
		all.Go(func() {
			for n := i * each; n < (i+1)*each; n += 100 {
				write(l, n, n+100)
				for sent.Add(100); unwritten(l) > 1000; { // or lines would be dropped
					runtime.Gosched()
				}
			}
		})
	}
	paths := []string{path}
	for i := range turns {
		proctest.Eventually(t, "more is written", func() bool { return int(sent.Load())-unwritten(l) >= i*writers*each/turns })
		old := fmt.Sprint(path, ".", i)
		if err := os.Rename(path, old); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, old)
		l.Reopen()
		proctest.Eventually(t, "there is a new file", func() bool { _, err := os.Stat(path); return err == nil })
	}
	all.Wait()
	l.Close()
	proctest.CheckLines(t, writers*each, 0, paths...)
	r.Silent(t)
}

// TestReopenFails: if no new file can be opened, the old one stays in use.
func TestReopenFails(t *testing.T) {
	path, r := filepath.Join(t.TempDir(), "audit"), proctest.NewReports()
	l := mustOpen(t, path, r)
	old := path + ".1"
	if err := os.Rename(path, old); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, c := range []struct {
		make func() error
		want string
	}{
		{func() error { return os.Mkdir(path, 0o700) }, "is a directory"},
		{func() error { return os.Symlink(old, path) }, "is a symbolic link"},
		{func() error { return unix.Mkfifo(path, 0o600) }, unix.ENXIO.Error()},
		{func() error { return os.WriteFile(path, nil, 0o600) }, "is writable by other users"},
	} {
		if err := c.make(); err != nil {
			t.Fatal(err)
		}
		if c.want == "is writable by other users" {
			if err := os.Chmod(path, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		l.Reopen()
		r.Want(t, c.want)
		write(l, n, n+1)
		n++
		proctest.Eventually(t, "the line is written", func() bool { return unwritten(l) == 0 })
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	l.Reopen()
	proctest.Eventually(t, "there is a new file", func() bool { _, err := os.Stat(path); return err == nil })
	write(l, n, n+1)
	l.Close()
	proctest.CheckLines(t, n, 0, old)
	proctest.CheckLines(t, n+1, 0, old, path)
	r.Silent(t)
}

// TestReopenSameFile: SIGHUP without a rename changes nothing.
func TestReopenSameFile(t *testing.T) {
	path, r := filepath.Join(t.TempDir(), "audit"), proctest.NewReports()
	l := mustOpen(t, path, r)
	for i := range 100 {
		write(l, i, i+1)
		l.Reopen()
	}
	l.Close()
	proctest.CheckLines(t, 100, 0, path)
	r.Silent(t)
}
