package main

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// keyPart matches any stretch of a key of the demo's.
var keyPart = regexp.MustCompile(`sk-demo|[A-Z2-7]{12}`)

func checkScreen(t *testing.T, out string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if len(lines) > 30 {
		t.Errorf("%d lines", len(lines))
	}
	for _, l := range lines {
		if columns(l) > 80 {
			t.Errorf("%d columns: %s", columns(l), l)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Error("escape sequences in a file")
	}
	if found := keyPart.FindString(out); found != "" {
		t.Errorf("the key, or a part: %q", found)
	}
}

func checkContains(t *testing.T, out string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("no %q in:\n%s", w, out)
		}
	}
}

func drawn(color bool, ours, naive loot) string {
	var b strings.Builder
	(&screen{w: &b, color: color}).table(ours, naive)
	return b.String()
}

func TestTable(t *testing.T) {
	for _, c := range []struct {
		name        string
		ours, naive loot
		want        string
	}{
		{"root", memory(clean), memory(copies(57, 1)), `
                       responses-api-proxy          httputil.ReverseProxy
  /proc/PID/cmdline  ✓ no key                     ✓ no key
  /proc/PID/environ  ✓ no key                     ✓ no key
  /proc/PID/mem      ✓ 0 copies, 0 fragments      ✗ 57 copies, 1 fragment
                       in 13.3 MB; 9 pages refused  in 20.9 MB
`},
		{"user", loot{environ: denied, mem: denied}, memory(copies(1, 0)), `
                       responses-api-proxy          httputil.ReverseProxy
  /proc/PID/cmdline  ✓ no key                     ✓ no key
  /proc/PID/environ  ✓ denied by the kernel       ✓ no key
  /proc/PID/mem      ✓ denied by the kernel       ✗ 1 copy, 0 fragments
                                                    in 20.9 MB
`},
		{"worst", loot{cmdline: copies(1, 0), environ: copies(0, 1), mem: copies(0, 7)}, memory(denied), `
                       responses-api-proxy          httputil.ReverseProxy
  /proc/PID/cmdline  ✗ the key                    ✓ no key
  /proc/PID/environ  ✗ the key                    ✓ no key
  /proc/PID/mem      ✗ 0 copies, 7 fragments      ✓ denied by the kernel
                       in 20.9 MB
`},
	} {
		got := drawn(false, c.ours, c.naive)
		if got != c.want[1:] {
			t.Errorf("%s:\n%s\nwant:\n%s", c.name, got, c.want[1:])
		}
		checkScreen(t, got)
		checkColored(t, drawn(true, c.ours, c.naive), got)
	}
}

// checkColored wants the same text, with colour.
func checkColored(t *testing.T, got, want string) {
	t.Helper()
	if got == want || !strings.Contains(got, green+"✓"+plain) {
		t.Errorf("no colour: %q", got)
	}
	for _, c := range []string{red, green, plain} {
		got = strings.ReplaceAll(got, c, "")
	}
	if got != want {
		t.Errorf("with colour another text:\n%s", got)
	}
}

func TestArrival(t *testing.T) {
	var b strings.Builder
	s, now := &screen{w: &b}, time.Now()
	s.arrival(410*time.Millisecond, arrival{text: strings.Repeat("long ", 20), sent: now, at: now.Add(340 * time.Microsecond)})
	s.arrival(59*time.Second, arrival{text: "short ", sent: now, at: now.Add(9999 * time.Millisecond)})
	checkScreen(t, b.String())
	checkContains(t, b.String(), "  0.41 s  long long ", "   0.34 ms after sending\n", "  59.00 s  short  ", " 9999.00 ms after")
}

func TestWantsColor(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if wantsColor(w) {
		t.Error("colour for a pipe")
	}
	null, err := os.Open(os.DevNull) // like a terminal, a character device
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	t.Setenv("NO_COLOR", "1")
	if wantsColor(null) {
		t.Error("colour in spite of NO_COLOR")
	}
}

type brokenWriter struct{ writes int }

func (w *brokenWriter) Write([]byte) (int, error) {
	w.writes++
	return 0, errors.New("broken")
}

func TestBrokenScreen(t *testing.T) {
	w := &brokenWriter{}
	s := &screen{w: w}
	s.printf("a")
	s.printf("b")
	if s.err == nil || w.writes != 1 {
		t.Errorf("%d writes, %v", w.writes, s.err)
	}
}
