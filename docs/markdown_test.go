package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

const (
	maxColumns  = 120
	maxSections = 5 // of a document without a table of contents
)

// wide are the documents whose tables and code may be wider than maxColumns, with the reason.
var wide = map[string]string{
	"../docs/benchmarks.md": "a row of figures cannot be broken",
	"../docs/platforms.md":  "a row of results cannot be broken",
}

// documents returns the paths of all Markdown documents.
func documents(t *testing.T) (paths []string) {
	walk(t, "..", func(path string) {
		path = filepath.ToSlash(path)
		if strings.HasSuffix(path, ".md") && !strings.Contains(path, "/.git/") && !strings.HasPrefix(path, "../dist/") {
			paths = append(paths, path)
		}
	})
	if len(paths) < 15 {
		t.Fatalf("only %d documents were found", len(paths))
	}
	return paths
}

func TestWidth(t *testing.T) {
	for _, path := range documents(t) {
		code := false
		for i, line := range strings.Split(read(t, path), "\n") {
			fence := strings.HasPrefix(strings.TrimSpace(line), "```")
			code = code != fence
			unbroken := code || strings.HasPrefix(line, "    ") || strings.HasPrefix(strings.TrimSpace(line), "|")
			if n := utf8.RuneCountInString(line); n > maxColumns && !(unbroken && wide[path] != "") {
				t.Errorf("%s:%d has %d columns, more than %d", path, i+1, n, maxColumns)
			}
		}
	}
}

// TestContents checks that a document of many sections lists them all, with links, before the first.
func TestContents(t *testing.T) {
	for _, path := range documents(t) {
		text := read(t, path)
		sections := headings(text, "## ")
		if len(sections) <= maxSections {
			continue
		}
		before, _, _ := strings.Cut(text, "\n## ")
		for _, s := range sections {
			if !strings.Contains(before, "](#"+s+")") {
				t.Errorf("%s has %d sections, and its table of contents lacks #%s", path, len(sections), s)
			}
		}
	}
}

// TestLinks checks that the targets of links exist, and that README.md leads to every document.
func TestLinks(t *testing.T) {
	all := documents(t)
	reached := map[string]bool{}
	var follow func(path string)
	follow = func(path string) {
		if reached[path] {
			return
		}
		reached[path] = true
		for _, target := range links(read(t, path)) {
			name, fragment, _ := strings.Cut(target, "#")
			to := path
			if name != "" {
				to = filepath.ToSlash(filepath.Join(filepath.Dir(path), name))
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s links to %s, which does not exist", path, target)
				continue
			}
			if fragment != "" && !slices.Contains(headings(read(t, to), ""), fragment) {
				t.Errorf("%s links to %s, which has no such heading", path, target)
			}
			if strings.HasSuffix(to, ".md") {
				follow(to)
			}
		}
	}
	follow("../README.md")
	for _, path := range all {
		if !reached[path] && !strings.HasPrefix(path, "../.github/") && !strings.HasPrefix(path, "../contrib/npm/") { // what is shown elsewhere
			t.Errorf("no link leads from README.md to %s", path)
			follow(path)
		}
	}
}

var (
	link   = regexp.MustCompile(`\]\(([^)\s]+)\)|(?:srcset|src)="([^"]+)"`)
	fenced = regexp.MustCompile("(?ms)^```.*?^```$")
	code   = regexp.MustCompile("`[^`\n]*`")
)

// links returns the targets of the links to files of this repository.
func links(text string) (targets []string) {
	text = code.ReplaceAllString(fenced.ReplaceAllString(text, ""), "")
	for _, m := range link.FindAllStringSubmatch(text, -1) {
		if target := m[1] + m[2]; !strings.Contains(target, "://") {
			targets = append(targets, target)
		}
	}
	return targets
}

// headings returns the anchors that GitHub gives to the headings of one level, or of all if mark is "".
func headings(text, mark string) (anchors []string) {
	text = fenced.ReplaceAllString(text, "")
	for _, m := range regexp.MustCompile(`(?m)^(#+ )(.*)$`).FindAllStringSubmatch(text, -1) {
		if mark == "" || m[1] == mark {
			anchors = append(anchors, anchor(m[2]))
		}
	}
	return anchors
}

var dropped = regexp.MustCompile(`[^\p{L}\p{N} _-]`)

// anchor returns the anchor that GitHub gives to a heading.
func anchor(heading string) string {
	return strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}
