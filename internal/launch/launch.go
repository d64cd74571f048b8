// Package launch starts a proxy as an operator would, with the key on standard
// input, and finds it by its --server-info. It is for programs that try or show
// a proxy.
package launch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

const (
	// poll is how often Start looks for the server-info file.
	poll = 5 * time.Millisecond
	// maxOutput is how much is kept of what a proxy writes.
	maxOutput = 16 << 10
	// waitDelay is how long a descendant may hold a pipe after the end.
	waitDelay = time.Second
)

// Info is the content of a --server-info file.
type Info struct{ Port, PID int }

// ReadInfo reads a --server-info file, and refuses what no proxy writes.
func ReadInfo(path string) (Info, error) {
	var info Info
	text, err := os.ReadFile(path)
	if err != nil {
		return Info{}, err
	}
	if err := json.Unmarshal(text, &info); err != nil {
		return Info{}, err
	}
	if info.Port < 1 || info.Port > 65535 || info.PID < 1 {
		return Info{}, errors.New("there is no port and pid in it")
	}
	return info, nil
}

// A Proxy is a process that serves, and all processes that it has started.
type Proxy struct {
	Info
	Output *Output       // what it has written to standard error
	Ended  chan struct{} // closed when the process is gone

	cmd   *exec.Cmd
	stdin io.Closer
	err   error // of the process; valid after Ended
}

// An EndedError reports a proxy that ended before it listened.
type EndedError struct {
	Err    error  // how it ended
	Output string // what it wrote to standard error
}

func (e *EndedError) Error() string {
	return fmt.Sprintf("ended at its start (%v): %s", e.Err, e.Output)
}

// Environment is what programs need to be found and to start, and nothing that
// could hold a key or lead to a proxy.
func Environment() (list []string) {
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "SYSTEMROOT"} {
		if value, ok := os.LookupEnv(name); ok {
			list = append(list, name+"="+value)
		}
	}
	return list
}

// Group makes a command the leader of a process group, since it may be a launcher
// itself: when the command's context ends, if it has one, all of the group is
// killed.
func Group(cmd *exec.Cmd) {
	ownGroup(cmd)
	if cmd.Cancel != nil {
		cmd.Cancel = func() error { return endGroup(cmd.Process) }
	}
	cmd.WaitDelay = waitDelay
}

// Start starts cmd, writes a line with the key to its standard input, which it
// closes if the proxy is not to wait for its end, and waits until the file info
// is whole or ctx ends. Its error is that of cmd.Start, the cause of ctx's end,
// or an *EndedError; then nothing is left running. Otherwise the caller must call
// Close.
func Start(ctx context.Context, cmd *exec.Cmd, key []byte, info string, closeInput bool) (*Proxy, error) {
	p := &Proxy{cmd: cmd, Output: &Output{}, Ended: make(chan struct{})}
	Group(cmd)
	cmd.Stderr = p.Output
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.stdin = stdin
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.Ended)
		p.err = cmd.Wait()
	}()
	// If this fails, then because the process is gone, which await reports.
	stdin.Write(append(bytes.Clone(key), '\n'))
	if closeInput {
		stdin.Close()
	}
	if err := p.await(ctx, info); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Proxy) await(ctx context.Context, path string) (err error) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		if p.Info, err = ReadInfo(path); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.Ended:
			return &EndedError{p.err, strings.TrimSpace(p.Output.String())}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Close kills the process and all that it has started, and waits for it.
func (p *Proxy) Close() {
	p.stdin.Close()
	endGroup(p.cmd.Process)
	<-p.Ended
}

// Output keeps the beginning of what is written to it.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(b[:min(len(b), maxOutput-o.buf.Len())])
	return len(b), nil
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Line returns the first line that has text in it, without spaces around it; ""
// if there is none.
func (o *Output) Line(text string) string {
	for line := range strings.Lines(o.String()) {
		if strings.Contains(line, text) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}
