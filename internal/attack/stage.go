package attack

import (
	"context"
	"crypto/rand"
	"encoding/json"
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
)

// startTime is how long the proxy may take until it listens.
const startTime = 10 * time.Second

// A stage is a proxy that verify has started itself, between a stand-in and the
// attempts. Its key is made up: nothing can be spent.
type stage struct {
	up     *standIn
	key    []byte
	dir    string // for server-info, the log and cores; removed at the end
	info   string
	cancel context.CancelFunc
	gone   chan struct{} // closed when the proxy has ended; nil: it was not started
}

// interruptible returns a context that ends by every signal that would end
// verify: it must not leave a proxy behind. SIGPIPE is one of them, since the
// reader of the table may have gone.
func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
}

// openStage starts the stand-in, and the proxy, and waits for it to listen.
func openStage(ctx context.Context, program []string) (_ *stage, err error) {
	s := &stage{key: []byte("sk-" + rand.Text() + strings.ToLower(rand.Text()))}
	ctx, s.cancel = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.dir, err = os.MkdirTemp("", "responses-api-proxy-verify-"); err != nil {
		return nil, err
	}
	s.info = filepath.Join(s.dir, "info.json")
	if s.up, err = startStandIn(s.key); err != nil {
		return nil, err
	}
	if err := s.start(ctx, program); err != nil {
		return nil, fmt.Errorf("cannot start the proxy: %w", err)
	}
	return s, s.await(ctx)
}

// proxyCommand returns a command that starts a proxy in a process group of its
// own, since what program names may be a launcher, and gives it the key.
func proxyCommand(ctx context.Context, program []string, info, upstream string, key []byte) *exec.Cmd {
	words := append(slices.Clone(program), "--port", "0", "--server-info", info, "--upstream-url", "http://"+upstream+"/v1/responses")
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Env = environment()
	cmd.Stdin = strings.NewReader(string(key) + "\n")
	cmd.Cancel = func() error { return endGroup(cmd.Process) }
	cmd.WaitDelay = time.Second
	ownGroup(cmd)
	return cmd
}

// start starts the proxy, with its messages in the log.
func (s *stage) start(ctx context.Context, program []string) error {
	cmd := proxyCommand(ctx, program, s.info, s.up.address, s.key)
	cmd.Dir = s.dir
	log, err := os.Create(s.log())
	if err != nil {
		return err
	}
	defer log.Close() // the proxy has its own descriptor of it
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return err
	}
	s.gone = make(chan struct{})
	go func() {
		cmd.Wait() // how it ends is of no interest
		close(s.gone)
	}()
	return nil
}

// environment is what programs need to be found and to start, and nothing that
// could hold a key or lead to a proxy.
func environment() (list []string) {
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "SYSTEMROOT"} {
		if value, ok := os.LookupEnv(name); ok {
			list = append(list, name+"="+value)
		}
	}
	return list
}

func (s *stage) log() string { return filepath.Join(s.dir, "log") }

// await waits for the server-info file to be whole.
func (s *stage) await(ctx context.Context) error {
	limit := time.After(startTime)
	for {
		var found struct{ Port, PID int }
		if text, err := os.ReadFile(s.info); err == nil && json.Unmarshal(text, &found) == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errInterrupted
		case <-s.gone:
			return fmt.Errorf("the proxy has ended: %s", s.said())
		case <-limit:
			return fmt.Errorf("the proxy does not listen after %s: %s", startTime, s.said())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

var errInterrupted = errors.New("interrupted; the proxy that was started is stopped")

// said is the end of what the proxy wrote to standard error.
func (s *stage) said() string {
	text, _ := os.ReadFile(s.log())
	text = text[max(0, len(text)-300):]
	if len(text) == 0 {
		return "it says nothing"
	}
	return printable(strings.TrimSpace(string(text)))
}

// protections is what our own proxy says of them; "" of any other.
func (s *stage) protections() string {
	text, _ := os.ReadFile(s.log())
	_, line, _ := strings.Cut(string(text), "protections: ")
	line, _, _ = strings.Cut(line, "\n")
	return printable(line)
}

// close ends the proxy and the stand-in, waits for them, and removes the files.
func (s *stage) close() {
	s.cancel()
	if s.gone != nil {
		<-s.gone
	}
	if s.up != nil {
		s.up.close()
	}
	if s.dir != "" {
		os.RemoveAll(s.dir)
	}
}

// proxyBeside returns the path of the proxy in the directory of this program. The
// first name stands for both where neither is there.
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
