// Package attack is the attack suite that the subcommand verify runs: it attempts what an attacker would, and reports
// the results.
//
// It sends nothing that a correct proxy would forward. The body of every request is invalid JSON, so that a request
// which is forwarded costs nothing. It works against any proxy with the same interface, the original included.
//
// With --test-instance it starts and stops the proxy itself, with a random key and a fake upstream.
package attack

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/cli"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/relay"
)

// Usage is printed by --help.
//
//go:embed usage.txt
var Usage string

const groupState = "Its state"

// childCommand makes this program, run as another user, check only whether that user may call. It is internal.
const childCommand = "--child-ask"

// childRaceCommand makes this program, run as the proxy's user, race proxies at their start. It is internal.
const childRaceCommand = "--child-race"

// options are the parsed command line.
type options struct {
	serverInfo, socket string
	proxy              string // the program to start, for testInstance
	testInstance       bool
	port, pid          int
	keyStdin, spend    bool
	disruptive, json   bool
	asking, racing     bool     // set in children of verify
	open               []string // open routes, by the names of --allow-route
}

// errFlags marks an error of the command line.
type errFlags struct{ error }

// Run is the subcommand; args are the arguments after "verify". It returns the exit code: 0 if no attempt succeeded, 1
// if one did, 2 for an invalid command line or a proxy that cannot be found.
func Run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	code, err := run(args, stdin, stdout)
	switch {
	case errors.Is(err, cli.ErrHelp):
		io.WriteString(stdout, Usage)
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "responses-api-proxy: verify: %v\n", err)
		if errors.As(err, &errFlags{}) {
			fmt.Fprintln(stderr, "responses-api-proxy: run it with verify --help for its flags")
		}
		return 2
	}
	return code
}

func run(args []string, stdin io.Reader, stdout io.Writer) (int, error) {
	opts, err := parseFlags(args)
	if err != nil {
		return 0, err
	}
	if opts.asking {
		return 0, childAsk(opts, stdout)
	}
	if opts.racing {
		return 0, childRace(stdin, stdout)
	}
	if opts.testInstance {
		return runHarness(opts, stdout)
	}
	t, err := find(opts)
	if err != nil {
		return 0, err
	}
	if opts.keyStdin {
		if t.key, err = readKey(stdin); err != nil {
			return 0, err
		}
	}
	return tryAll(context.Background(), t, stdout)
}

// runHarness makes all attempts against a proxy that it starts and stops.
func runHarness(opts *options, stdout io.Writer) (int, error) {
	ctx, stop := interruptible()
	defer stop()
	s, err := openHarness(ctx, opts.program())
	if err != nil {
		return 0, err
	}
	defer s.close()
	opts.serverInfo, opts.spend = s.info, true // free of charge here
	t, err := find(opts)
	if err != nil {
		return 0, err
	}
	t.key, t.up, t.says = s.key, s.up, s.protections()
	return tryAll(ctx, t, stdout)
}

// tryAll makes all attempts and reports them.
func tryAll(ctx context.Context, t *target, stdout io.Writer) (int, error) {
	r := newReport(t, stdout)
	for _, a := range attempts(t) {
		if ctx.Err() != nil {
			return 0, errInterrupted
		}
		r.add(a)
	}
	if ctx.Err() != nil {
		return 0, errInterrupted // the last attempt was interrupted and proves nothing
	}
	return r.end()
}

// attempts returns the attempts in order; those that stop the proxy are last.
func attempts(t *target) (list []attempt) {
	list = append(list, hostileUpstreamAttempts(t)...)
	list = append(list, processAttempts(t)...)
	if t.says != "" {
		list = append(list, attempt{groupState, "protections", "as the proxy reports them", func() (result, string) { return info, t.says }})
	}
	list = append(list, raceAttempts(t)...)
	list = append(list, fileAttempts(t)...)
	list = append(list, networkAttempts(t)...)
	list = append(list, spendAttempts(t)...)
	list = append(list, echoAttempts(t)...)
	return append(list, disruptiveAttempts(t)...)
}

