package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/cli"
	"github.com/responses-api-proxy/responses-api-proxy/internal/metrics"
)

const statusUsage = `Usage: responses-api-proxy status [--json] [--metrics ADDR|unix:PATH]

Shows what a running proxy does: requests and tokens by user, limits left,
errors, protections. It asks the listener of --metrics. Exit codes: 0 shown,
1 no answer, 2 for a command line that it does not understand.

`

// status runs the subcommand and returns its exit code.
func status(args []string) int {
	addr, asJSON := "", false
	flags := cli.Status(&addr, &asJSON)
	_, rest, err := cli.Parse(flags, args)
	switch {
	case errors.Is(err, cli.ErrHelp):
		fmt.Print(statusUsage + cli.Help([]cli.Topic{{Name: "status", Title: "Flags"}}, flags, "status"))
		return 0
	case err == nil && len(rest) > 0:
		err = fmt.Errorf("unexpected argument %q; the address follows --metrics", rest[0])
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%sstatus: %v; run it with status --help\n", linePrefix, err)
		return 2
	}
	text, err := fetchStatus(addr, asJSON)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%sstatus: %v\n", linePrefix, err)
		return 1
	}
	fmt.Print(text)
	return 0
}

// fetchStatus returns what to print. addr may be "" for the default.
func fetchStatus(addr string, asJSON bool) (string, error) {
	if path := strings.TrimPrefix(cli.DefaultMetrics, "unix:"); addr == "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("%w; start the proxy with --metrics ADDR|unix:PATH, and repeat that flag here", err)
		}
		addr = cli.DefaultMetrics
	}
	document, err := metrics.Fetch(addr, "/status.json")
	if err != nil {
		return "", err
	}
	var indented bytes.Buffer
	var s metrics.Status
	if err := errors.Join(json.Unmarshal(document, &s), json.Indent(&indented, document, "", "  ")); err != nil {
		return "", fmt.Errorf("%s/status.json is no status: %w; see what listens there", addr, err)
	}
	if asJSON {
		return indented.String(), nil
	}
	return s.Text(userName), nil
}

// userName returns a user's name and number.
func userName(uid int64) string {
	number := strconv.FormatInt(uid, 10)
	found, err := user.LookupId(number)
	if err != nil {
		return number
	}
	return found.Username + " (" + number + ")"
}
