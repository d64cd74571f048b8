package metrics

import (
	"fmt"
	"html"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// missing follows the state of a protection that is missing.
const missing = " (missing)"

// table is a part of a status. head is a row, or none.
type table struct {
	title      string
	head, rows [][]string
}

// tables returns the parts that have rows. name returns how a user is shown.
func (s *Status) tables(name func(uid int64) string) []table {
	user := func(uid int64) string {
		if uid == Others {
			return "others"
		}
		return name(uid)
	}
	failures := table{title: "Last errors", head: [][]string{{"code", "count", "user", "last"}}}
	for _, f := range s.Errors {
		failures.rows = append(failures.rows, []string{f.Code, number(f.Count), user(f.UID), s.when(f.Last)})
	}
	protections := table{title: "Protections"}
	for _, p := range s.Protections {
		protections.rows = append(protections.rows, []string{p.Name, p.State + map[bool]string{true: missing}[p.Missing]})
	}
	all := []table{{title: "Process", rows: s.process()}, {title: "Limits", rows: s.limits()}, s.users(user), failures, protections}
	return slices.DeleteFunc(all, func(t table) bool { return len(t.rows) == 0 })
}

func (s *Status) users(name func(uid int64) string) table {
	rows := [][]string{{"user", "budget spent", "left", "requests", "failed", "input tokens", "output tokens"}}
	limit := s.Limits.MaxTokens
	for _, u := range s.Users {
		spent, left := number(u.Spent), number(max(0, limit-u.Spent))
		if u.UID == Others { // have no budget
			spent, left = "", ""
		}
		rows = append(rows, []string{name(u.UID), spent, left, number(u.Requests), number(u.Failed), number(u.Input), number(u.Output)})
	}
	for i := range rows {
		if limit == 0 {
			rows[i] = slices.Delete(rows[i], 1, 3)
		}
	}
	return table{"Users", rows[:1], rows[1:]}
}

func (s *Status) process() [][]string {
	return [][]string{
		{"version", strings.TrimSpace(s.Version + " " + s.Revision)},
		{"state", s.State},
		{"started", s.when(s.Started)},
		{"connections", number(s.Connections)},
		{"requests running", number(s.Running)},
		{"requests admitted", number(s.Limits.Admitted)},
	}
}

func (s *Status) limits() (rows [][]string) {
	l := &s.Limits
	if l.MaxRequests > 0 {
		rows = append(rows, []string{"requests left", fmt.Sprintf("%d of %d", max(0, l.MaxRequests-l.Admitted), l.MaxRequests)})
	}
	if !l.Expires.IsZero() {
		rows = append(rows, []string{"expires", s.when(l.Expires)})
	}
	if l.MaxTokens > 0 {
		rows = append(rows, []string{"tokens per user", number(l.MaxTokens)}, []string{"budget since", s.when(l.Since)})
	}
	if !l.Resets.IsZero() {
		rows = append(rows, []string{"budget resets", s.when(l.Resets)})
	}
	return rows
}

// when returns a time, and how far it is from that of the status.
func (s *Status) when(t time.Time) string {
	text, past := t.UTC().Format("2006-01-02 15:04:05Z"), s.Time.Sub(t)
	if past >= 0 {
		return text + ", " + span(past) + " ago"
	}
	return text + ", in " + span(-past)
}

// span returns a duration, in days if it is long.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= 3*day {
		return fmt.Sprintf("%d days", d/day)
	}
	return d.Round(time.Second).String()
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

// Text returns the status for a terminal. name returns how a user is shown.
func (s *Status) Text(name func(uid int64) string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, t := range s.tables(name) {
		fmt.Fprintf(w, "%s:\n", t.title) // without a tab: the columns of the next table have widths of their own
		for _, row := range slices.Concat(t.head, t.rows) {
			for i, cell := range row {
				row[i] = strings.Map(printable, strings.ReplaceAll(cell, "\n", "?"))
			}
			fmt.Fprintf(w, "  %s\n", strings.Join(row, "\t"))
		}
	}
	w.Flush() // cannot fail
	return b.String()
}

// pageHead needs no script and loads nothing. The colours are the browser's, which has light and dark ones. On a narrow
// screen the text scrolls sideways, so that the columns stay.
const pageHead = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta http-equiv="refresh" content="30">
<title>responses-api-proxy</title>
<style>pre { overflow-x: auto }</style>
<h1>responses-api-proxy</h1>
<pre>
`

// StatusPage returns the status as HTML: the text for a terminal, escaped, in which what is missing is bold.
func (m *Metrics) StatusPage() []byte {
	text := html.EscapeString(m.Status().Text(number))
	return []byte(pageHead + strings.ReplaceAll(text, missing+"\n", "<b>"+missing+"</b>\n"))
}
