package main

import (
	"cmp"
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
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/attack"
)

var update = flag.Bool("update", false, "write the lists of flags in README.md and in the texts of the program anew")

const manPath = "../../docs/responses-api-proxy.1.md"

// topics are the headings of the man page's flags, as they are called by help, in their order.
var topics = []string{"serving", "upstream", "callers", "limits", "protection", "logging", "identity", "other"}

var (
	// firstFlags are those that a first user needs.
	firstFlags = []string{"port", "server-info", "upstream-url", "allow-user", "max-tokens-per-user", "user", "protection", "audit"}
	// commonFlags are those of --help.
	commonFlags = []string{"port", "listen", "server-info", "http-shutdown", "upstream-url", "key-file", "allow-user", "max-tokens-per-user", "user",
		"protection", "audit", "version", "help"}
)

// tables returns the tables of flags by the names that they have in the man page and in completions.
func tables() map[string][]cli.Flag {
	all := map[string][]cli.Flag{"serve": flagTable(&options{}), "verify": attack.Flags(), "health": new(client).flags("health"), "status": new(client).flags("status")}
	for name, flags := range all {
		all[name] = slices.DeleteFunc(flags, func(f cli.Flag) bool { return f.Hidden })
	}
	return all
}

// TestDocuments checks that the man page has the flags of the tables, and that the lists of flags elsewhere are those
// that the man page and the tables give.
func TestDocuments(t *testing.T) {
	page, err := os.ReadFile(manPath)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]entry{}
	man := map[string]string{} // the parts of the page
	for name, flags := range tables() {
		_, rest, begins := strings.Cut(string(page), "<!-- begin "+name+" -->\n")
		part, _, ends := strings.Cut(rest, "<!-- end "+name+" -->\n")
		if !begins || !ends {
			t.Fatalf("%s has no place for the flags of %s", manPath, name)
		}
		man[name] = part
		if all[name], err = describe(part, flags); err != nil {
			t.Fatalf("%s, flags of %s: %v", manPath, name, err)
		}
		for shell, begin := range map[string]string{"bash": "_responses_api_proxy_%s='\n", "zsh": "local %s_flags='\n", "fish": "__responses_api_proxy_add %s '\n"} {
			fill(t, "texts/completion-"+shell, fmt.Sprintf(begin, name), "'\n", lines(all[name], shell))
		}
	}
	serve := all["serve"]
	list := ""
	for i, text := range sections(man["serve"]) {
		title, _, _ := strings.Cut(text, "\n")
		list += fmt.Sprintf("  %-12s%s\n", topics[i], title)
		fill(t, "texts/help-"+topics[i], "", "", help(text, serve))
	}
	fill(t, "texts/help-all", "", "", helpAll(man["serve"], serve))
	fill(t, "texts/help", "by TOPIC:\n", "  all ", list)
	fill(t, "texts/help", "behind '=':\n", "All flags", columns(named(t, serve, commonFlags), entry.brief)+"\n")
	fill(t, "texts/status", "\nFlags:\n", "", columns(all["status"], entry.full))
	fill(t, "../../internal/lab/attack/usage.txt", "\nFlags:\n", "Marks: ", columns(all["verify"], entry.full)+"\n")
	fill(t, "../../README.md", "<!-- begin common -->\n", "<!-- end common -->\n", table(named(t, serve, firstFlags)))
}

// fill checks that a file has text between begin and the line that begins with end, or writes it there. Without begin,
// or end, it is from the file's beginning, or to its end.
func fill(t *testing.T, path, begin, end, text string) {
	t.Helper()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begins := strings.Cut(string(file), begin)
	at := len(rest)
	if end != "" {
		at = strings.Index("\n"+rest, "\n"+end)
	}
	switch {
	case !begins || at < 0:
		t.Errorf("%s has no place between %q and %q", path, begin, end)
	case *update:
		if err := os.WriteFile(path, []byte(before+begin+text+rest[at:]), 0o644); err != nil {
			t.Fatal(err)
		}
	case rest[:at] != text:
		t.Errorf("%s: the flags below %q are not those of the man page: go generate ./cmd/responses-api-proxy", path, begin)
	}
}

