package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// An attempt is a line that a user types and then completes: allow and deny are
// words that are among the offered, and that are not; only are all of them.
type attempt struct {
	line              string
	allow, deny, only []string
}

func allow(line string, offered ...string) attempt { return attempt{line: line, allow: offered} }
func deny(line string, offered ...string) attempt  { return attempt{line: line, deny: offered} }
func only(line string, offered ...string) attempt  { return attempt{line: line, only: offered} }

// attempts are for a directory that has the file key.txt and the directory sub.
func attempts(t *testing.T) []attempt {
	const p, codex = "responses-api-proxy ", "codex-responses-api-proxy "
	admins, err := user.LookupGroupId("0")
	if err != nil {
		t.Fatal(err)
	}
	list := []attempt{
		allow(p, "verify", "health", "status", "help", "version", "completion"),
		only(p+"completion ", "bash", "zsh", "fish"),
		allow(p+"help ", "all", "limits"),
		deny(p+"help ", "--port", "key.txt"),
		allow(codex, "verify", "health"),
		deny(p, "key.txt", "sub"),
		deny(p+"--log-requests ", "verify", "health", "key.txt"),
		only(p+"--prot", "--protection"),
		only(p+"--protection o", "off"),
		only(p+"--protection=", "auto", "available", "strict", "off"),
		only(codex+"--protection=o", "off"),
		deny(p+"--port ", "verify", "key.txt", "--protection"),
		allow(p+"--audit ", "-", "key.txt"),
		allow(p+"--server-info=", "key.txt"),
		allow(p+"--allow-user ", "self", "root"),
		deny(p+"--allow-user ", "key.txt", "--protection"),
		allow(p+"--allow-user self --allow-user ", "root"),
		allow(p+"--http-shutdown=se", "self"),
		allow(p+"--http-shutdown --po", "--port"),
		deny(p+"--http-shutdown ", "self", "root"),
		allow(p+"--user ro", "root"),
		deny(p+"--user ", "self"),
		allow(p+"--allow-user @", admins.Name),
		allow(p+"--http-shutdown=@", admins.Name),
		deny(p+"--allow-user @", "key.txt", "--protection"),
		deny(p+"verify --", "--protection", "--upstream-url"),
		deny(p+"--", "--test-instance", "--ready"),
		deny(p+"--port 1 --", "--test-instance", "--ready"),
		only(p+"verify --test", "--test-instance"),
		only("responses-api-proxy-verify --test", "--test-instance"),
		deny("responses-api-proxy-verify ", "verify", "health"),
		deny("responses-api-proxy-verify --", "--protection", "--ready"),
		allow("responses-api-proxy-verify --server-info ", "key.txt"),
	}
	return append(list, triesOfTables()...)
}

// triesOfTables has one for every flag.
func triesOfTables() (list []attempt) {
	closed := regexp.MustCompile(`^[a-z0-9.-]+(\|[a-z0-9.-]+)+$`)
	for command, flags := range tables() {
		begin := "responses-api-proxy " + command + " "
		if command == "serve" {
			begin = "responses-api-proxy "
		}
		var names []string
		for _, f := range flags {
			names = append(names, f.String())
			line := begin + f.String() + " "
			if f.Optional {
				line = begin + f.String() + "="
			}
			switch kind, _, _ := strings.Cut(f.Value, "|"); {
			case closed.MatchString(f.Value):
				list = append(list, only(line, strings.Split(f.Value, "|")...))
			case kind == "FILE" || kind == "PATH" || kind == "PROGRAM":
				list = append(list, allow(line, "key.txt", "sub"))
			case kind == "DIR":
				list = append(list, allow(line, "sub"), deny(line, "key.txt"))
			case kind == "USER":
				list = append(list, allow(line, "root"), deny(line, "key.txt"))
			case f.Value != "":
				list = append(list, deny(line, "key.txt", "--help"))
			}
			if f.Repeat {
				list = append(list, allow(line+"x --", f.String()))
			}
		}
		list = append(list, only(begin+"--", names...))
	}
	return list
}

// The scripts below read lines from the file lines. For each of them they print
// a line that identifies it, and below that the completions. COMPLETION stands
// for the script under test.

func TestBashCompletion(t *testing.T) {
	// readline takes '=', '@' and '=@' for words of their own, and completes what is behind '=' or begins with '@'.
	complete(t, "bash", "responses-api-proxy.bash", "--norc", "--noprofile", "-c", `
source "$COMPLETION"
while IFS= read -r line; do
	echo "== $line"
	read -ra COMP_WORDS <<<"$(sed -E 's/[=@]+/ & /g' <<<"$line")"
	[[ $line != *' ' ]] || COMP_WORDS+=('')
	COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
	[[ $(complete -p "${COMP_WORDS[0]}") =~ -F\ ([^\ ]+) ]]
	typed=${COMP_WORDS[COMP_CWORD]}
	typed=${typed#=}
	[[ ${COMP_WORDS[COMP_CWORD - 1]} != *@ ]] || typed=@$typed
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

// complete runs a shell in a directory of its own with the attempts, and holds what it
// offers to them.
func complete(t *testing.T, shell, script string, args ...string) {
	needShell(t, shell)
	list, dir := attempts(t), t.TempDir()
	path := filepath.Join(t.TempDir(), script)
	if err := os.WriteFile(path, []byte(document("completion-"+shell)), 0o644); err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for _, attempt := range list {
		fmt.Fprintln(&lines, attempt.line)
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
	checkAll(t, list, output(t, dir, env, shell, args...))
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

func output(t *testing.T, dir string, env []string, program string, args ...string) string {
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

// check reads what was offered. fish adds descriptions, and puts --flag=, the @ of
// a group and the slash of a directory with it.
func checkAll(t *testing.T, list []attempt, out string) {
	t.Helper()
	answers := strings.Split("\n"+out, "\n== ")[1:]
	if len(answers) != len(list) {
		t.Fatalf("%d attempts have %d answers:\n%s", len(list), len(answers), out)
	}
	for i, attempt := range list {
		line, rest, _ := strings.Cut(answers[i], "\n")
		if line != attempt.line {
			t.Fatalf("the answer to %q is for %q", attempt.line, line)
		}
		var offered []string
		for word := range strings.SplitSeq(strings.TrimSpace(rest), "\n") {
			word, _, _ = strings.Cut(word, "\t")
			if flag, value, ok := strings.Cut(word, "="); ok {
				word = cmp.Or(value, flag)
			}
			offered = append(offered, strings.Trim(word, "@/"))
		}
		attempt.check(t, offered)
	}
}

func (a attempt) check(t *testing.T, offered []string) {
	t.Helper()
	for _, word := range slices.Concat(a.allow, a.only) {
		if !slices.Contains(offered, word) {
			t.Errorf("%q: %q is not offered", a.line, word)
		}
	}
	for _, word := range offered {
		if slices.Contains(a.deny, word) || a.only != nil && !slices.Contains(a.only, word) {
			t.Errorf("%q: %q is offered", a.line, word)
		}
	}
}
