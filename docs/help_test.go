package docs

import (
	"bytes"
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/attack"
)

const (
	program     = "../cmd/responses-api-proxy"
	manPage     = "responses-api-proxy.1.md"
	completions = "../contrib/completions/"
)

// An option is what a text says about a flag.
type option struct {
	value    string // such as FILE or auto|off; "" for a switch
	fallback string // its default, if that is one word
	repeated bool
}

// options are the flags of a command, by name. The proxy itself is the command
// "serve".
type options map[string]option

// TestHelpAgrees holds README.md, the manual page and the completions to the
// usage texts: the same flags with the same values, closed sets and defaults.
func TestHelpAgrees(t *testing.T) {
	texts := usageTexts(t)
	for _, command := range slices.Sorted(maps.Keys(texts)) {
		want := texts[command]
		compare(t, manPage, command, want, manOptions(t, command), valueName|fallback|repeated)
		compare(t, completions+"responses-api-proxy.bash", command, want, bashOptions(t, command), valueKind)
		compare(t, completions+"_responses-api-proxy", command, want, zshOptions(t, command), valueKind|repeated)
		compare(t, completions+"responses-api-proxy.fish", command, want, fishOptions(t, command), valueKind)
		if command == "serve" {
			compare(t, "../README.md", command, want, readmeOptions(t), valueName|fallback)
		}
	}
}

// What a text is held to.
const (
	valueName = 1 << iota // the value as the usage text has it
	valueKind             // whether there is one, and the words of a closed set
	fallback              // the default, where both state one
	repeated              // whether the flag may be given again
)

func compare(t *testing.T, where, command string, want, got options, what int) {
	t.Helper()
	for _, flag := range slices.Sorted(maps.Keys(want)) {
		w := want[flag]
		g, there := got[flag]
		switch {
		case !there:
			t.Errorf("%s: %s: %s is missing", where, command, strings.TrimSpace(flag+" "+w.value))
		case what&valueName != 0 && g.value != w.value, what&valueKind != 0 && g.value != kind(w.value):
			t.Errorf("%s: %s: the value of %s is %q; the usage text has %q", where, command, flag, g.value, w.value)
		case what&repeated != 0 && g.repeated != w.repeated:
			t.Errorf("%s: %s: that %s may be repeated is said to be %v; the usage text says %v", where, command, flag, g.repeated, w.repeated)
		case what&fallback != 0 && w.fallback != "" && g.fallback != "" && g.fallback != w.fallback:
			t.Errorf("%s: %s: the default of %s is %q; the usage text has %q", where, command, flag, g.fallback, w.fallback)
		}
	}
	for _, flag := range slices.Sorted(maps.Keys(got)) {
		if _, there := want[flag]; !there {
			t.Errorf("%s: %s: %s is no flag", where, command, flag)
		}
	}
}

var closedSet = regexp.MustCompile(`^[a-z0-9.-]+(\|[a-z0-9.-]+)+$`)

// kind is as much of a value as a completion can know.
func kind(value string) string {
	if value == "" || closedSet.MatchString(value) {
		return value
	}
	return "some value"
}

// usageTexts reads the flags of each command out of what its --help prints.
func usageTexts(t *testing.T) map[string]options {
	t.Helper()
	texts := map[string]options{
		"serve":  usageOptions(constant(t, "usage")),
		"verify": usageOptions(attack.Usage),
		"health": synopsisOptions(constant(t, "healthUsage")),
	}
	for _, m := range regexp.MustCompile(`(?m)^ +responses-api-proxy ([a-z]+) `).FindAllStringSubmatch(constant(t, "usage"), -1) {
		if texts[m[1]] == nil {
			t.Errorf("the usage text names the subcommand %s: tell this test where its own usage text is", m[1])
		}
	}
	if len(texts["serve"]) < 20 || len(texts["verify"]) < 8 || len(texts["health"]) < 2 {
		t.Fatalf("the usage texts cannot be read: %v", texts)
	}
	return texts
}

