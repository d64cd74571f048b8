package attack

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

// A result is the outcome of one attempt.
type result string

const (
	pass    result = "pass"
	fail    result = "fail" // makes the exit code 1
	skipped result = "skipped"
	info    result = "info"
	rootCan result = "root" // possible for root against any proxy
)

var marks = map[result]string{pass: "✓", fail: "✗", skipped: "–", info: "·", rootCan: "!"}

// An attempt is one operation of an attacker.
type attempt struct {
	group, name string
	proves      string // what is true after a pass, and false after a fail
	try         func() (result, string)
}

// An outcome is one row of the table, and one object of the JSON document.
type outcome struct {
	Group   string `json:"group"`
	Attempt string `json:"attempt"`
	Result  result `json:"result"`
	Detail  string `json:"detail"`
	Proves  string `json:"proves"` // empty if the attempt proves nothing
}

// A document is what --json prints.
type document struct {
	Version  int            `json:"version"` // of this format
	Address  string         `json:"address"`
	PID      int            `json:"pid,omitempty"`
	UID      int            `json:"uid"` // of the attacker; -1 where there are no uids
	Attempts []outcome      `json:"attempts"`
	Counts   map[result]int `json:"counts"`
	Exit     int            `json:"exit"`
}

// A report prints results as they arrive.
type report struct {
	document
	w           io.Writer
	json, color bool
	err         error // the first error of a write
}

func newReport(t *target, w io.Writer) *report {
	r := &report{w: w, json: t.json, color: isTerminal(w)}
	r.document = document{Version: 3, Address: t.address(), PID: t.pid, UID: os.Geteuid(), Counts: map[result]int{pass: 0, fail: 0, skipped: 0, info: 0, rootCan: 0}}
	who := "this user"
	if r.UID >= 0 {
		who = fmt.Sprintf("uid %d", r.UID)
	}
	r.printf("An attacker (%s) against the proxy on %s", who, printable(r.Address))
	if r.PID > 0 {
		r.printf(", process %d", r.PID)
	}
	r.printf("\n")
	return r
}

// add makes an attempt and prints its row.
func (r *report) add(a attempt) {
	if n := len(r.Attempts); n == 0 || r.Attempts[n-1].Group != a.group {
		r.printf("\n%s\n", a.group)
	}
	o := outcome{Group: a.group, Attempt: a.name}
	o.Result, o.Detail = a.try()
	o.Detail = printable(o.Detail)
	switch o.Result {
	case pass:
		o.Proves = a.proves
	case fail:
		o.Proves = "not so: " + a.proves
	}
	r.Attempts = append(r.Attempts, o)
	r.Counts[o.Result]++
	r.row(o)
}

// end prints the totals and returns the exit code.
func (r *report) end() (int, error) {
	if r.Counts[fail] > 0 {
		r.Exit = 1
	}
	if r.json {
		e := json.NewEncoder(r.w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		r.err = e.Encode(r.document)
	}
	r.printf("\n%d passed, %d failed, %d skipped, %d for information\n", r.Counts[pass], r.Counts[fail], r.Counts[skipped], r.Counts[info])
	if n := r.Counts[rootCan]; n > 0 {
		r.printf("%s %d other ways for root, who cannot read the key, to obtain it\n", r.mark(rootCan), n)
	}
	switch {
	case r.err != nil:
		return 0, fmt.Errorf("cannot write the report: %w", r.err)
	case r.Exit == 0 && r.Counts[skipped] > 0:
		n := len(r.Attempts)
		r.printf("%s nothing was stolen or spent by %d of %d attempts; the others were skipped\n", r.mark(pass), n-r.Counts[skipped], n)
	case r.Exit == 0:
		r.printf("%s nothing was stolen or spent\n", r.mark(pass))
	default:
		r.printf("%s failed:\n", r.mark(fail))
		for _, o := range r.Attempts {
			if o.Result == fail {
				r.printf("  %s\n", o.Attempt)
			}
		}
	}
	return r.Exit, r.err
}

func (r *report) printf(format string, args ...any) {
	if r.err == nil && !r.json {
		_, r.err = fmt.Fprintf(r.w, format, args...)
	}
}

// The columns, of 80 with the mark and the spaces between them.
const (
	nameWidth   = 23
	detailWidth = 25
	provesWidth = 26
)

// row prints the cells side by side, each wrapped in its column.
func (r *report) row(o outcome) {
	name, detail, proves := wrap(o.Attempt, nameWidth), wrap(o.Detail, detailWidth), wrap(o.Proves, provesWidth)
	for i := range max(len(name), len(detail), len(proves)) {
		mark := " "
		if i == 0 {
			mark = r.mark(o.Result)
		}
		line := fmt.Sprintf("%s  %s  %s", pad(cell(name, i), nameWidth), pad(cell(detail, i), detailWidth), cell(proves, i))
		r.printf("%s\n", strings.TrimRight(mark+" "+line, " "))
	}
}

func (r *report) mark(x result) string {
	const red, green, plain = "\x1b[31m", "\x1b[32m", "\x1b[0m"
	switch {
	case r.color && x == fail:
		return red + marks[x] + plain
	case r.color && x == pass:
		return green + marks[x] + plain
	}
	return marks[x]
}

func cell(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return ""
}

// pad appends spaces, and counts characters rather than bytes.
func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}

// wrap breaks text at spaces, and words that are too long anywhere.
func wrap(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
		for utf8.RuneCountInString(line) > width {
			runes := []rune(line)
			lines, line = append(lines, string(runes[:width])), string(runes[width:])
		}
	}
	return append(lines, line)
}

// printable replaces characters by which a hostile proxy could control a terminal.
func printable(text string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c > 0x7e && c != '…' {
			return '?'
		}
		return c
	}, text)
}

// skip returns an attempt that is not made, with the reason.
func skip(group, name, proves, reason string) attempt {
	return attempt{group, name, proves, func() (result, string) { return skipped, reason }}
}
