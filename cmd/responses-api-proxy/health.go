package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/responses-api-proxy/responses-api-proxy/internal/metrics"
)

const healthUsage = `Usage: responses-api-proxy health [--ready] ADDR

Asks the proxy whose --metrics is ADDR (127.0.0.1:PORT or unix:PATH) whether it
serves, for probes of containers. With --ready: whether it takes new requests.
Exit codes: 0 yes, 1 no, or no answer within 5 seconds, 2 for a command line
that it does not understand.
`

// health runs the subcommand and returns its exit code.
func health(args []string) int {
	path := "/healthz"
	if len(args) > 0 && args[0] == "--ready" {
		path, args = "/readyz", args[1:]
	}
	switch {
	case len(args) == 1 && args[0] == "--help":
		fmt.Print(healthUsage)
		return 0
	case len(args) != 1:
		fmt.Fprintf(os.Stderr, "%shealth: one ADDR is needed, that of --metrics; run it with health --help\n", linePrefix)
		return 2
	}
	if _, err := metrics.Fetch(args[0], path); err != nil {
		fmt.Fprintf(os.Stderr, "%s%v\n", linePrefix, err)
		return 1
	}
	return 0
}

// healthy returns why the service is ending; nil if it is not.
func (s *service) healthy() error {
	if s.draining.Load() {
		return errors.New("stopping")
	}
	return nil
}

// ready returns why a new request would not be taken; nil if it would.
func (s *service) ready() error {
	if !s.gate.Open() {
		return errors.New("no more requests: a limit has been reached")
	}
	return s.healthy()
}