// constant is a string constant of the program.
func constant(t *testing.T, name string) (text string) {
	t.Helper()
	files, err := filepath.Glob(program + "/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if ok && spec.Names[0].Name == name && len(spec.Values) == 1 {
				if literal, ok := spec.Values[0].(*ast.BasicLit); ok {
					text, _ = strconv.Unquote(literal.Value)
				}
			}
			return true
		})
	}
	if text == "" {
		t.Fatalf("%s has no literal constant %s", program, name)
	}
	return text
}

var usageLine = regexp.MustCompile(`(?m)^  (--[a-z-]+)(?: (\S+))?(?:  .*)?\n(?: {8}.*\n)*`)

func usageOptions(text string) options {
	found := options{}
	for _, m := range usageLine.FindAllStringSubmatch(text, -1) {
		found[m[1]] = described(m[2], m[0])
	}
	return found
}

// synopsisOptions reads the flags of a command so small that they stand in its
// first line. --help goes without saying.
func synopsisOptions(text string) options {
	found := options{"--help": {}}
	first, _, _ := strings.Cut(text, "\n")
	for _, m := range regexp.MustCompile(`\[(--[a-z-]+)(?: (\S+))?\]`).FindAllStringSubmatch(first, -1) {
		found[m[1]] = option{value: m[2]}
	}
	return found
}

var (
	blanks      = regexp.MustCompile(`\s+`)
	defaultWord = regexp.MustCompile(`\(default: ([^\s(),;]+)[),;]`)
)

// described is an option with a description as people read it.
func described(value, text string) option {
	o := option{value: value}
	text = blanks.ReplaceAllString(text, " ")
	if m := defaultWord.FindStringSubmatch(text); m != nil {
		o.fallback = m[1]
	}
	o.repeated = strings.Contains(strings.ToLower(text), "may be repeated")
	return o
}

// section is what stands below a heading of the manual page, up to the next of
// the same or a higher level.
func section(t *testing.T, heading string) string {
	t.Helper()
	_, below, ok := strings.Cut(read(t, manPage), "\n"+heading+"\n")
	if !ok {
		t.Fatalf("%s has no heading %q", manPage, heading)
	}
	level, _, _ := strings.Cut(heading, " ")
	end := regexp.MustCompile(`(?m)^#{1,` + strconv.Itoa(len(level)) + `} `)
	return end.Split(below, 2)[0]
}

var (
	manOption = regexp.MustCompile(`(?m)^\*\*(--.*)\n: ((?:.+\n)+)`)
	emphasis  = strings.NewReplacer("*", "", "_", "")
)

func manOptions(t *testing.T, command string) options {
	heading := "### " + command
	if command == "serve" {
		heading = "# OPTIONS"
	}
	found := options{}
	for _, m := range manOption.FindAllStringSubmatch(section(t, heading), -1) {
		flag, value, _ := strings.Cut(emphasis.Replace(m[1]), " ")
		found[flag] = described(value, m[2])
	}
	return found
}

// A row of README's table has flag, meaning and default.
var readmeRow = regexp.MustCompile("(?m)^\\| `(--[a-z-]+) ?([^`]*)` \\|.*\\| (?:`?([^` ]+)`? |.*)\\|$")

func readmeOptions(t *testing.T) options {
	found := options{}
	for _, m := range readmeRow.FindAllStringSubmatch(read(t, "../README.md"), -1) {
		found[m[1]] = option{value: strings.ReplaceAll(m[2], `\|`, "|"), fallback: m[3]}
	}
	return found
}

// block is what stands in a script between a line and the next that ends it.
func block(t *testing.T, script, begin, end string) string {
	t.Helper()
	_, after, ok := strings.Cut(read(t, script), "\n"+begin+"\n")
	inside, _, ended := strings.Cut(after, "\n"+end+"\n")
	if !ok || !ended {
		t.Fatalf("%s has no block from %q to %q", script, begin, end)
	}
	return inside
}

