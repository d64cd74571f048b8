package docs

import (
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// ring is a set of packages that are trusted with the same.
type ring struct {
	packages []string
	// imports are the rings whose packages it may import, besides its own.
	imports []string
	// except are single packages that it may import, with the names that it may
	// use of them; nil for all.
	except map[string][]string
}

// relayed is what the serving ring may use of the upstream: what passes through
// it, and how it failed.
var relayed = []string{
	"Request", "Response", "Body", "Stream",
	"Error", "Kind", "Unreachable", "Untrusted", "TLSFailed", "Timeout", "Closed", "Malformed", "BodyFailed", "Cancelled", "Internal",
}

// rings are those of design.md.
var rings = map[string]ring{
	"wire": {packages: []string{"internal/http1", "internal/jsonscan"}},
	"host": {packages: []string{"internal/listen", "internal/linelog", "internal/peer", "internal/roots", "internal/safefile", "internal/sandbox", "internal/socket", "internal/systemd"}},
	"key": {
		packages: []string{"internal/key", "internal/secret", "internal/tlsrecord", "internal/tokenexchange", "internal/upstream"},
		imports:  []string{"wire"},
		except:   map[string][]string{"internal/peer": nil, "internal/roots": nil, "internal/socket": nil},
	},
	"serving": {
		packages: []string{"internal/apierror", "internal/audit", "internal/budget", "internal/dump", "internal/metrics", "internal/policy", "internal/relay", "internal/server",
			"internal/usage", "internal/websocket"},
		imports: []string{"wire", "host"},
		except:  map[string][]string{"internal/upstream": relayed},
	},
	"program": {
		packages: []string{"cmd/responses-api-proxy", "internal/cli"},
		imports:  []string{"wire", "host", "serving"},
		except:   map[string][]string{"internal/key": nil, "internal/upstream": nil},
	},
}

// importsSecret are the packages outside the key ring that may import the
// secret memory, all of them tests.
var importsSecret = []string{"e2e/keyleak/testdata/probe"}

// ringOf returns the ring that pkg belongs to; "" for tests, the attack suite
// and what else is not linked into the program.
func ringOf(pkg string) string {
	for name, r := range rings {
		if slices.Contains(r.packages, pkg) {
			return name
		}
	}
	return ""
}

// allowed reports whether a package of that ring may import another.
func (r ring) allowed(pkg string) (names []string, ok bool) {
	if names, ok := r.except[pkg]; ok {
		return names, true
	}
	other := ringOf(pkg)
	return nil, slices.Contains(r.packages, pkg) || other != "" && slices.Contains(r.imports, other)
}

// TestRings checks that each package of a ring imports only the packages that the ring allows, and that no package but
// key, and those of importsSecret, imports the secret memory.
func TestRings(t *testing.T) {
	seen := map[string]bool{}
	eachSource(t, func(pkg, file string, f *ast.File) {
		name := ringOf(pkg)
		test := strings.HasSuffix(file, "_test.go")
		if !test && name != "" {
			seen[pkg] = true
			checkRing(t, rings[name], pkg, file, f)
		}
		if name != "key" && !slices.Contains(importsSecret, pkg) && imported(f, "internal/secret") {
			t.Errorf("%s imports the secret memory", file)
		}
	})
	for _, r := range rings {
		for _, pkg := range r.packages {
			if !seen[pkg] {
				t.Errorf("%s is not there", pkg)
			}
		}
	}
}

func checkRing(t *testing.T, r ring, pkg, file string, f *ast.File) {
	for _, i := range f.Imports {
		name, ours := strings.CutPrefix(strings.Trim(i.Path.Value, `"`), module)
		if !ours || name == pkg {
			continue
		}
		names, ok := r.allowed(name)
		if !ok || i.Name != nil {
			t.Errorf("%s imports %s, or renames it", file, name)
		}
		for _, used := range selected(f, path.Base(name)) {
			if names != nil && !slices.Contains(names, used) {
				t.Errorf("%s uses %s.%s", file, path.Base(name), used)
			}
		}
	}
}

// maxKeyRing is the number of lines that the key ring may have, comments and
// blank lines included: as much as can be reviewed in an afternoon.
const maxKeyRing = 4000

// TestKeyRingIsSmall counts what is compiled on Linux.
func TestKeyRingIsSmall(t *testing.T) {
	linux := build.Default
	linux.GOOS = "linux"
	total := 0
	for _, pkg := range rings["key"].packages {
		p, err := linux.ImportDir("../"+pkg, 0)
		if err != nil {
			t.Fatal(err)
		}
		lines := 0
		for _, file := range slices.Concat(p.GoFiles, p.CgoFiles) {
			lines += strings.Count(read(t, "../"+pkg+"/"+file), "\n")
		}
		if lines == 0 {
			t.Errorf("%s has no lines", pkg)
		}
		total += lines
	}
	if total > maxKeyRing {
		t.Errorf("the key ring has %d lines, want at most %d", total, maxKeyRing)
	}
}

// TestEveryPackageHasARing checks that every package that is linked into the program is in a ring.
func TestEveryPackageHasARing(t *testing.T) {
	for _, pkg := range linked(t, "responses-api-proxy") {
		if name, ours := strings.CutPrefix(pkg, module); ours && ringOf(name) == "" {
			t.Errorf("%s is in no ring", name)
		}
	}
}

// eachSource parses every Go file of the module.
func eachSource(t *testing.T, each func(pkg, file string, f *ast.File)) {
	t.Helper()
	for _, root := range []string{"../internal", "../cmd", "../e2e"} {
		walk(t, root, func(file string) {
			if !strings.HasSuffix(file, ".go") {
				return
			}
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			each(strings.TrimPrefix(filepath.ToSlash(filepath.Dir(file)), "../"), file, f)
		})
	}
}

func imported(f *ast.File, pkg string) bool {
	return slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"`+module+pkg+`"` })
}

// selected returns the names that f selects from the package of that name.
func selected(f *ast.File, pkg string) (names []string) {
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == pkg && ast.IsExported(s.Sel.Name) {
				names = append(names, s.Sel.Name)
			}
		}
		return true
	})
	return names
}
