// Demo shows on one machine, without a key and without a network, what
// responses-api-proxy is for: a stand-in for OpenAI that answers only to a
// made-up key, the real proxy, a client that has no key and gets its answer as
// it streams, and a thief who looks for the key in the proxy's memory. The same
// thief then finds it in a plain httputil.ReverseProxy, which proves that it
// can find keys.
//
// It builds the proxy with the go command, in a temporary folder, and listens
// on 127.0.0.1 only. Whatever it starts has ended, and the folder is gone, when
// it returns, also after Ctrl-C.
//
// Exit codes: 0 if all went as it should, 1 if anything did not, 2 for a
// command line that it does not understand.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

const usage = `Usage: go run ./cmd/demo [-proxy FILE]

Shows what responses-api-proxy is for, on this machine alone: a client gets a
streamed answer without having the key, and a thief does not find the key in
the proxy's memory. As root the thief may read all of that memory.

Flags:
  -proxy FILE  the proxy to show (default: it is built from this module)
  -h           print this text

NO_COLOR in the environment keeps the output plain.

Example:
  sudo env PATH="$PATH" go run ./cmd/demo
`

// errInterrupted says that somebody wanted the demo to end.
var errInterrupted = errors.New("interrupted")

func main() {
	if len(os.Args) > 1 && os.Args[1] == naiveCommand {
		os.Exit(naiveMain(os.Args[2:], naiveProxy))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is main for the demo itself.
func run(args []string, out *os.File, errs io.Writer) int {
	proxy, err := parseArgs(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(out, usage)
		return 0
	case err != nil:
		fmt.Fprintf(errs, "demo: %v; run it with -h for its flags\n", err)
		return 2
	}
	ctx, stop := interruptible()
	defer stop()
	s := &screen{w: out, color: wantsColor(out)}
	if err := demo(ctx, s, proxy); err != nil {
		fmt.Fprintf(errs, "\ndemo: failed: %v\n", err)
		return 1
	}
	if s.err != nil {
		return 1 // who should have read the output is gone
	}
	return 0
}

func parseArgs(args []string) (proxy string, err error) {
	fs := flag.NewFlagSet("demo", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&proxy, "proxy", "", "")
	err = fs.Parse(args)
	if err == nil && fs.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	return proxy, err
}

// interruptible returns a context that ends with the signals that ask a program
// to stop, so that the demo can clear up after itself. A broken pipe must not
// end it without that either: writes report it.
func interruptible() (context.Context, func()) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, cancel := context.WithCancelCause(context.Background())
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-asked
		cancel(errInterrupted)
	}()
	return ctx, func() { cancel(nil) }
}
