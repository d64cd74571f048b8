package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

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
		{readme, "common", table(first)},
		{man, "serve", manual(topics, flags)},
		{man, "verify", manual([]cli.Topic{{Name: "verify"}}, cli.Verify(nil))},
		{man, "status", manual([]cli.Topic{{Name: "status"}}, cli.Status(nil, nil))},
		{man, "health", manual([]cli.Topic{{Name: "health"}}, cli.Health)},
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

// manual returns the flags as the manual page has them. With topics they stand
// below headings.
func manual(topics []cli.Topic, flags []cli.Flag) string {
	var b strings.Builder
	for _, t := range topics {
		if t.Title != "" {
			fmt.Fprintf(&b, "### %s\n\n", t.Title)
		}
		if t.Text != "" {
			fmt.Fprintf(&b, "%s\n", cli.Wrap(t.Text, 0, 120))
		}
		for _, f := range flags {
			if f.Topic == t.Name {
				fmt.Fprintf(&b, "%s\n%s\n", heading(f), cli.Wrap(": "+f.Full(), 0, 120))
			}
		}
	}
	return b.String()
}

// heading returns a flag and its value in the typography of manual pages: words
// are bold, placeholders in italics.
func heading(f cli.Flag) string {
	if f.Value == "" {
		return "**" + f.String() + "**"
	}
	parts := strings.Split(f.Value, "|")
	for i, part := range parts {
		mark := "**"
		if strings.ContainsFunc(part, unicode.IsUpper) {
			mark = "*"
		}
		parts[i] = mark + part + mark
	}
	value := strings.Join(parts, "|")
	if f.Optional {
		return "**" + f.String() + "**[=" + value + "]"
	}
	return "**" + f.String() + "** " + value
}

// table returns the common flags as a table in Markdown.
func table(flags []cli.Flag) string {
	var b strings.Builder
	b.WriteString("| flag | meaning | default |\n|---|---|---|\n")
	for _, f := range flags {
		if f.Common {
			name := strings.ReplaceAll(f.Usage(), "|", `\|`)
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", name, f.Summary, f.Default)
		}
	}
	return b.String()
}

// TestManual checks the typography of the lists of flags.
func TestManual(t *testing.T) {
	flags := []cli.Flag{
		{Name: "file", Value: "FILE|-", Topic: "t", Common: true, Default: "none", Summary: "write there", Text: "See `this`."},
		{Name: "user", Value: "USER", Topic: "u", Repeat: true, Needs: []string{"file"}, Summary: "it's a user"},
		{Name: "hidden", Summary: "not for users"},
		{Name: "may", Value: "X|y", Topic: "v", Optional: true, Summary: "let it"},
	}
	topics := []cli.Topic{{Name: "t", Title: "Files", Text: "Of `files`."}, {Name: "u", Title: "Users"}}
	for name, c := range map[string]struct{ got, want string }{
		"table":    {table(flags), "| flag | meaning | default |\n|---|---|---|\n| `--file FILE\\|-` | write there | none |\n"},
		"optional": {manual([]cli.Topic{{Name: "v"}}, flags), "**--may**[=*X*|**y**]\n: Let it.\n\n"},
		"manual": {manual(topics, flags), "### Files\n\nOf `files`.\n\n**--file** *FILE*|**-**\n: Write there (default: none). See `this`.\n\n" +
			"### Users\n\n**--user** *USER*\n: It's a user. May be repeated. Needs `--file`.\n\n"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", name, c.got, c.want)
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
	known := []string{ // of codex, bash, npm, podman, docker, systemctl, systemd-creds, useradd, setpriv, prlimit, Prometheus, packagers, scripts/release.sh
		"skip-git-repo-check", "format", "health-cmd", "read-only", "cap-drop", "security-opt", "userns", "rm", "user", "name", "now", "reuid", "fsize",
		"web.console.templates", "allow-unsigned-rpm", "allow-untrusted", "enable", "ignore-missing", "manifest", "no-git", "prefix", "repo",
		"repository", "snapshot", "target", "noprofile", "norc", "offline", "system", "user-group",
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
