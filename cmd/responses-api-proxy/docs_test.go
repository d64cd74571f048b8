package main

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// TestReadmeHasTheFlags: README's table names exactly the flags of the usage
// text, which another test holds to the program.
func TestReadmeHasTheFlags(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := names(regexp.MustCompile("(?m)^\\| `(--[a-z-]+)"), string(readme))
	real := names(regexp.MustCompile(`(?m)^  (--[a-z-]+)`), usage)
	if !slices.Equal(documented, real) {
		t.Errorf("README.md has %q, the program %q", documented, real)
	}
}

func names(pattern *regexp.Regexp, text string) (found []string) {
	for _, m := range pattern.FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	slices.Sort(found)
	return found
}
