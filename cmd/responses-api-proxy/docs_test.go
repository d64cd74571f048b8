package main

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/cli"
)

var update = flag.Bool("update", false, "write the lists of flags in README.md and the man page anew")

// firstFlags are those that a first user needs.
var firstFlags = []string{"port", "server-info", "upstream-url", "allow-user", "max-tokens-per-user", "user", "protection", "audit"}

// TestDocuments checks that the lists of flags in README.md and the manual page
// are those that the tables of flags give.
func TestDocuments(t *testing.T) {
	const readme, man = "../../README.md", "../../docs/responses-api-proxy.1.md"
	flags := flagTable(&options{})
	first := slices.DeleteFunc(slices.Clone(flags), func(f cli.Flag) bool { return !slices.Contains(firstFlags, f.Name) })
	if len(first) != len(firstFlags) {
		t.Errorf("of the first flags %q only %d exist", firstFlags, len(first))
	}
	for _, list := range []struct{ path, name, want string }{
		{readme, "common", cli.Table(first)},
		{man, "serve", cli.Markdown(topics, flags)},
		{man, "verify", cli.Markdown([]cli.Topic{{Name: "verify"}}, cli.Verify(nil))},
		{man, "status", cli.Markdown([]cli.Topic{{Name: "status"}}, cli.Status(nil, nil))},
		{man, "health", cli.Markdown([]cli.Topic{{Name: "health"}}, cli.Health)},
	} {
		text, err := os.ReadFile(list.path)
		if err != nil {
			t.Fatal(err)
		}
		before, rest, begins := strings.Cut(string(text), "<!-- begin "+list.name+" -->\n")
		got, after, ends := strings.Cut(rest, "<!-- end "+list.name+" -->\n")
		switch {
		case !begins || !ends:
			t.Errorf("%s has no place for the flags of %s", list.path, list.name)
		case *update:
			text := before + "<!-- begin " + list.name + " -->\n" + list.want + "<!-- end " + list.name + " -->\n" + after
			if err := os.WriteFile(list.path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		case got != list.want:
			t.Errorf("%s: the flags of %s are not those of the table: go test ./cmd/responses-api-proxy -run TestDocuments -update", list.path, list.name)
		}
	}
}

// TestFlagTable checks that each entry has the parts that the texts are made of.
func TestFlagTable(t *testing.T) {
	var original []string
	for _, f := range flagTable(&options{}) {
		if f.Original {
			original = append(original, f.Name)
		}
		if f.Set == nil {
			t.Errorf("%s sets nothing", &f)
		}
		if f.Topic == "" {
			continue
		}
		if !slices.ContainsFunc(topics, func(topic cli.Topic) bool { return topic.Name == f.Topic }) {
			t.Errorf("%s has the topic %q, which is not in the help", &f, f.Topic)
		}
		if f.Summary == "" || strings.HasSuffix(f.Summary, ".") || strings.ContainsAny(f.Summary, "[]\\`|") {
			t.Errorf("%s: a shell, a table or a reader stumbles over %q", &f, f.Summary)
		}
		if f.Text != "" && (!strings.HasSuffix(f.Text, ".") || strings.Count(f.Text, "`")%2 != 0) {
			t.Errorf("%s: %q is not sentences", &f, f.Text)
		}
	}
	want := []string{"port", "server-info", "http-shutdown", "upstream-url", "dump-dir",
		"github-oidc", "oidc-audience", "identity-provider-id", "service-account-id", "github-oidc-request-url"}
	if !slices.Equal(original, want) {
		t.Errorf("flags of the original: %q, want %q", original, want)
	}
}

// TestHelpHasEveryFlag checks that help all has each flag once, and that no line
// is too long for a terminal.
func TestHelpHasEveryFlag(t *testing.T) {
	flags := flagTable(&options{})
	all := cli.Help(topics, flags, "all")
	for _, f := range flags {
		want := 1
		if f.Topic == "" {
			want = 0
		}
		if n := strings.Count(all, "\n  "+f.Usage()+"\n") + strings.Count(all, "\n  "+f.Usage()+"  "); n != want {
			t.Errorf("help all has %s %d times, want %d", &f, n, want)
		}
	}
	for line := range strings.Lines(all + usage()) {
		if len(line) > 81 {
			t.Errorf("longer than 80 columns: %s", line)
		}
	}
	for _, topic := range topics {
		if text := cli.Help(topics, flags, topic.Name); text == "" || !strings.Contains(all, text) || !strings.Contains(usage(), "\n  "+topic.Name+" ") {
			t.Errorf("the topic %s has no help, or is not listed", topic.Name)
		}
	}
}

func TestUsageEndsWithAnExample(t *testing.T) {
	_, example, ok := strings.Cut(usage(), "\nExample:\n")
	if !ok || strings.Contains(example, "\n\n") {
		t.Errorf("the usage text does not end with its example")
	}
	if strings.Contains(example, "sk-") {
		t.Errorf("the example shows a key on a command line")
	}
}

// TestDocumentsNameRealFlags checks that every flag in the documents is this program's, or another's that is listed here.
func TestDocumentsNameRealFlags(t *testing.T) {
	known := []string{ // of codex, bash, podman, docker, systemctl, systemd-creds, setpriv, prlimit, Prometheus, packagers, scripts/release.sh
		"skip-git-repo-check", "format", "health-cmd", "read-only", "cap-drop", "security-opt", "rm", "user", "name", "now", "reuid", "fsize",
		"web.console.templates", "allow-unsigned-rpm", "allow-untrusted", "enable", "ignore-missing", "manifest", "no-git", "prefix", "repo",
		"repository", "snapshot", "target", "noprofile", "norc",
	}
	for _, flags := range [][]cli.Flag{flagTable(&options{}), cli.Verify(nil), cli.Health} {
		for _, f := range flags {
			known = append(known, f.Name)
		}
	}
	name := regexp.MustCompile(`(?:^|[^-\w])--([a-z][a-z0-9.-]*)`)
	var documents []string
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../contrib/*/README.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, found...)
	}
	checked := 0
	for _, path := range documents {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range name.FindAllStringSubmatch(string(text), -1) {
			checked++
			if flag := strings.TrimRight(m[1], ".-"); !slices.Contains(known, flag) {
				t.Errorf("%s names --%s, which is no flag", path, flag)
			}
		}
	}
	if checked < 200 {
		t.Errorf("only %d flags were found", checked)
	}
}