// An entry is a flag with its text in the man page.
type entry struct {
	cli.Flag
	summary  string // one clause, in lower case, without a period
	standard string // the default, as the man page has it; "" if it has none
	text     string // all sentences
}

var (
	inPage  = regexp.MustCompile(`(?m)^(\*\*-.+)\n: ((?:.+\n)+)`)
	clauses = regexp.MustCompile(`^(.*?)(?: \(default: (.*?)\))?\.(?: |$)`)
)

// describe returns the flags of a table with their texts in a part of the man page, which has the same flags in the same
// order.
func describe(part string, flags []cli.Flag) (all []entry, err error) {
	found := inPage.FindAllStringSubmatch(part, -1)
	if len(found) != len(flags) {
		return nil, fmt.Errorf("there are %d, and %d in the table", len(found), len(flags))
	}
	for i, f := range flags {
		text := strings.Join(strings.Fields(found[i][2]), " ")
		m := clauses.FindStringSubmatch(text)
		repeat := strings.Contains(text, " May be repeated.")
		needs := strings.Join(strings.Fields(f.Needs), "` or `--")
		switch {
		case found[i][1] != heading(f):
			return nil, fmt.Errorf("%s is where the table has %s", found[i][1], heading(f))
		case m == nil:
			return nil, fmt.Errorf("%s has no sentence", f)
		case repeat != f.Repeat:
			return nil, fmt.Errorf("%s: it may be repeated: %v", f, f.Repeat)
		case strings.Contains(text, " Needs `") != (needs != "") || needs != "" && !strings.HasSuffix(text, " Needs `--"+needs+"`."):
			return nil, fmt.Errorf("%s does not end with what it needs: %q", f, f.Needs)
		}
		all = append(all, entry{Flag: f, summary: lower(m[1]), standard: m[2], text: text})
	}
	return all, nil
}

