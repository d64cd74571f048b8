package main

import (
	"os"
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
		"--http-shutdown true": "some only behind '=', some none",
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
	for _, line := range []string{"--api-key " + key, "--api-key=" + key, "--port " + key, "--port=" + key, "-" + key, "--log-requests " + key, "--insecure-upstream " + key, "--http-shutdown=" + key,
		"--key-file " + key, "--key-file=" + key, "--key-file 0123456789abcdef0123456789"} {
		_, err := parseFlags(strings.Fields(line))
		if err == nil || strings.Contains(err.Error(), "0123456789abcdef0123") || !strings.Contains(err.Error(), "revoke it") {
			t.Errorf("%q: %v", strings.ReplaceAll(line, key, "KEY"), err)
		}
	}
}

// TestKeyFileIsAFile checks that a stream is not taken for a key's file, and that a long name is not taken for a key.
func TestKeyFileIsAFile(t *testing.T) {
	for _, name := range []string{"-", "/dev/stdin", "/dev/fd/3", "/proc/self/fd/3"} {
		if _, err := parseFlags([]string{"--key-file", name}); err == nil || !strings.Contains(err.Error(), "leave the flag out") {
			t.Errorf("%s: %v", name, err)
		}
	}
	missing := "/nowhere/openai-production.key"
	if o, err := parseFlags([]string{"--key-file", missing}); err != nil || o.keyFile != missing {
		t.Errorf("%s: %v", missing, err)
	}
	t.Chdir(t.TempDir())
	const long = "openai-production-2026.key"
	if err := os.WriteFile(long, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if o, err := parseFlags([]string{"--key-file", long}); err != nil || o.keyFile != long {
		t.Errorf("%s: %v", long, err)
	}
	if _, err := parseFlags([]string{"--key-file", long, "--prot", "1"}); err == nil || strings.Contains(err.Error(), "revoke") {
		t.Errorf("%s beside a mistake: %v", long, err)
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