func bashOptions(t *testing.T, command string) options {
	found := options{}
	for line := range strings.SplitSeq(block(t, completions+"responses-api-proxy.bash", "_responses_api_proxy_"+command+"='", "'"), "\n") {
		flag, value, _ := strings.Cut(line, " ")
		found[flag] = option{value: kind(value)}
	}
	return found
}

var zshLine = regexp.MustCompile(`(?m)^\t['"](\*?)(--[a-z-]+)(=?)\[[^\]]+\](?:[^\n]*:\(([^()]+)\))?`)

func zshOptions(t *testing.T, command string) options {
	found := options{}
	for _, m := range zshLine.FindAllStringSubmatch(block(t, completions+"_responses-api-proxy", "local -a "+command+"=(", ")"), -1) {
		found[m[2]] = option{value: words(m[3] != "", m[4]), repeated: m[1] != ""}
	}
	return found
}

var fishLine = regexp.MustCompile(`(?m)^\$([a-z]+) -l ([a-z-]+)( -[xr])?(?: -a '([a-z0-9. -]+)')?`)

func fishOptions(t *testing.T, command string) options {
	found := options{}
	for _, m := range fishLine.FindAllStringSubmatch(read(t, completions+"responses-api-proxy.fish"), -1) {
		if m[1] == command {
			found["--"+m[2]] = option{value: words(m[3] != "", m[4])}
		}
	}
	return found
}

// words is the value that a completion with these words stands for.
func words(takesValue bool, list string) string {
	switch {
	case !takesValue:
		return ""
	case list == "":
		return "some value"
	}
	return strings.ReplaceAll(list, " ", "|")
}

// TestManSections: each has its place, and says something.
func TestManSections(t *testing.T) {
	for _, name := range []string{
		"NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "SUBCOMMANDS", "ENVIRONMENT", "FILES", "SIGNALS",
		"EXIT STATUS", "SECURITY", "EXAMPLES", "CONFORMING TO", "SEE ALSO",
	} {
		if strings.TrimSpace(section(t, "# "+name)) == "" {
			t.Errorf("%s: nothing stands below %s", manPage, name)
		}
	}
	if strings.Contains(read(t, manPage), "sk-") {
		t.Errorf("%s shows a key", manPage)
	}
}

// TestManNamesTheEnvironment: every variable that the programs ask for by name,
// which the test kit is no part of.
func TestManNamesTheEnvironment(t *testing.T) {
	documented := section(t, "# ENVIRONMENT")
	asked := regexp.MustCompile(`os\.(?:Getenv|LookupEnv)\("(\w+)"\)`)
	look := func(path string) {
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "/proctest/") {
			return
		}
		for _, m := range asked.FindAllStringSubmatch(read(t, path), -1) {
			if !strings.Contains(documented, "**"+m[1]+"**") {
				t.Errorf("%s: ENVIRONMENT does not name %s, which %s asks for", manPage, m[1], path)
			}
		}
	}
	walk(t, program, look)
	walk(t, "../internal", look)
}

// A try is a line that a user types and then completes: allow and deny are
// words that are among the offered, and that are not; only are all of them.
type try struct {
	line              string
	allow, deny, only []string
}

func allow(line string, offered ...string) try { return try{line: line, allow: offered} }
func deny(line string, offered ...string) try  { return try{line: line, deny: offered} }
func only(line string, offered ...string) try  { return try{line: line, only: offered} }

