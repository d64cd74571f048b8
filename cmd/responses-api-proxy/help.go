package main

import (
	"cmp"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/cli"
)

const synopsis = `Usage: responses-api-proxy [flags] < KEY
       responses-api-proxy help [TOPIC]
       responses-api-proxy verify --help
       responses-api-proxy health [--ready] ADDR
       responses-api-proxy status [--json] [--metrics ADDR]
       responses-api-proxy completion bash|zsh|fish
       responses-api-proxy version

Reads an OpenAI API key from standard input and forwards POST /v1/responses on
127.0.0.1 to the upstream with the key added. Its clients never see the key.

Flags that most users need; a value follows as the next word or behind '=':
`

const examples = `
Example:
  printenv OPENAI_API_KEY | env -u OPENAI_API_KEY responses-api-proxy \
    --port 8080 --allow-user codex
  sudo responses-api-proxy --key-file /root/openai.key --user nobody \
    --allow-user codex --protection strict
Codex, as that user:
  codex exec -c 'openai_base_url="http://127.0.0.1:8080/v1"' "Say hello"
An SDK, as that user:
  OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=none python app.py
`

// subcommands are the words that may stand first.
var subcommands = []string{"verify", "health", "status", "help", "version", "completion"}

// usage returns what --help prints.
func usage() string {
	var b strings.Builder
	b.WriteString(synopsis + cli.Common(flagTable(&options{})))
	b.WriteString("\nAll flags, by TOPIC:\n")
	for _, t := range topics {
		fmt.Fprintf(&b, "  %-12s%s\n", t.Name, t.Title)
	}
	return b.String() + "  all         all of these\n" + examples
}

// subcommand runs what args begin with, unless that is not a subcommand, and
// returns its exit code.
func subcommand(args []string) (code int, ok bool) {
	if len(args) == 0 || !slices.Contains(subcommands, args[0]) {
		return 0, false
	}
	name, args := args[0], args[1:]
	switch name {
	case "verify":
		return verify(args), true
	case "health":
		return health(args), true
	case "status":
		return status(args), true
	}
	text := ""
	switch argument := strings.Join(args, " "); {
	case name == "completion":
		text = completion(argument)
	case name == "version" && argument == "":
		text = version()
	case name == "help" && argument == "":
		text = usage()
	case name == "help":
		text = cli.Help(topics, flagTable(&options{}), argument)
	}
	if text == "" {
		fmt.Fprintf(os.Stderr, "%s%s: its argument is wrong; run it with --help for topics and shells\n", linePrefix, name)
		return 2, true
	}
	fmt.Print(text)
	return 0, true
}

// completion returns the script for a shell.
func completion(shell string) string {
	names := []string{"all"}
	for _, t := range topics {
		names = append(names, t.Name)
	}
	return cli.Completion(shell, map[string]string{
		"serve":    cli.Lines(flagTable(&options{})),
		"verify":   cli.Lines(cli.Verify(nil)),
		"health":   cli.Lines(cli.Health),
		"status":   cli.Lines(cli.Status(nil, nil)),
		"commands": strings.Join(subcommands, " "),
		"topics":   strings.Join(names, " "),
	})
}

// version returns the program's name and version, as a line.
func version() string { return "responses-api-proxy " + moduleVersion() + "\n" }

// moduleVersion returns the module's version, or the commit that it was built from.
func moduleVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return cmp.Or(info.Main.Version, "unknown")
}
