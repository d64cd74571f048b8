// Package docs holds the documents to the program.
package docs

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
)

const module = "github.com/responses-api-proxy/responses-api-proxy/"

// mayImport is the direction of design.md: the packages that each package may import. The programs may import any.
var mayImport = map[string][]string{
	"internal/key/secret":        nil,
	"internal/host/safefile":     nil,
	"internal/host/listen":       {"internal/host/safefile"},
	"internal/wire/http1":        nil,
	"internal/lab/memscan":       nil,
	"internal/lab/openaitest":    {"internal/wire/http1"},
	"internal/lab/proctest":      nil,
	"internal/lab/launch":        nil,
	"internal/wire/jsonscan":     nil,
	"internal/serve/usage":       {"internal/wire/jsonscan"},
	"internal/host/linelog":      {"internal/host/safefile"},
	"internal/serve/audit":       {"internal/host/linelog"},
	"internal/host/systemd":      {"internal/host/linelog"},
	"internal/host/peer":         nil,
	"internal/serve/metrics":     {"internal/serve/audit", "internal/wire/http1", "internal/host/listen"},
	"internal/host/sandbox":      nil,
	"internal/cli":               nil,
	"internal/host/roots":        nil,
	"internal/host/socket":       nil,
	"internal/lab/attack":        {"internal/serve/apierror", "internal/cli", "internal/lab/launch", "internal/lab/memscan", "internal/lab/openaitest", "internal/host/peer", "internal/serve/relay"},
	"internal/serve/budget":      {"internal/host/safefile"},
	"internal/serve/apierror":    {"internal/wire/http1"},
	"internal/serve/policy":      {"internal/serve/apierror", "internal/serve/audit", "internal/serve/budget", "internal/wire/http1", "internal/host/peer"},
	"internal/serve/dump":        {"internal/wire/http1", "internal/host/safefile"},
	"internal/serve/websocket":   {"internal/serve/apierror", "internal/wire/http1"},
	"internal/key/tlsrecord":     {"internal/key/secret"},
	"internal/key/upstream":      {"internal/wire/http1", "internal/host/peer", "internal/host/roots", "internal/key/secret", "internal/host/socket", "internal/key/tlsrecord"},
	"internal/key/tokenexchange": {"internal/wire/jsonscan", "internal/key/secret", "internal/key/upstream"},
	"internal/key":               {"internal/key/secret", "internal/key/tokenexchange", "internal/key/upstream"},
	"internal/serve/relay":       {"internal/serve/apierror", "internal/serve/audit", "internal/serve/dump", "internal/wire/http1", "internal/wire/jsonscan", "internal/serve/policy", "internal/key/upstream", "internal/serve/usage", "internal/serve/websocket"},
	"internal/serve/server":      {"internal/serve/apierror", "internal/serve/policy", "internal/serve/audit", "internal/wire/http1", "internal/serve/relay", "internal/host/socket"},
	"e2e/keyleak":                nil,
	"e2e/escape":                 nil,
	"e2e/clients":                nil,
	"e2e/longrun":                {"internal/lab/launch", "internal/lab/memscan", "internal/lab/openaitest"},
	"e2e/codexaction":            nil,
	"e2e/kernels":                nil,
	"e2e/systems":                nil,
}

func TestImportsFlowOneWay(t *testing.T) {
	seen := map[string]bool{}
	look := func(path string) {
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "testdata") {
			return
		}
		pkg := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), "../")
		seen[pkg] = true
		allowed, known := mayImport[pkg]
		if !known {
			t.Errorf("%s is not in design.md's order of packages", pkg)
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			name, ours := strings.CutPrefix(strings.Trim(i.Path.Value, `"`), module)
			if ours && !slices.Contains(allowed, name) {
				t.Errorf("%s imports %s", path, name)
			}
		}
	}
	walk(t, "../internal", look)
	walk(t, "../e2e", look)
	design := read(t, "design.md")
	for pkg := range mayImport {
		if !seen[pkg] || !strings.Contains(design, "`"+pkg+"`") {
			t.Errorf("%s is not there, or not in design.md", pkg)
		}
	}
}