// tries are for a folder that has the file key.txt and the folder sub.
func tries(t *testing.T) []try {
	const p, codex = "responses-api-proxy ", "codex-responses-api-proxy "
	admins, err := user.LookupGroupId("0")
	if err != nil {
		t.Fatal(err)
	}
	list := []try{
		allow(p, "verify", "health"),
		allow(codex, "verify", "health"),
		deny(p, "key.txt", "sub"),
		deny(p+"--strict ", "verify", "health", "key.txt"),
		only(p+"--ja", "--jail"),
		only(p+"--jail o", "off"),
		only(p+"--jail=", "auto", "off"),
		only(codex+"--jail=o", "off"),
		deny(p+"--port ", "verify", "key.txt", "--jail"),
		allow(p+"--audit ", "-", "key.txt"),
		allow(p+"--server-info=", "key.txt"),
		allow(p+"--allow-user ", "self", "root"),
		deny(p+"--allow-user ", "key.txt", "--jail"),
		allow(p+"--allow-user self --allow-user ", "root"),
		allow(p+"--shutdown-user se", "self"),
		allow(p+"--user ro", "root"),
		deny(p+"--user ", "self"),
		allow(p+"--allow-group ", admins.Name),
		deny(p+"verify --", "--jail", "--upstream-url"),
		deny(p+"--", "--stand-in", "--ready"),
		deny(p+"--port 1 --", "--stand-in", "--ready"),
		only(p+"verify --stand", "--stand-in"),
		only("responses-api-proxy-verify --stand", "--stand-in"),
		deny("responses-api-proxy-verify ", "verify", "health"),
		deny("responses-api-proxy-verify --", "--jail", "--ready"),
		allow("responses-api-proxy-verify --server-info ", "key.txt"),
	}
	return append(list, triesOfUsage(t)...)
}

// triesOfUsage has one for every flag.
func triesOfUsage(t *testing.T) (list []try) {
	file := regexp.MustCompile(`^(FILE|PATH)`)
	texts := usageTexts(t)
	for _, command := range slices.Sorted(maps.Keys(texts)) {
		flags := texts[command]
		begin := strings.Replace("responses-api-proxy "+command+" ", "serve ", "", 1)
		list = append(list, only(begin+"--", slices.Sorted(maps.Keys(flags))...))
		for _, flag := range slices.Sorted(maps.Keys(flags)) {
			o, line := flags[flag], begin+flag+" "
			switch {
			case closedSet.MatchString(o.value):
				list = append(list, only(line, strings.Split(o.value, "|")...))
			case file.MatchString(o.value):
				list = append(list, allow(line, "key.txt", "sub"))
			case o.value == "DIR":
				list = append(list, allow(line, "sub"), deny(line, "key.txt"))
			}
		}
	}
	return list
}

// The scripts below read lines from the file lines, and print what is offered
// for each of them below a line that says which it is. COMPLETION is what is
// tested.

func TestBashCompletion(t *testing.T) {
	// readline takes '=' for a word of its own, and completes what is behind it.
	complete(t, "bash", "responses-api-proxy.bash", "--norc", "--noprofile", "-c", `
source "$COMPLETION"
while IFS= read -r line; do
	echo "== $line"
	read -ra COMP_WORDS <<<"${line//=/ = }"
	[[ $line != *' ' ]] || COMP_WORDS+=('')
	COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
	[[ $(complete -p "${COMP_WORDS[0]}") =~ -F\ ([^\ ]+) ]]
	typed=${COMP_WORDS[COMP_CWORD]}
	[[ $typed != = ]] || typed=
	"${BASH_REMATCH[1]}" "${COMP_WORDS[0]}" "$typed" "${COMP_WORDS[COMP_CWORD - 1]}"
	((${#COMPREPLY[@]} == 0)) || printf '%s\n' "${COMPREPLY[@]}"
done <lines`)
}

func TestFishCompletion(t *testing.T) {
	complete(t, "fish", "responses-api-proxy.fish", "--no-config", "-c", `
source $COMPLETION
while read -l line
	echo "== $line"
	complete -C $line
end <lines`)
}

