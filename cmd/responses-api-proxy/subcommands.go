package main

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/cli"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/metrics"
)

// subcommands are the words that may stand first.
var subcommands = []string{"verify", "health", "status", "help", "version", "completion"}

// texts has what --help, help and completion print. The lists of flags in it are made from the man page and the tables
// of flags.
//
//go:generate go test -run TestDocuments -update
//go:embed texts
var texts embed.FS

// document returns one of the texts; "" if there is none of that name.
func document(name string) string {
	text, _ := texts.ReadFile("texts/" + name)
	return string(text)
}

// subcommand runs what args begin with, unless that is not a subcommand, and returns its exit code.
func subcommand(args []string) (code int, ok bool) {
	if len(args) == 0 || !slices.Contains(subcommands, args[0]) {
		return 0, false
	}
	name := args[0]
	switch name {
	case "verify":
		return verify(args[1:]), true
	case "health", "status":
		return runClient(name, args[1:]), true
	}
	text := document(strings.Join(args, "-"))
	if name == "version" && len(args) == 1 {
		text = version()
	}
	if text == "" {
		fmt.Fprintf(os.Stderr, "%s%s: its argument is wrong; use help, help TOPIC, version or completion bash|zsh|fish\n", linePrefix, name)
		return 2, true
	}
	fmt.Print(text)
	return 0, true
}

// version returns the program's name and version, as a line.
func version() string { return "responses-api-proxy " + moduleVersion() + "\n" }

// moduleVersion returns the module's version, or the commit that it was built from.
func moduleVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// verify replaces this process, before it has a key, with the attack suite: the program responses-api-proxy-verify in
// the directory of this one, and no other, with the same arguments, environment and descriptors. A link to this program
// does not lead to another directory. It returns only when that fails, with the exit code.
func verify(args []string) int {
	program := "responses-api-proxy-verify"
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err == nil {
		program = filepath.Join(filepath.Dir(self), program)
		err = become(program, append([]string{program}, args...))
	}
	hint := "run that program directly, with the same flags" // it is not executable
	if errors.Is(err, fs.ErrNotExist) {
		hint = "packages, archives and the image have it beside this program; or build both with " +
			`"go install github.com/responses-api-proxy/responses-api-proxy/cmd/...@latest"`
	}
	fmt.Fprintf(os.Stderr, "%[1]sverify: cannot run %[2]s: %[3]v\n%[1]s%[4]s\n", linePrefix, program, err, hint)
	return 2
}

// defaultMetrics is where the container image and the examples for systemd have the metrics.
const defaultMetrics = "unix:/run/responses-api-proxy/metrics.sock"

// client has the flags of the subcommands that ask a running proxy's listener of --metrics.
type client struct {
	addr        string
	ready, json bool
}

// flags returns the flags of the subcommand health or status.
func (c *client) flags(name string) []cli.Flag {
	help := cli.Flag{Name: "help", Set: cli.RequestHelp}
	if name == "health" {
		return []cli.Flag{{Name: "ready", Set: cli.Bool(&c.ready)}, help}
	}
	return []cli.Flag{
		{Name: "metrics", Value: "ADDR|unix:PATH", Set: cli.String(&c.addr, "the address of --metrics")},
		{Name: "json", Set: cli.Bool(&c.json)},
		help,
	}
}

// runClient runs the subcommand health or status and returns its exit code.
func runClient(name string, args []string) int {
	var c client
	_, rest, err := cli.Parse(c.flags(name), args)
	switch {
	case errors.Is(err, cli.ErrHelp):
		fmt.Print(document(name))
		return 0
	case err != nil:
	case name == "health" && len(rest) != 1:
		err = errors.New("one ADDR is needed, that of --metrics")
	case name == "status" && len(rest) > 0:
		err = fmt.Errorf("unexpected argument %q; the address follows --metrics", rest[0])
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%[1]s%[2]s: %[3]v\n%[1]srun it with %[2]s --help\n", linePrefix, name, err)
		return 2
	}
	text := ""
	switch {
	case name == "status":
		text, err = c.status()
	case c.ready:
		_, err = metrics.Fetch(rest[0], "/readyz")
	default:
		_, err = metrics.Fetch(rest[0], "/healthz")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s%s: %v\n", linePrefix, name, err)
		return 1
	}
	fmt.Print(text)
	return 0
}

// status returns the status of the proxy as it is printed.
func (c *client) status() (string, error) {
	if path := strings.TrimPrefix(defaultMetrics, "unix:"); c.addr == "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("%w; start the proxy with --metrics ADDR|unix:PATH, and repeat that flag here", err)
		}
		c.addr = defaultMetrics
	}
	document, err := metrics.Fetch(c.addr, "/status.json")
	if err != nil {
		return "", err
	}
	var s metrics.Status
	if err := json.Unmarshal(document, &s); err != nil {
		return "", fmt.Errorf("%s/status.json is no status: %w; see what listens there", c.addr, err)
	}
	if c.json {
		var indented bytes.Buffer
		json.Indent(&indented, document, "", "  ") // cannot fail: Unmarshal accepts it
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
