package dump

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/sandbox"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// jobs run in a child process, because they change limits and rights irrevocably.
var jobs = map[string]func(dir string) error{"memory": jobMemory, "limit": jobLimit, "sandbox": jobSandbox}

func TestMain(m *testing.M) {
	list := map[string]proctest.Job{}
	for name, job := range jobs {
		list[name] = func(args []string) error { return job(args[0]) }
	}
	proctest.Main(m, list)
}

func run(t *testing.T, c *exec.Cmd) string {
	t.Helper()
	c.Env = append(os.Environ(), c.Env...)
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// TestMemory: a body of 50 MB costs less than 32 MiB, most of it garbage: JSON is buffered up to 2 MiB.
func TestMemory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	t.Log(strings.TrimSpace(run(t, proctest.Command("memory", dir))))
	for _, kind := range []string{"request", "response"} {
		text := read(t, dir, "000002-*-"+kind+".json")
		if !json.Valid(text) || bytes.Contains(text, []byte("truncated")) {
			t.Errorf("the %s of %d bytes is not whole", kind, len(text))
		}
	}
}

func bodySize() int {
	if race {
		return 5 << 20
	}
	return 50 << 20
}

func jobMemory(dir string) error {
	d, err := Open(dir, -1, func(error) {})
	if err != nil {
		return err
	}
	whole(d, "warm", "up")
	drain(d)
	runtime.GC()
	before, err := peak(true)
	if err != nil {
		return err
	}
	e := post(d)
	e.Request([]byte("["))
	feed(d, e.Request, []byte(`{"role":"user","n":1.5e3},`))
	e.Request([]byte("0]"))
	e.RequestEnd(true)
	e.Answer(200, nil)
	feed(d, e.Body, []byte("data: {\"type\":\"x\"}\n\n"))
	e.End()
	d.closeTime = patience // however slow the machine
	d.Close()
	after, err := peak(false)
	if err != nil {
		return err
	}
	fmt.Printf("peak memory before %d KiB, after %d KiB\n", before, after)
	if after-before > 32<<10 && !race || lost(d) != 0 {
		return fmt.Errorf("grown by %d KiB, %d lost", after-before, lost(d))
	}
	return nil
}

// feed passes a body on no faster than the writer follows.
func feed(d *Dir, take func([]byte), text []byte) {
	piece := bytes.Repeat(text, 32<<10/len(text))
	for sent := 0; sent < bodySize(); sent += len(piece) {
		take(piece)
		if sent%(128<<10) < len(piece) {
			drain(d)
		}
	}
}

// peak returns VmHWM in KiB, and resets it if reset is set.
func peak(reset bool) (kib int, err error) {
	if reset {
		if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
			return 0, err
		}
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	_, err = fmt.Sscan(rest, &kib)
	return kib, err
}

// TestFailingDisk: a dump that cannot be written leaves nothing behind, and one that fits is complete.
func TestFailingDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	run(t, proctest.Command("limit", dir))
	wantNames(t, dir, "000001-MS-response.json", "000002-MS-response.json", "000003-MS-request.json", "000003-MS-response.json")
}

func jobLimit(dir string) error {
	reports := make(chan error, 9)
	d, err := Open(dir, -1, func(err error) { reports <- err })
	if err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 64 << 10, Max: 64 << 10}); err != nil {
		return err
	}
	whole(d, strings.Repeat("a", 100<<10), "too large")
	whole(d, strings.Repeat("\x00", 40<<10), "too large as a string")
	whole(d, "a", "b")
	select {
	case err = <-reports:
	case <-time.After(patience):
		return errors.New("nothing was reported")
	}
	d.Close()
	if !strings.Contains(err.Error(), "000001-") || !strings.Contains(err.Error(), "file too large") || strings.Contains(err.Error(), dir) {
		return fmt.Errorf("the report is %w", err)
	}
	if lost(d) != 2 {
		return fmt.Errorf("%d are lost", lost(d))
	}
	return nil
}

// TestManyUnderWay: exchanges that last use no descriptors, and all are dumped.
func TestManyUnderWay(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	d := mustOpen(t, config{dir: dir})
	const many = 500
	var all []*exchange
	for i := range many {
		e := post(d)
		all = append(all, e)
		e.RequestEnd(true)
		e.Answer(200, nil)
		e.Body([]byte("data: {}\n\n"))
		if i%100 == 0 {
			drain(d)
		}
	}
	drain(d)
	if open, err := os.ReadDir("/proc/self/fd"); err != nil || len(open) > 100 {
		t.Errorf("%d descriptors are open, %v", len(open), err)
	}
	for _, e := range all {
		e.End()
	}
	d.Close()
	if got := len(names(t, dir)); got != 2*many || lost(d) != 0 {
		t.Errorf("%d files, %d lost; want %d, 0", got, lost(d), 2*many)
	}
	wantEmptyQueue(t, d)
}

// TestInSandbox: all of this works in the sandbox of a program that names the directory in Write, also for the user
// that root becomes.
func TestInSandbox(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if out := run(t, proctest.CommandOf(proctest.Static(t), "sandbox", dir)); out != "" {
		proctest.Cannot(t, out)
	}
	left := names(t, dir)
	if len(left) > 4 || left[0] == "000001-MS-request.json" || left[len(left)-1] != "000003-MS-response.json" {
		t.Errorf("the folder has %q", left)
	}
}

func jobSandbox(dir string) error {
	cfg := sandbox.Policy{Write: []string{dir}}
	owner := -1
	if os.Getuid() == 0 {
		cfg.User, owner = &sandbox.User{Name: "12345", UID: 12345, GID: 12345}, 12345
	}
	d, err := prepare(dir, owner, func(error) {}, 4*4096)
	if err != nil {
		return err
	}
	go d.write()
	report, err := sandbox.Enforce(cfg)
	if err != nil {
		return err
	}
	for _, p := range report {
		if p.Missing != nil {
			fmt.Println("no sandbox:", p.Name, p.Missing)
			return nil
		}
	}
	if _, err := os.ReadDir(filepath.Dir(dir)); err == nil {
		return errors.New("the sandbox is open")
	}
	for range 3 {
		e := whole(d, `{"a":1}`, "data: x\n\n")
		if err := await(d, e.response); err != nil {
			return err
		}
	}
	d.Close()
	if lost(d) != 0 {
		return fmt.Errorf("%d are lost", lost(d))
	}
	return nil
}
