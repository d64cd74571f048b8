package attack

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/launch"
)

// startTime is the maximum time until the proxy listens.
const startTime = 10 * time.Second

// A harness is a proxy that verify started, between a fake upstream and the attempts. Its key is random, so that
// nothing can be spent.
type harness struct {
	up    *fakeUpstream
	key   []byte
	dir   string // for server-info and core files; removed at the end
	info  string
	proxy *launch.Proxy // nil if it was not started
}

// interruptible returns a context that every signal which would end verify cancels: verify must not leave a proxy
// behind. SIGPIPE is one of them, for a reader of the table that exits.
func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
}

// openHarness starts the fake upstream and the proxy, and waits until that listens.
func openHarness(ctx context.Context, program []string) (_ *harness, err error) {
	s := &harness{key: []byte("sk-" + rand.Text() + strings.ToLower(rand.Text()))}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.dir, err = os.MkdirTemp("", "responses-api-proxy-verify-"); err != nil {
		return nil, err
	}
	s.info = filepath.Join(s.dir, "info.json")
	if s.up, err = startFakeUpstream(s.key); err != nil {
		return nil, err
	}
	return s, s.start(ctx, program)
}

// proxyCommand returns a command that starts a proxy, which reads the key.
func proxyCommand(ctx context.Context, program []string, info, upstream string) *exec.Cmd {
	words := append(slices.Clone(program), "--port", "0", "--server-info", info, "--upstream-url", "http://"+upstream+"/v1/responses")
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Env = launch.Environment()
	return cmd
}

// start starts the proxy, and waits until it listens.
func (s *harness) start(ctx context.Context, program []string) error {
	cmd := proxyCommand(ctx, program, s.info, s.up.address())
	cmd.Dir = s.dir
	limited, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	var err error
	s.proxy, err = launch.Start(limited, cmd, s.key, s.info, true)
	var ended *launch.EndedError
	switch {
	case ctx.Err() != nil:
		return errInterrupted
	case errors.As(err, &ended):
		return fmt.Errorf("the proxy ended: %s", lastOf(ended.Output))
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the proxy did not listen within %s", startTime)
	case err != nil:
		return fmt.Errorf("cannot start the proxy: %w", err)
	}
	return nil
}

var errInterrupted = errors.New("interrupted; the proxy was stopped")

// lastOf returns the last line that the proxy wrote to standard error.
func lastOf(text string) string {
	if text = text[max(0, len(text)-300):]; text == "" {
		return "no output"
	}
	return printable(text)
}

// protections returns what our own proxy reports; "" for any other.
func (s *harness) protections() string {
	_, line, _ := strings.Cut(s.proxy.Output.Line(" protections "), " protections ")
	return printable(line)
}

// close stops the proxy and the fake upstream, waits for them, and removes the files.
func (s *harness) close() {
	if s.proxy != nil {
		s.proxy.Close()
	}
	if s.up != nil {
		s.up.close()
	}
	if s.dir != "" {
		os.RemoveAll(s.dir)
	}
}

// proxyBeside returns the path of the proxy in the directory of this program. If neither name exists, it returns the
// first.
func proxyBeside() string {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	names := []string{"responses-api-proxy", "codex-responses-api-proxy"}
	if err != nil {
		return names[0]
	}
	for i, name := range names {
		names[i] = filepath.Join(filepath.Dir(self), name)
		if runtime.GOOS == "windows" {
			names[i] += ".exe"
		}
		if _, err := os.Stat(names[i]); err == nil {
			return names[i]
		}
	}
	return names[0]
}
