// Demo shows on one machine, without a key and without a network, what responses-api-proxy is for: a fake upstream that
// accepts only a random key, the real proxy, a client without a key that reads its response as it streams, and an
// attacker that searches the proxy's memory for the key. The same search finds the key in a plain
// httputil.ReverseProxy, which proves that it can find keys.
//
// It builds the proxy with the go command, in a temporary directory, and listens on 127.0.0.1 only. It stops all that
// it starts and removes the directory before it returns, also after Ctrl-C.
//
// Exit codes: 0 for success, 1 for any failure, 2 for an invalid command line.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const usage = `Usage: go run ./cmd/demo [-proxy FILE]

Shows what responses-api-proxy is for, on this machine alone: a client gets a
streamed response without having the key, and an attacker does not find the key
in the proxy's memory. As root the attacker may read all of that memory.

Flags:
  -proxy FILE  the proxy to show (default: it is built from this module)
  -h           print this text

Example:
  sudo env PATH="$PATH" go run ./cmd/demo
`

// command is the program that the demo shows.
const command = "github.com/responses-api-proxy/responses-api-proxy/cmd/responses-api-proxy"

func main() {
	if len(os.Args) == 4 && os.Args[1] == naiveCommand {
		fmt.Fprintln(os.Stderr, naive(os.Args[2], os.Args[3], naiveProxy))
		os.Exit(1)
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is main for the demo itself.
func run(args []string, out, errs io.Writer) int {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	proxy := flags.String("proxy", "", "")
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(out, usage)
		return 0
	case err != nil:
		fmt.Fprintf(errs, "demo: %v; run it with -h for its flags\n", err)
		return 2
	}
	// A broken pipe must not end the demo before it has cleaned up: writes report it.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	s := &stage{out: out, key: newKey()}
	err = s.run(ctx, *proxy)
	if ctx.Err() != nil {
		err = errors.New("interrupted") // other errors follow from it
	}
	if err := cmp.Or(err, s.err); err != nil {
		fmt.Fprintf(errs, "\ndemo: failed: %v\n", err)
		return 1
	}
	return 0
}

// build builds the proxy as releases are built, but without the stamp of the commit: git refuses to read another user's
// checkout as root.
func (s *stage) build(ctx context.Context) (binary string, err error) {
	if _, err := exec.LookPath("go"); err != nil {
		return "", errors.New("no go command in PATH, which builds the proxy; give a built one with -proxy FILE")
	}
	s.printf("Building the proxy (a minute, the first time)\n")
	binary = filepath.Join(s.dir, "responses-api-proxy.exe") // the suffix is for Windows
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", binary, command)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	// When the go command is interrupted, it ends its compilers; if it were killed, they would continue.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("cannot build the proxy (%w); run the demo in a checkout of its module:\n%s", err, strings.TrimSpace(string(out)))
	}
	return binary, nil
}
