package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
)

// usage is printed by --help. docs and tests are checked against it.
const usage = `Usage: responses-api-proxy [flags] < KEY

Reads an OpenAI API key from standard input and forwards POST /v1/responses on
127.0.0.1 to the upstream with the key added. Its clients never see the key.

Flags:
  --port N                   port of 127.0.0.1 to listen on (default: a free one)
  --server-info FILE         write {"port":N,"pid":N} to FILE once listening
  --http-shutdown            let GET /shutdown stop the proxy
  --upstream-url URL         where requests go, with path and query
                             (default: https://api.openai.com/v1/responses)
  --insecure-upstream        allow plain http to an upstream on another host:
                             the key crosses the network in clear
  --upstream-tls 1.3|1.2     TLS version towards the upstream (default: 1.3)
  --secret-memory auto|require
                             where the kernel has no secret memory: use locked
                             memory, or do not start (default: auto)
  --drain-timeout D          how long running requests may go on after a stop
                             (default: 10s)
  --version                  print the version
  --help                     print this text

A flag's value may follow as the next word or behind '='; one dash will do.

Example:
  printenv OPENAI_API_KEY | env -u OPENAI_API_KEY responses-api-proxy --port 8080
  OPENAI_BASE_URL=http://127.0.0.1:8080/v1 your-client
`

const defaultDrain = 10 * time.Second

// options are what the command line says.
type options struct {
	print            string // to standard output, in place of serving
	port             uint16
	serverInfo       string
	httpShutdown     bool
	upstreamURL      string
	insecureUpstream bool
	legacyTLS        bool
	secretMemory     secret.Policy
	drainTimeout     time.Duration
}

// parseFlags reads a command line. Each flag may stand there once.
func parseFlags(args []string) (*options, error) {
	o := &options{upstreamURL: upstream.DefaultURL, secretMemory: secret.Auto, drainTimeout: defaultDrain}
	fs := newFlagSet(o)
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		o.print = usage
		return o, nil
	case err != nil:
		return nil, err
	case fs.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	return o, nil
}

func newFlagSet(o *options) *flag.FlagSet {
	fs := flag.NewFlagSet("responses-api-proxy", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	value := func(name string, set func(string) error) { fs.Func(name, "", once(set)) }
	value("port", func(s string) error {
		n, err := strconv.ParseUint(s, 10, 16)
		o.port = uint16(n)
		return when(err != nil, "a port is a number from 0 to 65535")
	})
	value("server-info", func(s string) error {
		o.serverInfo = s
		return when(s == "", "a file name is needed")
	})
	value("upstream-url", func(s string) error { o.upstreamURL = s; return nil })
	value("upstream-tls", func(s string) error {
		o.legacyTLS = s == "1.2"
		return when(s != "1.2" && s != "1.3", "choose 1.3 or 1.2")
	})
	value("secret-memory", func(s string) error {
		o.secretMemory = secret.Policy(s)
		return when(o.secretMemory != secret.Auto && o.secretMemory != secret.Require, "choose auto or require")
	})
	value("drain-timeout", func(s string) (err error) {
		o.drainTimeout, err = time.ParseDuration(s)
		return when(err != nil || o.drainTimeout < 0, "a duration is a number with a unit, such as 10s or 2m")
	})
	toggle := func(name string, set func()) {
		fs.BoolFunc(name, "", once(func(s string) error { set(); return when(s != "true", "this flag takes no value") }))
	}
	toggle("http-shutdown", func() { o.httpShutdown = true })
	toggle("insecure-upstream", func() { o.insecureUpstream = true })
	toggle("version", func() { o.print = version() })
	return fs
}

// once refuses a flag that is given again: the second would silently win.
func once(set func(string) error) func(string) error {
	seen := false
	return func(s string) error {
		if seen {
			return errors.New("the flag is given more than once")
		}
		seen = true
		return set(s)
	}
}

func when(wrong bool, text string) error {
	if wrong {
		return errors.New(text)
	}
	return nil
}

// version describes the build: the module's version, or the commit that it was
// built from.
func version() string {
	v := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		v = info.Main.Version
	}
	return "responses-api-proxy " + v + "\n"
}