// lower returns a clause with a small first letter, unless it begins with a name or an abbreviation.
func lower(s string) string {
	word, _, _ := strings.Cut(s, " ")
	if strings.ToLower(word[1:]) != word[1:] {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

// named returns the entries of the flags with these names.
func named(t *testing.T, all []entry, names []string) []entry {
	found := slices.DeleteFunc(slices.Clone(all), func(e entry) bool { return !slices.Contains(names, e.Name) })
	if len(found) != len(names) {
		t.Errorf("of the flags %q only %d exist", names, len(found))
	}
	return found
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

// usage returns the flag as it is typed, with its value.
func (e entry) usage() string {
	switch {
	case e.Value == "":
		return e.String()
	case e.Optional:
		return e.String() + "[=" + e.Value + "]"
	}
	return e.String() + " " + e.Value
}

// full returns the text without its backquotes.
func (e entry) full() string { return plain(e.text) }

// brief returns what fits in a list of flags.
func (e entry) brief() string {
	if e.standard == "" {
		return e.summary
	}
	return e.summary + " (default: " + e.standard + ")"
}

// table returns flags as a table in Markdown.
func table(flags []entry) string {
	var b strings.Builder
	b.WriteString("| flag | meaning | default |\n|---|---|---|\n")
	for _, f := range flags {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", strings.ReplaceAll(f.usage(), "|", `\|`), f.summary, f.standard)
	}
	return b.String()
}

// lines returns a line for each flag for a shell's completion: its name, behind a star if it may be repeated, its value,
// behind "=" if it may be omitted, or a dot, and its summary. They stand in single quotes.
func lines(flags []entry, shell string) string {
	var b strings.Builder
	for _, f := range flags {
		star, value := "", cmp.Or(f.Value, ".")
		if f.Repeat {
			star = "*"
		}
		if f.Optional {
			value = "=" + value
		}
		fmt.Fprintf(&b, "%s%s %s %s\n", star, f, value, f.summary)
	}
	quote := `'\''` // ends the quotation, and begins it again
	if shell == "fish" {
		quote = `\'`
	}
	return strings.ReplaceAll(b.String(), "'", quote)
}

// sections returns the parts of the text that begin with a heading, without its mark.
func sections(text string) []string { return strings.Split(text, "### ")[1:] }

// help returns the help on a topic, of which text is the section in the man page.
func help(text string, flags []entry) string {
	title, rest, _ := strings.Cut(text, "\n\n")
	intro, _, _ := strings.Cut(rest, "\n\n")
	if strings.HasPrefix(intro, "**") {
		intro = ""
	} else {
		intro = wrap(plain(intro), 2) + "\n"
	}
	here := slices.DeleteFunc(slices.Clone(flags), func(e entry) bool { return !strings.Contains(text, "\n"+heading(e.Flag)+"\n") })
	return title + ":\n" + intro + columns(here, entry.full)
}

// helpAll returns the help on every topic.
func helpAll(text string, flags []entry) string {
	var all []string
	for _, section := range sections(text) {
		all = append(all, help(section, flags))
	}
	return strings.Join(all, "\n")
}

// columns lists flags in lines of at most 80 columns.
func columns(flags []entry, text func(entry) string) string {
	const column = 24
	var b strings.Builder
	for _, f := range flags {
		head, body := "  "+f.usage(), wrap(text(f), column)
		if len(head) > column-2 {
			b.WriteString(head + "\n" + body)
			continue
		}
		fmt.Fprintf(&b, "%-*s%s", column, head, strings.TrimLeft(body, " "))
	}
	return b.String()
}

// plain returns text without its backquotes.
func plain(text string) string { return strings.ReplaceAll(text, "`", "") }

// wrap returns text in lines of at most 80 columns, each behind indent spaces.
func wrap(text string, indent int) string {
	var b strings.Builder
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && indent+len(line)+1+len(word) > 80 {
			fmt.Fprintf(&b, "%*s%s\n", indent, "", line)
			line = ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	fmt.Fprintf(&b, "%*s%s\n", indent, "", line)
	return b.String()
}

// TestTexts checks that each text has its parts, and that a flag in the man page must be as in the table.
func TestTexts(t *testing.T) {
	flags := []cli.Flag{
		{Name: "file", Value: "FILE|-"},
		{Name: "user", Value: "USER", Repeat: true, Needs: "file may"},
		{Name: "may", Value: "X|y", Optional: true},
	}
	const page = "### Files\n\nOf `files`.\n\n**--file** *FILE*|**-**\n: Write there (default: 1.3). See\n`this`.\n\n" +
		"### Users\n\n**--user** *USER*\n: It's a user. May be repeated. Needs `--file` or `--may`.\n\n**--may**[=*X*|**y**]\n: OIDC it is.\n\n"
	all, err := describe(page, flags)
	if err != nil {
		t.Fatal(err)
	}
	const files, users = "Files:\n  Of files.\n\n  --file FILE|-         Write there (default: 1.3). See this.\n",
		"Users:\n  --user USER           It's a user. May be repeated. Needs --file or --may.\n  --may[=X|y]           OIDC it is.\n"
	for name, c := range map[string]struct{ got, want string }{
		"table":    {table(all[:1]), "| flag | meaning | default |\n|---|---|---|\n| `--file FILE\\|-` | write there | 1.3 |\n"},
		"common":   {columns(all[:1], entry.brief), "  --file FILE|-         write there (default: 1.3)\n"},
		"topic":    {help(sections(page)[0], all), files},
		"no text":  {help(sections(page)[1], all), users},
		"all":      {helpAll(page, all), files + "\n" + users},
		"in bash":  {lines(all, "bash"), "--file FILE|- write there\n*--user USER it'\\''s a user\n--may =X|y OIDC it is\n"},
		"in fish":  {lines(all[1:2], "fish"), "*--user USER it\\'s a user\n"},
		"no value": {heading(cli.Flag{Name: "on"}), "**--on**"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", name, c.got, c.want)
		}
	}
	for _, wrong := range [][2]string{
		{"**--file** *FILE*", "**--file** *FIL*"}, {" May be repeated.", ""}, {" Needs `--file` or `--may`.", ""}, {" or `--may`", ""},
		{"OIDC it is.", "May be repeated. Needs `--file`."}, {"OIDC it is.", "OIDC"}, {"**--may**", "--may"},
	} {
		if _, err := describe(strings.Replace(page, wrong[0], wrong[1], 1), flags); err == nil {
			t.Errorf("the man page may have %q in place of %q", wrong[1], wrong[0])
		}
	}
}

// TestFlagTable checks that each entry sets something, and that its text can be used by shells and tables.
func TestFlagTable(t *testing.T) {
	page, err := os.ReadFile(manPath)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range flagTable(&options{}) {
		names = append(names, f.Name)
		if f.Set == nil {
			t.Errorf("%s sets nothing", f)
		}
	}
	_, part, _ := strings.Cut(string(page), "<!-- begin serve -->\n")
	part, _, _ = strings.Cut(part, "<!-- end serve -->\n")
	all, err := describe(part, tables()["serve"])
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if strings.ContainsAny(f.summary, "[]\\`|") {
			t.Errorf("%s: a shell, a table or a reader stumbles over %q", f, f.summary)
		}
		if !strings.HasSuffix(f.text, ".") || strings.Count(f.text, "`")%2 != 0 {
			t.Errorf("%s: %q is not sentences", f, f.text)
		}
	}
	for _, original := range []string{"port", "server-info", "http-shutdown", "upstream-url", "dump-dir",
		"github-oidc", "oidc-audience", "identity-provider-id", "service-account-id", "github-oidc-request-url"} {
		if !slices.Contains(names, original) {
			t.Errorf("the original's --%s is missing", original)
		}
	}
}

// TestHelpHasEveryFlag checks that help all has each flag once, and that no line
// is too long for a terminal.
func TestHelpHasEveryFlag(t *testing.T) {
	all := document("help-all")
	for _, f := range flagTable(&options{}) {
		want := 1
		if f.Hidden {
			want = 0
		}
		usage := entry{Flag: f}.usage()
		if n := strings.Count(all, "\n  "+usage+"\n") + strings.Count(all, "\n  "+usage+"  "); n != want {
			t.Errorf("help all has %s %d times, want %d", f, n, want)
		}
	}
	for line := range strings.Lines(all + document("help") + document("status") + document("health")) {
		if len(line) > 81 {
			t.Errorf("longer than 80 columns: %s", line)
		}
	}
	for _, topic := range topics {
		if text := document("help-" + topic); text == "" || !strings.Contains(all, text) || !strings.Contains(document("help"), "\n  "+topic+" ") {
			t.Errorf("the topic %s has no help, or is not listed", topic)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		for _, words := range []string{strings.Join(subcommands, " "), "all " + strings.Join(topics, " ")} {
			if !strings.Contains(document("completion-"+shell), words) {
				t.Errorf("the completion of %s does not offer %q", shell, words)
			}
		}
	}
}

func TestUsageEndsWithAnExample(t *testing.T) {
	_, example, ok := strings.Cut(document("help"), "\nExample:\n")
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
		"disable", "web.console.templates", "allow-unsigned-rpm", "allow-untrusted", "enable", "ignore-missing", "manifest", "no-git", "prefix", "repo",
		"repository", "snapshot", "target", "noprofile", "norc", "offline", "system", "user-group",
	}
	for _, flags := range tables() {
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
