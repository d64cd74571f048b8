package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestWalk checks that the files and functions that design.md's walks name exist.
func TestWalk(t *testing.T) {
	sources := ""
	eachProgramFile(t, func(text string) { sources += text })
	text := read(t, "design.md")
	for _, heading := range []string{"One request", "One byte of the key"} {
		_, section, found := strings.Cut(text, "\n## "+heading+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		names := regexp.MustCompile("`[^`\n]+`").FindAllString(section, -1)
		if !found || len(names) < 10 {
			t.Errorf("%q names %d files and functions", heading, len(names))
		}
		for _, name := range names {
			checkName(t, sources, strings.Trim(name, "`"))
		}
	}
}

// named matches what a walk may name: a file, or a function, method, type or package.
var named = regexp.MustCompile(`^[a-zA-Z0-9_./-]+$`)

func checkName(t *testing.T, sources, name string) {
	switch last := name[strings.LastIndex(name, ".")+1:]; {
	case !named.MatchString(name) || strings.HasSuffix(name, "/"):
	case last == "go":
		for _, pattern := range []string{"../" + name, "../internal/" + name, "../internal/*/" + name, "../internal/*/*/" + name} {
			if files, _ := filepath.Glob(pattern); files != nil {
				return
			}
		}
		t.Errorf("design.md names the file %s, which does not exist", name)
	case !regexp.MustCompile(`(?m)^(func (\([^)]*\) )?|type |package |\s+)` + regexp.QuoteMeta(last) + `\b`).MatchString(sources):
		t.Errorf("design.md names %s, which no file declares", name)
	}
}

// eachProgramFile calls f with each Go file of the program that is no test.
func eachProgramFile(t *testing.T, f func(text string)) {
	for _, pattern := range []string{"../internal/*/*.go", "../internal/*/*/*.go", "../cmd/responses-api-proxy/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || files == nil {
			t.Fatal(pattern, err)
		}
		for _, file := range files {
			if text, err := os.ReadFile(file); err != nil {
				t.Fatal(err)
			} else if !strings.HasSuffix(file, "_test.go") {
				f(string(text))
			}
		}
	}
}
