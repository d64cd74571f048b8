package cli

import (
	"fmt"
	"strings"
)

// A Topic is a group of flags in the help.
type Topic struct{ Name, Title, Text string }

// Full returns everything that is known of a flag in sentences.
func (f Flag) Full() string {
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
			b.WriteString(Wrap(plain(t.Text), 2, 80) + "\n")
		}
		b.WriteString(columns(flags, func(f Flag) bool { return f.Topic == t.Name }, Flag.Full))
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
		head, body := "  "+f.Usage(), Wrap(plain(text(f)), column, 80)
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

// Wrap returns text in lines of at most width columns, each behind indent spaces.
func Wrap(text string, indent, width int) string {
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
