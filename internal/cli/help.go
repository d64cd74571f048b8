package cli

import (
	"fmt"
	"strings"
	"unicode"
)

// A Topic is a group of flags in the help.
type Topic struct{ Name, Title, Text string }

// full returns everything that is known of a flag in sentences.
func (f Flag) full() string {
	text := strings.ToUpper(f.Summary[:1]) + f.brief()[1:] + "."
	if f.Text != "" {
		text += " " + f.Text
	}
	if f.Repeat {
		text += " May be repeated."
	}
	if f.Needs != nil {
		text += " Needs `" + strings.ReplaceAll(f.needs(), " or ", "` or `") + "`."
	}
	return text
}

// brief returns what fits in a list of flags.
func (f Flag) brief() string {
	if f.Default == "" {
		return f.Summary
	}
	return f.Summary + " (default: " + f.Default + ")"
}

// Common lists the flags that most users need, with one clause each.
func Common(flags []Flag) string {
	return columns(flags, func(f Flag) bool { return f.Common }, Flag.brief)
}

// Help returns the help on a topic, or on every topic if name is "all"; "" if
// there is no such topic.
func Help(topics []Topic, flags []Flag, name string) string {
	var b strings.Builder
	for _, t := range topics {
		if t.Name != name && name != "all" {
			continue
		}
		if b.Len() > 0 {
			b.WriteString("\n")
		}
		b.WriteString(t.Title + ":\n")
		if t.Text != "" {
			b.WriteString(wrap(plain(t.Text), 2, 80) + "\n")
		}
		b.WriteString(columns(flags, func(f Flag) bool { return f.Topic == t.Name }, Flag.full))
	}
	return b.String()
}

// columns lists the flags that include accepts, in their order.
func columns(flags []Flag, include func(Flag) bool, text func(Flag) string) string {
	const column = 24
	var b strings.Builder
	for _, f := range flags {
		if !include(f) {
			continue
		}
		head, body := "  "+f.Usage(), wrap(plain(text(f)), column, 80)
		if len(head) > column-2 {
			b.WriteString(head + "\n" + body)
			continue
		}
		fmt.Fprintf(&b, "%-*s%s", column, head, strings.TrimLeft(body, " "))
	}
	return b.String()
}

// plain returns text without its backquotes.
func plain(text string) string { return strings.ReplaceAll(text, "`", "") }

// wrap returns text in lines of at most width columns, each behind indent spaces.
func wrap(text string, indent, width int) string {
	var b strings.Builder
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && indent+len(line)+1+len(word) > width {
			fmt.Fprintf(&b, "%*s%s\n", indent, "", line)
			line = ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	fmt.Fprintf(&b, "%*s%s\n", indent, "", line)
	return b.String()
}

// Markdown returns the flags as the manual page has them. With topics they stand
// below headings.
func Markdown(topics []Topic, flags []Flag) string {
	var b strings.Builder
	for _, t := range topics {
		if t.Title != "" {
			fmt.Fprintf(&b, "### %s\n\n", t.Title)
		}
		if t.Text != "" {
			fmt.Fprintf(&b, "%s\n", wrap(t.Text, 0, 120))
		}
		for _, f := range flags {
			if f.Topic == t.Name {
				fmt.Fprintf(&b, "%s\n%s\n", f.heading(), wrap(": "+f.full(), 0, 120))
			}
		}
	}
	return b.String()
}

// heading returns a flag and its value in the typography of manual pages: words
// are bold, placeholders in italics.
func (f Flag) heading() string {
	if f.Value == "" {
		return "**" + f.String() + "**"
	}
	parts := strings.Split(f.Value, "|")
	for i, part := range parts {
		mark := "**"
		if strings.ContainsFunc(part, unicode.IsUpper) {
			mark = "*"
		}
		parts[i] = mark + part + mark
	}
	value := strings.Join(parts, "|")
	if f.Optional {
		return "**" + f.String() + "**[=" + value + "]"
	}
	return "**" + f.String() + "** " + value
}

// Table returns the common flags as a table in Markdown.
func Table(flags []Flag) string {
	var b strings.Builder
	b.WriteString("| flag | meaning | default |\n|---|---|---|\n")
	for _, f := range flags {
		if f.Common {
			name := strings.ReplaceAll(f.Usage(), "|", `\|`)
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", name, f.Summary, f.Default)
		}
	}
	return b.String()
}
