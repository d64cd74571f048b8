package main

import (
	"strings"
	"testing"
)

func TestHints(t *testing.T) {
	for line, want := range map[string]string{
		"--prot":          "is --port meant?",
		"--PORT":          "is --port meant?",
		"-h8":             "not defined: -h8",
		"--server_info":   "is --server-info meant?",
		"--allow-usr":     "is --allow-user meant?",
		"--max-token":     "is --max-tokens-per-user meant?",
		"--halp":          "is --help meant?",
		"-V":              "is --version meant?",
		"verfy":           "is the subcommand verify meant? it stands first",
		"--port 1 health": "is the subcommand health meant? it stands first",
		"--strict true":   "a switch takes no value",
	} {
		_, err := parseFlags(strings.Fields(line))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", line, err, want)
		}
	}
}

// TestNoHint: a guess that is far off is worse than none.
func TestNoHint(t *testing.T) {
	for _, line := range []string{"--bogus", "--max", "--verbose", "-x", "--key-file", "--listen", "extra", "-"} {
		_, err := parseFlags([]string{line})
		if err == nil || strings.Contains(err.Error(), "meant") {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestKeyAmongArgumentsIsNotShown(t *testing.T) {
	for _, key := range []string{"sk-abc", "0123456789abcdef0123", "sk-proj-0123456789abcdef0123"} {
		_, err := parseFlags([]string{key})
		if err == nil || strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "revoke it") {
			t.Errorf("%v", err)
		}
	}
}

func FuzzNearest(f *testing.F) {
	f.Add("prot", "port")
	f.Fuzz(func(t *testing.T, a, b string) {
		d := distance(a, b)
		if d != distance(b, a) || d > max(len(a), len(b)) || (d == 0) != (a == b) {
			t.Errorf("distance(%q, %q) = %d, the other way %d", a, b, d, distance(b, a))
		}
	})
}
