package main

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
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
		if utf8.RuneCountInString(l) > 80 {
			t.Errorf("%d columns: %s", utf8.RuneCountInString(l), l)
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

func TestTable(t *testing.T) {
	for _, c := range []struct {
		name        string
		ours, naive findings
		want        string
	}{
		{"root", memory(clean), memory(copies(57, 1)), `
                       responses-api-proxy          httputil.ReverseProxy
  /proc/PID/cmdline  ✓ no key                     ✓ no key
  /proc/PID/environ  ✓ no key                     ✓ no key
  /proc/PID/mem      ✓ no key                     ✗ 57 copies, 1 fragments
                       in 13.3 MB, 9 pages denied   in 20.9 MB, 0 pages denied
`},
		{"user", findings{environ: denied, mem: denied}, memory(copies(1, 0)), `
                       responses-api-proxy          httputil.ReverseProxy
  /proc/PID/cmdline  ✓ no key                     ✓ no key
  /proc/PID/environ  ✓ denied by the kernel       ✓ no key
  /proc/PID/mem      ✓ denied by the kernel       ✗ 1 copies, 0 fragments
                                                    in 20.9 MB, 0 pages denied
`},
		{"worst", findings{cmdline: copies(1, 0), environ: copies(0, 1), mem: copies(0, 7)}, memory(denied), `
                       responses-api-proxy          httputil.ReverseProxy
  /proc/PID/cmdline  ✗ 1 copies, 0 fragments      ✓ no key
  /proc/PID/environ  ✗ 0 copies, 1 fragments      ✓ no key
  /proc/PID/mem      ✗ 0 copies, 7 fragments      ✓ denied by the kernel
                       in 20.9 MB, 0 pages denied
`},
	} {
		got := table(c.ours, c.naive)
		if got != c.want[1:] {
			t.Errorf("%s:\n%s\nwant:\n%s", c.name, got, c.want[1:])
		}
		checkScreen(t, got)
	}
}

func TestArrival(t *testing.T) {
	now := time.Now()
	text := arrival{text: strings.Repeat("long ", 20), sent: now, at: now.Add(340 * time.Microsecond)}.line(now.Add(-410*time.Millisecond)) +
		arrival{text: "short ", sent: now, at: now.Add(9999 * time.Millisecond)}.line(now.Add(-49001*time.Millisecond))
	checkScreen(t, text)
	checkContains(t, text, "  0.41 s  long long ", "   0.34 ms after sending\n", "  59.00 s  short  ", " 9999.00 ms after")
}

type brokenWriter struct{ writes int }

func (w *brokenWriter) Write([]byte) (int, error) {
	w.writes++
	return 0, errors.New("broken")
}

func TestBrokenOutput(t *testing.T) {
	w := &brokenWriter{}
	s := &stage{out: w}
	s.printf("a")
	s.printf("b")
	if s.err == nil || w.writes != 1 {
		t.Errorf("%d writes, %v", w.writes, s.err)
	}
}
