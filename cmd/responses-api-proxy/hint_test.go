package main

import (
	"strings"
	"testing"
)

func TestHints(t *testing.T) {
	for line, want := range map[string]string{
		"--prot":               "is --port meant?",
		"--PORT":               "is --port meant?",
		"-h8":                  "not defined: --h8",
		"--server_info":        "is --server-info meant?",
		"--allow-usr":          "is --allow-user meant?",
		"--max-token":          "is --max-tokens-per-user meant?",
		"--halp":               "is --help meant?",
		"-V":                   "is --version meant?",
		"verfy":                "is the subcommand verify meant? it stands first",
		"--port 1 health":      "is the subcommand health meant? it stands first",
		"--http-shutdown true": "a switch takes no value",
	} {
		_, err := parseFlags(strings.Fields(line))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", line, err, want)
		}
	}
}

// TestNoHint checks that there is no hint where every guess is far off: such a guess is worse than none.
func TestNoHint(t *testing.T) {
	for _, line := range []string{"--bogus", "--max", "--verbose", "-x", "--profile", "--model", "extra", "-"} {
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

// TestKeyAsValueIsNotShown checks that a key as the value of a flag is not shown,
// whether the flag exists or not.
func TestKeyAsValueIsNotShown(t *testing.T) {
	const key = "sk-proj-0123456789abcdef0123"
	for _, line := range []string{"--api-key " + key, "--api-key=" + key, "--port " + key, "--port=" + key, "-" + key, "--log-requests " + key, "--insecure-upstream " + key, "--http-shutdown=" + key} {
		_, err := parseFlags(strings.Fields(line))
		if err == nil || strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "revoke it") {
			t.Errorf("%q: %v", strings.ReplaceAll(line, key, "KEY"), err)
		}
	}
}

// TestFlagsOfCodex checks that the flags that stand before its subcommands are
// accepted as often as they come, and their values kept nowhere.
func TestFlagsOfCodex(t *testing.T) {
	o, err := parseFlags(strings.Fields("-c a=1 --port 0 -c b=2 --enable x --enable y"))
	if err != nil || o.ignored() != "-c, --enable" {
		t.Errorf("ignored %q, %v", o.ignored(), err)
	}
	if o, err := parseFlags([]string{"--port", "0"}); err != nil || o.ignored() != "" {
		t.Errorf("ignored %q, %v", o.ignored(), err)
	}
}