// TestZshCompletion needs a terminal: zsh completes in its line editor only. At
// its first prompt the inner shell puts one line after the other there, and
// writes down what would be added to the list of matches.
func TestZshCompletion(t *testing.T) {
	complete(t, "zsh", "_responses-api-proxy", "-f", "-c", `
cat >inner <<'END'
setopt extendedglob
fpath=(${COMPLETION:h} $fpath)
autoload -Uz compinit && compinit -D -u
compadd() {
	# With one of these it fills an array, and offers nothing.
	if [[ " ${(j: :)@[1,(i)(-|--)]} " != *' '-[a-zA-Z]#[OAD]' '* ]]; then
		local -a found
		builtin compadd -O found "$@"
		print -rl -- $found >>out
	fi
	builtin compadd "$@"
}
answer() {
	for line in "${(@f)$(<lines)}"; do
		BUFFER=$line CURSOR=$#line
		print -r -- "== $line" >>out
		zle complete-word
	done
	exit
}
zle -N zle-line-init answer
END
zmodload zsh/zpty
zpty shell 'zsh -f -i'
zpty -w shell 'source ./inner'
while zpty -r shell text; do :; done
cat out`)
}

// complete runs a shell in a folder of its own with the tries, and holds what it
// offers to them.
func complete(t *testing.T, shell, script string, args ...string) {
	needShell(t, shell)
	path, err := filepath.Abs(completions + script)
	if err != nil {
		t.Fatal(err)
	}
	list, dir := tries(t), t.TempDir()
	var lines strings.Builder
	for _, try := range list {
		fmt.Fprintln(&lines, try.line)
	}
	for name, text := range map[string]string{"lines": lines.String(), "key.txt": "", "sub/file": ""} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "COMPLETION=" + path, "TERM=dumb", "LC_ALL=C"}
	check(t, list, run(t, dir, env, shell, args...))
}

// needShell skips where a shell is not installed. Where continuous integration
// runs that is an error.
func needShell(t *testing.T, shell string) {
	t.Helper()
	_, err := exec.LookPath(shell)
	switch {
	case err == nil && runtime.GOOS != "windows":
	case os.Getenv("CI") == "true" && runtime.GOOS == "linux":
		t.Fatalf("CI=true demands %s; install it (apt-get install bash zsh fish)", shell)
	default:
		t.Skipf("%s is not here: its completion is not tested", shell)
	}
}

func run(t *testing.T, dir string, env []string, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = dir, env
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil || complaints.Len() > 0 {
		t.Fatalf("%s: %v\n%s\n%s", program, err, out, complaints.String())
	}
	return string(out)
}

// check reads what was offered. fish adds descriptions, and puts --flag= and
// the slash of a folder with it.
func check(t *testing.T, list []try, out string) {
	t.Helper()
	answers := strings.Split("\n"+out, "\n== ")[1:]
	if len(answers) != len(list) {
		t.Fatalf("%d tries have %d answers:\n%s", len(list), len(answers), out)
	}
	for i, try := range list {
		line, rest, _ := strings.Cut(answers[i], "\n")
		if line != try.line {
			t.Fatalf("the answer to %q is for %q", try.line, line)
		}
		var offered []string
		for word := range strings.SplitSeq(strings.TrimSpace(rest), "\n") {
			word, _, _ = strings.Cut(word, "\t")
			_, behind, hasValue := strings.Cut(word, "=")
			if hasValue {
				word = behind
			}
			offered = append(offered, strings.TrimSuffix(word, "/"))
		}
		try.judge(t, offered)
	}
}

func (try try) judge(t *testing.T, offered []string) {
	t.Helper()
	for _, word := range slices.Concat(try.allow, try.only) {
		if !slices.Contains(offered, word) {
			t.Errorf("%q: %q is not offered", try.line, word)
		}
	}
	for _, word := range offered {
		if slices.Contains(try.deny, word) || try.only != nil && !slices.Contains(try.only, word) {
			t.Errorf("%q: %q is offered", try.line, word)
		}
	}
}
