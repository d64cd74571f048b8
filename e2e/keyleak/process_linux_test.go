package keyleak

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// patience is for what must happen; it is generous because machines are busy, or emulated.
const patience = 5 * time.Minute

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// process is the real program, running.
type process struct {
	cmd    *exec.Cmd
	addr   string        // where it listens; empty if it does not
	ended  chan struct{} // closed when it has closed its standard error
	onLine func(string)  // if not nil, receives each line of standard error
	mu     sync.Mutex
	output bytes.Buffer // of standard error
}

// launch starts the program. env is its whole environment; how is what to wrap
// it in, if anything.
func launch(t *testing.T, how string, env []string, args ...string) *process {
	t.Helper()
	return launchWith(t, how, env, func(*process) {}, args...)
}

// launchWith lets prepare change the process before it starts.
func launchWith(t *testing.T, how string, env []string, prepare func(*process), args ...string) *process {
	t.Helper()
	p := &process{ended: make(chan struct{})}
	proctest.Program(t, "./testdata/scan") // now, and not while the process runs
	argv := append([]string{proctest.Program(t, "../../cmd/responses-api-proxy")}, args...)
	if how != "" {
		argv = append([]string{"/proc/self/exe"}, argv...)
		env = append(env, wrapEnv+"="+how)
	}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = append([]string{}, env...) // never nil, which would be ours
	p.cmd.Dir = t.TempDir()
	p.cmd.Stdin = bytes.NewReader(append(bytes.Clone(key), '\n'))
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	prepare(p)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.kill() })
	listening := make(chan string, 1)
	go p.follow(bufio.NewReader(stderr), listening)
	select {
	case p.addr = <-listening:
	case <-p.ended:
		select {
		case p.addr = <-listening: // with --log-file it closes standard error then
		default:
		}
	case <-deadline(t).Done():
		t.Fatalf("the program does not start: %s", p.written())
	}
	return p
}

// follow collects standard error, and sends the address to listening once.
func (p *process) follow(in *bufio.Reader, listening chan<- string) {
	defer close(p.ended)
	for {
		line, err := in.ReadString('\n')
		p.mu.Lock()
		p.output.WriteString(line)
		p.mu.Unlock()
		if p.onLine != nil {
			p.onLine(line)
		}
		if _, addr, ok := strings.Cut(line, "listening on "); ok {
			listening <- strings.TrimSpace(addr)
		}
		if err != nil {
			return
		}
	}
}

func (p *process) written() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// awaitOutput waits until the process has written text.
func (p *process) awaitOutput(t *testing.T, text string) {
	t.Helper()
	ctx, tick := deadline(t), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(p.written(), text) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it never said %q, but %q", text, p.written())
		}
	}
}

func (p *process) signal(sig os.Signal) { p.cmd.Process.Signal(sig) }

// catches waits until the process has a handler for sig: until then it ignores
// it, or dies.
func (p *process) catches(t *testing.T, sig unix.Signal) {
	t.Helper()
	ctx, tick := deadline(t), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		_, mask, _ := strings.Cut(string(status), "\nSigCgt:\t")
		mask, _, _ = strings.Cut(mask, "\n")
		if set, err := strconv.ParseUint(mask, 16, 64); err != nil {
			t.Fatal(err)
		} else if set>>(sig-1)&1 != 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it never catches %v", sig)
		}
	}
}

func (p *process) kill() {
	p.signal(unix.SIGKILL)
	p.wait()
}

// wait returns how the process has ended.
func (p *process) wait() *os.ProcessState {
	<-p.ended
	p.cmd.Wait()
	return p.cmd.ProcessState
}

// stop ends the process by a signal, and scans its output.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.signal(unix.SIGTERM)
	if state := p.wait(); state.ExitCode() != 0 {
		t.Errorf("%v after SIGTERM", state)
	}
	p.checkOutput(t)
}

func (p *process) checkOutput(t *testing.T) {
	t.Helper()
	if r := memscan.Bytes([]byte(p.written()), key); r.Full+r.Fragments > 0 {
		t.Errorf("the key is on standard error: %s", counts(r))
	}
}

func (p *process) scan(t *testing.T, what []byte) memscan.Report {
	t.Helper()
	return scan(t, p.cmd.Process.Pid, what)
}

func scan(t *testing.T, pid int, what []byte) memscan.Report {
	t.Helper()
	return search(t, what, "-pid", fmt.Sprint(pid))
}

// search has testdata/scan look for what.
func search(t *testing.T, what []byte, args ...string) (report memscan.Report) {
	t.Helper()
	cmd := exec.Command(proctest.Program(t, "./testdata/scan"), args...)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(what), os.Stderr
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &report)
	}
	if err != nil {
		t.Fatalf("scan %q: %v", args, err)
	}
	return report
}

// clean looks for the key in all of the memory of the process at rest.
func (p *process) clean(t *testing.T, when string) {
	t.Helper()
	p.rest(t)
	clean(t, p.cmd.Process.Pid, when)
}

func clean(t *testing.T, pid int, when string) {
	t.Helper()
	r := scan(t, pid, key)
	if r.Full+r.Fragments > 0 {
		t.Errorf("%s: %s%s", when, counts(r), locate(pid, key))
	}
	if r.Unreadable == 0 {
		t.Errorf("%s: there is no unreadable page for the key to be in", when)
	}
}

// rest waits until no thread of the process runs, several times in a row:
// what a request that was cancelled has begun is over then.
func (p *process) rest(t *testing.T) {
	t.Helper()
	ctx, tick := deadline(t), time.NewTicker(2*time.Millisecond)
	defer tick.Stop()
	for asleep := 0; asleep < 5; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the process does not come to rest")
		}
		if asleep++; !p.sleeps(t) {
			asleep = 0
		}
	}
}

func (p *process) sleeps(t *testing.T) bool {
	t.Helper()
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
	if err != nil || len(stats) == 0 {
		t.Fatalf("no threads: %v", err)
	}
	for _, name := range stats {
		stat, _ := os.ReadFile(name) // a thread may have ended
		if _, state, ok := bytes.Cut(stat, []byte(") ")); ok && state[0] != 'S' {
			return false
		}
	}
	return true
}

func counts(r memscan.Report) string {
	return fmt.Sprintf("%d copies and %d fragments (longest %d) in %d bytes of %d mappings", r.Full, r.Fragments, r.Longest, r.Bytes, r.Regions)
}
