package docs

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const (
	program = "../cmd/responses-api-proxy"
	manPage = "responses-api-proxy.1.md"
)

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

// TestManSections checks that the manual page has every section, and that none is empty.
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

// TestManNamesTheEnvironment checks that ENVIRONMENT names every variable that the programs read by name. The test kit
// is no part of them.
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
