package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// patience is how long a process that was asked to end may take.
	patience = 5 * time.Second
	// poll is how often the demo looks whether a process listens.
	poll = 5 * time.Millisecond
	// maxStderr is how much is kept of what a process says.
	maxStderr = 16 << 10
)

// A child is a proxy that runs beside the demo.
type child struct {
	name   string
	cmd    *exec.Cmd
	stdin  io.Closer
	stderr *head
	ended  chan struct{} // closed once the process is gone
	err    error         // how it ended; valid after ended
	port   int
}

// startProxy starts the binary as an operator would.
func (st *stage) startProxy(ctx context.Context, binary string) (*child, error) {
	info := filepath.Join(st.dir, "proxy.json")
	cmd := exec.Command(binary, "--upstream-url", st.upstream.URL(), "--server-info", info, "--drain-timeout", "1s")
	return st.start(ctx, "the proxy", cmd, info)
}

// startNaive starts this program again, as the proxy that anybody would write.
func (st *stage) startNaive(ctx context.Context) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	info := filepath.Join(st.dir, "naive.json")
	return st.start(ctx, "the ReverseProxy", exec.Command(self, naiveCommand, st.upstream.URL(), info), info)
}

// start gives cmd the key on standard input and waits until it listens.
func (st *stage) start(ctx context.Context, name string, cmd *exec.Cmd, info string) (*child, error) {
	c := &child{name: name, cmd: cmd, stderr: &head{}, ended: make(chan struct{})}
	cmd.Env, cmd.Stderr = childEnv(os.Environ(), st.caFile()), c.stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	c.stdin = stdin
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", name, err)
	}
	go func() {
		defer close(c.ended)
		c.err = cmd.Wait()
	}()
	// If this fails, then because the process is gone, and await says why.
	io.WriteString(stdin, st.key+"\n")
	if err := c.await(ctx, info); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// childEnv is the environment of a proxy that must reach the stand-in, and must
// not have a key from elsewhere.
func childEnv(environ []string, ca string) []string {
	env := []string{"SSL_CERT_FILE=" + ca}
	for _, v := range environ {
		name, _, _ := strings.Cut(strings.ToUpper(v), "=")
		if name != "OPENAI_API_KEY" && name != "SSL_CERT_FILE" && name != "SSL_CERT_DIR" && !strings.HasSuffix(name, "_PROXY") {
			env = append(env, v)
		}
	}
	return env
}

// await waits until the process has written its port to the file info.
func (c *child) await(ctx context.Context, info string) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		if c.readInfo(info) {
			return nil
		}
		select {
		case <-tick.C:
		case <-c.ended:
			first, _, _ := strings.Cut(c.stderr.String(), "\n")
			return fmt.Errorf("%s ended at its start (%v): %s", c.name, c.err, first)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *child) readInfo(path string) bool {
	text, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	var info struct{ Port, PID int }
	if json.Unmarshal(text, &info) != nil || info.PID != c.pid() {
		return false
	}
	c.port = info.Port
	return true
}

func (c *child) pid() int { return c.cmd.Process.Pid }

func (c *child) url() string { return fmt.Sprintf("http://127.0.0.1:%d/v1/responses", c.port) }

// warning returns the line with text that the process wrote, or nothing.
func (c *child) warning(text string) string {
	for line := range strings.Lines(c.stderr.String()) {
		if strings.Contains(line, text) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// stop ends the process and waits until it is gone.
func (c *child) stop() {
	c.stdin.Close()
	if c.cmd.Process.Signal(syscall.SIGTERM) != nil {
		c.cmd.Process.Kill() // Windows has no such signal
	}
	select {
	case <-c.ended:
	case <-time.After(patience):
		c.cmd.Process.Kill()
		<-c.ended
	}
}

// A head keeps the beginning of what is written to it.
type head struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf.Write(p[:min(len(p), maxStderr-h.buf.Len())])
	return len(p), nil
}

func (h *head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.buf.String()
}
