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

// ring is a set of packages that are trusted with the same: those below the directory of internal with its name.
type ring struct {
	// imports are the rings whose packages it may import, besides its own.
	imports []string
	// except are single packages that it may import, with the names that it may
	// use of them; nil for all.
	except map[string][]string
}

// relayed is what the ring serve may use of the upstream: what passes through
// it, and how it failed.
var relayed = []string{
	"Request", "Response", "Body", "Stream",
	"Error", "Kind", "Unreachable", "Untrusted", "TLSFailed", "Timeout", "Closed", "Malformed", "BodyFailed", "Cancelled", "Internal",
}

// rings are those of design.md.
var rings = map[string]ring{
	"wire": {},
	"host": {},
	"key": {
		imports: []string{"wire"},
		except:  map[string][]string{"internal/host/peer": nil, "internal/host/roots": nil, "internal/host/socket": nil},
	},
	"serve": {
		imports: []string{"wire", "host"},
		except:  map[string][]string{"internal/key/upstream": relayed},
	},
	programRing: {
		imports: []string{"wire", "host", "serve"},
		except:  map[string][]string{"internal/key": nil, "internal/key/upstream": nil},
	},
}

// programRing is the ring that has no directory of its own, but these packages.
const programRing = "program"

var programPackages = []string{"cmd/responses-api-proxy", "internal/cli"}

// importsSecret are the packages outside the key ring that may import the
// secret memory, all of them tests.
var importsSecret = []string{"e2e/keyleak/testdata/probe"}

// ringOf returns the ring that pkg belongs to; "" for tests, the attack suite
// and what else is not linked into the program.
func ringOf(pkg string) string {
	if slices.Contains(programPackages, pkg) {
		return programRing
	}
	below, _ := strings.CutPrefix(pkg, "internal/")
	name, _, _ := strings.Cut(below, "/")
	if _, ok := rings[name]; !ok || name == programRing || below == pkg {
		return ""
	}
	return name
}

// allowed reports whether a package of the ring with that name may import another.
func allowed(name, pkg string) (names []string, ok bool) {
	r := rings[name]
	if names, ok := r.except[pkg]; ok {
		return names, true
	}
	other := ringOf(pkg)
	return nil, other != "" && (other == name || slices.Contains(r.imports, other))
}

// TestRings checks that each package of a ring imports only the packages that the ring allows, and that no package but
// key, and those of importsSecret, imports the secret memory.
func TestRings(t *testing.T) {
	seen := map[string]bool{}
	eachSource(t, func(pkg, file string, f *ast.File) {
		name := ringOf(pkg)
		test := strings.HasSuffix(file, "_test.go")
		if !test && name != "" {
			seen[name] = true
			checkRing(t, name, pkg, file, f)
		}
		if name != "key" && !slices.Contains(importsSecret, pkg) && imported(f, "internal/key/secret") {
			t.Errorf("%s imports the secret memory", file)
		}
	})
	for name := range rings {
		if !seen[name] {
			t.Errorf("the ring %s has no packages", name)
		}
	}
}

func checkRing(t *testing.T, ring, pkg, file string, f *ast.File) {
	for _, i := range f.Imports {
		name, ours := strings.CutPrefix(strings.Trim(i.Path.Value, `"`), module)
		if !ours || name == pkg {
			continue
		}
		names, ok := allowed(ring, name)
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
	for _, pkg := range linked(t, "responses-api-proxy") {
		name, _ := strings.CutPrefix(pkg, module)
		if ringOf(name) != "key" {
			continue
		}
		p, err := linux.ImportDir("../"+name, 0)
		if err != nil {
			t.Fatal(err)
		}
		lines := 0
		for _, file := range slices.Concat(p.GoFiles, p.CgoFiles) {
			lines += strings.Count(read(t, "../"+name+"/"+file), "\n")
		}
		if lines == 0 {
			t.Errorf("%s has no lines", name)
		}
		total += lines
	}
	if total < maxKeyRing/2 || total > maxKeyRing {
		t.Errorf("the key ring has %d lines, want at most %d, and not none", total, maxKeyRing)
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
