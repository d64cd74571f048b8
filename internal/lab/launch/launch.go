// Package launch starts a proxy as an operator would, with the key on standard input, and finds it by its server-info
// file. It is for programs that test or demonstrate a proxy.
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
	// poll is the interval between reads of the server-info file, or of the output.
	poll = 5 * time.Millisecond
	// maxOutput is the number of bytes of a proxy's output that are kept.
	maxOutput = 16 << 10
	// waitDelay is how long a descendant may keep a pipe open after the end.
	waitDelay = time.Second
)

// Info is the content of a server-info file.
type Info struct{ Port, PID int }

// ReadInfo reads a server-info file, and returns an error unless it has a port and a pid.
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
		return Info{}, errors.New("no port and pid in it")
	}
	return info, nil
}

// A Proxy is a running proxy, with all processes that it started.
type Proxy struct {
	Info
	Output *Output       // standard error
	Ended  chan struct{} // closed when the process has ended

	cmd   *exec.Cmd
	stdin io.Closer
	err   error // of the process; valid after Ended
}

// An EndedError reports a proxy that ended before it listened.
type EndedError struct {
	Err    error  // how it ended
	Output string // its standard error
}

func (e *EndedError) Error() string {
	return fmt.Sprintf("ended during start-up (%v): %s", e.Err, e.Output)
}

// Environment returns the variables that programs need to start, and none that could contain a key or configure a
// forward proxy.
func Environment() (list []string) {
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "SYSTEMROOT"} {
		if value, ok := os.LookupEnv(name); ok {
			list = append(list, name+"="+value)
		}
	}
	return list
}

// Group makes a command the leader of a process group, since it may be a launcher itself. When the command's context,
// if it has one, ends, the whole group is killed.
func Group(cmd *exec.Cmd) {
	ownGroup(cmd)
	if cmd.Cancel != nil {
		cmd.Cancel = func() error { return endGroup(cmd.Process) }
	}
	cmd.WaitDelay = waitDelay
}

// Start starts cmd, writes a line with the key to its standard input, which it closes if closeInput is set, and waits
// until the file info is complete or ctx ends. The error is cmd.Start's, the cause of ctx's end, or an *EndedError;
// then no process remains. Otherwise the caller must call Close.
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
	// If this fails, the process has ended, which await reports.
	stdin.Write(append(bytes.Clone(key), '\n'))
	if closeInput {
		stdin.Close()
	}
	complete := func() bool {
		p.Info, err = ReadInfo(info)
		return err == nil
	}
	if err := p.await(ctx, complete); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// await waits until ready returns true. The error is the cause of ctx's end, or an *EndedError.
func (p *Proxy) await(ctx context.Context, ready func() bool) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for !ready() {
		select {
		case <-tick.C:
		case <-p.Ended:
			return &EndedError{p.err, strings.TrimSpace(p.Output.String())}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// AwaitLine waits for a line of standard error that contains text, and returns the first, trimmed; an error if the
// process or ctx ends before.
func (p *Proxy) AwaitLine(ctx context.Context, text string) (string, error) {
	err := p.await(ctx, func() bool { return p.Output.Line(text) != "" })
	if line := p.Output.Line(text); line != "" { // the last before the end
		return line, nil
	}
	return "", fmt.Errorf("no line with %q in %s: %w", text, p.Output, err)
}

// Close kills the process and all that it started, and waits for it.
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

// Line returns the first line that contains text, trimmed; "" if there is none.
func (o *Output) Line(text string) string {
	for line := range strings.Lines(o.String()) {
		if strings.Contains(line, text) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}
