//go:build amd64 || arm64

package escape

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// timeout is for what must happen; it is generous because machines are busy.
const timeout = time.Minute

// key is no secret here: nothing looks for it.
const key = "sk-proj-0123456789abcdefghijklmnopqrstuvwxyz"

// The main thread stays with the tests' own goroutine. Go cannot end it, so what
// it traced would never be let go, nor be waited for, had a tracer run on it.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) { proctest.Main(m, nil) }

// target is the real program, between this process's client and its upstream.
type target struct {
	pid      int
	url      string
	start    string // its start lines
	turn     int    // counts the threads that were tried
	gate     uint64 // address of the instruction that made the last call
	client   *http.Client
	upstream *openaitest.Server
}

func launch(t *testing.T, args ...string) *target {
	t.Helper()
	upstream, err := openaitest.Start(openaitest.Options{Key: key, Forget: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(upstream.Close)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	v := &target{upstream: upstream, client: &http.Client{Transport: transport, Timeout: timeout}}
	v.run(t, append([]string{"--upstream-url", upstream.URL()}, args...))
	return v
}

// run starts the program and reads its output until it listens.
func (v *target) run(t *testing.T, args []string) {
	t.Helper()
	cmd := exec.Command(proctest.Program(t, "../../cmd/responses-api-proxy"), args...)
	cmd.Env, cmd.Dir, cmd.Stdin = []string{}, "/", strings.NewReader(key)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	v.pid = cmd.Process.Pid
	late := time.AfterFunc(timeout, func() { cmd.Process.Kill() })
	t.Cleanup(func() {
		late.Stop()
		cmd.Process.Kill()
		cmd.Wait() // not before: it would take the stops that a tracer waits for
	})
	in := bufio.NewReader(stderr)
	for v.url == "" {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatalf("the program does not start: %s%s (%v)", v.start, line, err)
		}
		v.start += line
		if _, addr, ok := strings.Cut(line, "listening on "); ok {
			v.url = "http://" + strings.TrimSpace(addr) + "/v1/responses"
		}
	}
	late.Stop()
	go io.Copy(io.Discard, in)
}

// serves checks that a request reaches the upstream and its response comes back.
func (v *target) serves(t *testing.T) {
	t.Helper()
	before := v.upstream.Count()
	res, err := v.client.Post(v.url, "application/json", strings.NewReader(`{"model":"gpt-5","input":"hello"}`))
	if err != nil {
		t.Fatalf("it no longer serves: %v", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("it no longer serves: %s, %v: %.200s", res.Status, err, body)
	}
	if n := v.upstream.Count() - before; n != 1 {
		t.Fatalf("the upstream has seen %d requests for one", n)
	}
}

// locked checks that every thread's status is that of the sandbox.
func (v *target) locked(t *testing.T, uid int) {
	t.Helper()
	id := fmt.Sprintf("%d\t%[1]d\t%[1]d\t%[1]d", uid)
	want := map[string]string{
		"Uid": id, "Gid": id, "Seccomp": "2", "NoNewPrivs": "1", "TracerPid": "0",
		"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
		"CapBnd": "0000000000000000", "CapAmb": "0000000000000000",
	}
	dirs, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", v.pid))
	if err != nil || len(dirs) < 2 {
		t.Fatalf("it has %d threads: %v", len(dirs), err)
	}
	for _, dir := range dirs {
		status, err := os.ReadFile(dir + "/status")
		if os.IsNotExist(err) || err == unix.ESRCH {
			continue // it has ended
		}
		seen := 0
		for line := range bytes.Lines(status) {
			name, value, _ := strings.Cut(strings.TrimSpace(string(line)), ":\t")
			if w, ok := want[name]; ok {
				seen++
				if value != w {
					t.Errorf("%s: %s is %q, want %q", dir, name, value, w)
				}
			}
		}
		if seen != len(want) {
			t.Errorf("%s: its status has %d of %d lines", dir, seen, len(want))
		}
	}
}