// TestDaemonLinks checks that the attack suite, the launcher and the fake upstream are not linked into the process that
// holds the key, and neither is net/http: package server is the only HTTP server there. The attack suite shows that
// such a link is found.
func TestDaemonLinks(t *testing.T) {
	foreign := []string{"net/http", "os/exec", module + "internal/lab/openaitest", module + "internal/lab/memscan", module + "internal/lab/attack", module + "internal/lab/launch", module + "internal/lab/proctest", "testing"}
	for program, want := range map[string][]string{"responses-api-proxy": nil, "responses-api-proxy-verify": {module + "internal/lab/attack", module + "internal/lab/launch", module + "internal/lab/memscan", module + "internal/lab/openaitest", "net/http", "os/exec"}} {
		linked := slices.DeleteFunc(linked(t, program), func(pkg string) bool { return !slices.Contains(foreign, pkg) })
		slices.Sort(linked)
		if !slices.Equal(linked, want) {
			t.Errorf("%s links %q, want %q", program, linked, want)
		}
	}
}

// linked returns the packages that are linked into a program for Linux.
func linked(t *testing.T, program string) []string {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "../cmd/"+program)
	cmd.Env = append(os.Environ(), "GOOS=linux")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

// TestErrorCodes checks that the list in errors.md is the program's, no more and no less.
func TestErrorCodes(t *testing.T) {
	var documented, real []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (\\d+) \\|").FindAllStringSubmatch(read(t, "errors.md"), -1) {
		documented = append(documented, m[1]+" "+m[2])
	}
	apierror.Codes(func(code apierror.Code, status int) { real = append(real, fmt.Sprintf("%s %d", code, status)) })
	slices.Sort(documented)
	slices.Sort(real)
	if !slices.Equal(documented, real) {
		t.Errorf("documented %q, in the program %q", documented, real)
	}
}

// TestTroubleshooting checks that the page explains every code, and that the messages that its entries begin with are
// the program's.
func TestTroubleshooting(t *testing.T) {
	text := read(t, "troubleshooting.md")
	apierror.Codes(func(code apierror.Code, _ int) {
		if !strings.Contains(text, "\n- `"+string(code)+"` — ") {
			t.Errorf("troubleshooting.md does not explain %s", code)
		}
	})
	var source strings.Builder
	walk(t, "..", func(path string) {
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			source.WriteString(read(t, path))
		}
	})
	program := regexp.MustCompile(`" \+\s+"`).ReplaceAllString(source.String(), "")
	entries := regexp.MustCompile("(?m)^- (?:`[^`\n]+`, )*`[^`\n]+`").FindAllString(text, -1)
	if len(entries) < 80 {
		t.Fatalf("only %d messages are explained", len(entries))
	}
	for _, entry := range entries {
		for _, message := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(entry, -1) {
			if !strings.Contains(program, message[1]) {
				t.Errorf("troubleshooting.md explains %q, which is no message of the program", message[1])
			}
		}
	}
}

// TestDocumentsNameRealTests checks that the tests that documents name exist.
func TestDocumentsNameRealTests(t *testing.T) {
	var tests strings.Builder
	walk(t, "..", func(path string) {
		if strings.HasSuffix(path, "_test.go") {
			tests.WriteString(read(t, path))
		}
		if strings.HasSuffix(path, ".txtar") {
			tests.WriteString("func " + filepath.Base(path) + "(")
		}
	})
	for _, path := range documents(t) {
		names := regexp.MustCompile("`((?:Test|Fuzz)\\w+|[\\w-]+\\.txtar)`").FindAllStringSubmatch(read(t, path), -1)
		if len(names) < 20 && path == "../docs/threat-model.md" {
			t.Fatalf("%s names %d tests only", path, len(names))
		}
		for _, n := range names {
			if !strings.Contains(tests.String(), "func "+n[1]+"(") {
				t.Errorf("%s names %s, which does not exist", path, n[1])
			}
		}
	}
}

func walk(t *testing.T, root string, each func(path string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			each(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
