package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"
	"unicode/utf8"
)

// The screen has 80 columns and 24 lines, and everything must fit.
const (
	labelWidth = 19
	cellWidth  = 29
)

const (
	red   = "\x1b[31m"
	green = "\x1b[32m"
	plain = "\x1b[0m"
)

// A screen is what the demo prints to.
type screen struct {
	w     io.Writer
	color bool
	err   error // the first that writing met
}

// wantsColor tells whether f is a terminal whose user has nothing against
// colour (no-color.org).
func wantsColor(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0 &&
		os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && runtime.GOOS != "windows"
}

func (s *screen) printf(format string, args ...any) {
	if s.err == nil {
		_, s.err = fmt.Fprintf(s.w, format, args...)
	}
}

func (s *screen) paint(color, text string) string {
	if !s.color {
		return text
	}
	return color + text + plain
}

func (s *screen) mark(good bool) string {
	if good {
		return s.paint(green, "✓")
	}
	return s.paint(red, "✗")
}

// arrival prints one piece of text, since after the question.
func (s *screen) arrival(since time.Duration, a arrival) {
	late := float64(a.at.Sub(a.sent)) / float64(time.Millisecond)
	s.printf("  %5.2f s  %-43.43s  %6.2f ms after sending\n", since.Seconds(), strings.TrimSpace(a.text), late)
}

// table prints what the thief has, side by side.
func (s *screen) table(ours, naive loot) {
	s.row("", "  responses-api-proxy", "  httputil.ReverseProxy")
	s.row("/proc/PID/cmdline", s.where(ours.cmdline), s.where(naive.cmdline))
	s.row("/proc/PID/environ", s.where(ours.environ), s.where(naive.environ))
	s.row("/proc/PID/mem", s.copies(ours.mem), s.copies(naive.mem))
	if !ours.mem.denied || !naive.mem.denied {
		s.row("", searched(ours.mem), searched(naive.mem))
	}
}

func (s *screen) row(label string, cells ...string) {
	line := "  " + pad(label, labelWidth)
	for _, c := range cells {
		line += pad(c, cellWidth)
	}
	s.printf("%s\n", strings.TrimRight(line, " "))
}

// where says whether the key stands in a place where it would be for all to see.
func (s *screen) where(f find) string {
	switch {
	case f.denied:
		return s.denied()
	case f.key():
		return s.mark(false) + " the key"
	}
	return s.mark(true) + " no key"
}

// copies says how often the key was found.
func (s *screen) copies(f find) string {
	if f.denied {
		return s.denied()
	}
	return fmt.Sprintf("%s %s, %s", s.mark(!f.key()), count(f.Full, "copy", "copies"), count(f.Fragments, "fragment", "fragments"))
}

func (s *screen) denied() string { return s.mark(true) + " denied by the kernel" }

// searched says how much memory the thief has seen.
func searched(f find) string {
	if f.denied {
		return ""
	}
	text := fmt.Sprintf("  in %.1f MB", float64(f.Bytes)/1e6)
	if f.Unreadable > 0 {
		text += fmt.Sprintf("; %s refused", count(f.Unreadable, "page", "pages"))
	}
	return text
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// pad fills text up with spaces, not counting what only colours it.
func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(width-columns(text), 0))
}

// columns is how much of a line text takes.
func columns(text string) int {
	for _, c := range []string{red, green, plain} {
		text = strings.ReplaceAll(text, c, "")
	}
	return utf8.RuneCountInString(text)
}