// Flags returns the flags of the command line, from which a test of the proxy makes help and completions.
func Flags() []cli.Flag { return new(options).flags() }

func (o *options) flags() []cli.Flag {
	return []cli.Flag{
		{Name: "server-info", Value: "FILE", Set: cli.Any(&o.serverInfo)},
		{Name: "port", Value: "N", Set: cli.Int(&o.port, 1, 65535, "a number from 1 to 65535 is needed")},
		{Name: "socket", Value: "PATH", Set: cli.Any(&o.socket)},
		{Name: "pid", Value: "PID", Set: cli.Int(&o.pid, 1, 1<<30, "the number of a process is needed; is exactly one proxy running?")},
		{Name: "test-instance", Also: "stand-in", Set: cli.Bool(&o.testInstance)},
		{Name: "proxy", Value: "PROGRAM", Set: cli.Any(&o.proxy)},
		{Name: "allow-route", Value: "NAME", Repeat: true, Set: cli.Each(&o.open, relay.CheckRoute)},
		{Name: "key-stdin", Set: cli.Bool(&o.keyStdin)},
		{Name: "spend", Set: cli.Bool(&o.spend)},
		{Name: "disruptive", Set: cli.Bool(&o.disruptive)},
		{Name: "json", Set: cli.Bool(&o.json)},
		{Name: "help", Set: cli.RequestHelp},
		{Name: "h", Hidden: true, Set: cli.RequestHelp},
		{Name: childCommand[2:], Hidden: true, Set: cli.Bool(&o.asking)},
		{Name: childRaceCommand[2:], Hidden: true, Set: cli.Bool(&o.racing)},
	}
}

func parseFlags(args []string) (*options, error) {
	o := &options{}
	switch _, rest, err := cli.Parse(o.flags(), args); {
	case errors.Is(err, cli.ErrHelp):
		return nil, err
	case err != nil:
		return nil, errFlags{err}
	case len(rest) > 0:
		return nil, errFlags{errors.New("unexpected argument; verify takes flags only")}
	}
	if err := o.settle(); err != nil {
		return nil, errFlags{err}
	}
	return o, nil
}

// settle checks that the options are compatible.
func (o *options) settle() error {
	ways := 0
	for _, given := range []bool{o.serverInfo != "", o.socket != "", o.port != 0, o.testInstance} {
		if given {
			ways++
		}
	}
	switch {
	case o.racing && ways == 0:
		return nil
	case ways != 1:
		return errors.New("give one of --server-info FILE, --port N, --socket PATH and --test-instance")
	case o.testInstance && (o.pid != 0 || o.keyStdin):
		return errors.New("--test-instance starts its own proxy; omit --pid and --key-stdin")
	case o.proxy != "" && !o.testInstance:
		return errors.New("--proxy goes with --test-instance")
	}
	return nil
}

// program returns the proxy's program and first arguments.
func (o *options) program() []string {
	if words := strings.Fields(o.proxy); len(words) > 0 {
		return words
	}
	return []string{proxyBeside()}
}

// readKey reads the key to search for.
func readKey(stdin io.Reader) ([]byte, error) {
	const most = 4096
	text, err := io.ReadAll(io.LimitReader(stdin, most))
	if err != nil {
		return nil, fmt.Errorf("cannot read the key from standard input: %w", err)
	}
	for i, c := range text {
		if c == '\n' || c == '\r' {
			text = text[:i]
			break
		}
	}
	if len(text) < memscan.MinFragment || len(text) == most {
		return nil, fmt.Errorf("the key on standard input has %d characters; the search needs at least %d", len(text), memscan.MinFragment)
	}
	return text, nil
}

// isTerminal reports whether w is a terminal that should get colour (no-color.org).
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0 &&
		os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && runtime.GOOS != "windows"
}
