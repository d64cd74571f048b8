// Package cli parses a command line, or a file with flags, by a table of flags.
package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A Flag is one entry of the table of a command.
type Flag struct {
	Name     string // without dashes; a name of one letter is written with one dash
	Value    string // placeholder or words, such as FILE|-; "" for a flag without a value
	Repeat   bool   // may be given more than once
	Optional bool   // the value may be omitted; if given, it follows "="
	Hidden   bool   // in no text, and not proposed in an error
	// Also has the names by which users look for it, each with "=" and a value if it stands for that. Errors lead from
	// these to Name.
	Also  string
	Needs string // names of flags, of which one must be given as well

	Set func(value string) error // "true" for a flag without a value
}

// String returns the name with its dashes.
func (f Flag) String() string {
	if len(f.Name) == 1 {
		return "-" + f.Name
	}
	return "--" + f.Name
}

// ErrHelp is returned by Parse as it is when a flag's Set returns it.
var ErrHelp = errors.New("help requested")

// Parse sets the flags that args begin with, and returns their names and the remaining words. It accepts one dash or
// two, and a value in the next word or behind "=".
func Parse(flags []Flag, args []string) (given map[string]bool, rest []string, err error) {
	given = map[string]bool{}
	for len(args) > 0 && args[0] != "--" && len(args[0]) > 1 && args[0][0] == '-' {
		name, value, hasValue := strings.Cut(strings.TrimPrefix(args[0][1:], "-"), "=")
		args = args[1:]
		i := slices.IndexFunc(flags, func(f Flag) bool { return f.Name == name })
		if i < 0 {
			return nil, nil, undefined(flags, name)
		}
		f := flags[i]
		switch {
		case given[name] && (!f.Repeat || f.Optional && !hasValue):
			return nil, nil, fmt.Errorf("flag %s: the flag is given more than once", f)
		case f.Value == "" && hasValue && value != "true":
			return nil, nil, fmt.Errorf("flag %s: this flag takes no value", f)
		case f.Value == "" || f.Optional && !hasValue:
			value = "true"
		case !hasValue && len(args) == 0:
			return nil, nil, fmt.Errorf("flag needs an argument: %s", f)
		case !hasValue:
			value, args = args[0], args[1:]
		}
		given[name] = true
		switch err := f.Set(value); {
		case err == ErrHelp:
			return nil, nil, err
		case err != nil:
			return nil, nil, fmt.Errorf("invalid value %q for flag %s: %w", value, f, err)
		}
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	return given, args, nil
}

// CheckNeeds returns an error if a flag that was given needs another that was not.
func CheckNeeds(flags []Flag, given map[string]bool) error {
	for _, f := range flags {
		needs := strings.Fields(f.Needs)
		if given[f.Name] && len(needs) > 0 && !slices.ContainsFunc(needs, func(name string) bool { return given[name] }) {
			return fmt.Errorf("%s needs --%s", f, strings.Join(needs, " or --"))
		}
	}
	return nil
}

// undefined returns the error for a flag that is not in the table, with the one that may have been meant.
func undefined(flags []Flag, name string) error {
	switch {
	case name == "" || name[0] == '-':
		return fmt.Errorf("bad flag syntax: --%.64s", name)
	case len(name) > 30 || strings.HasPrefix(name, "sk-"): // it may be a key
		return fmt.Errorf("flag provided but not defined: one of %d characters", len(name))
	}
	var names []string
	meant := ""
	for _, f := range flags {
		if !f.Hidden {
			names = append(names, f.Name)
		}
		for also := range strings.FieldsSeq(f.Also) {
			if also, value, _ := strings.Cut(also, "="); also == name {
				meant = f.with(value)
			}
		}
	}
	if near := Nearest(name, names); meant == "" && near != "" {
		meant = Flag{Name: near}.String()
	}
	err := fmt.Errorf("flag provided but not defined: %s", Flag{Name: name})
	if meant != "" {
		return fmt.Errorf("%w; is %s meant?", err, meant)
	}
	return err
}

// with returns the flag as it is typed with a value; without one if that is "".
func (f Flag) with(value string) string {
	switch {
	case value == "":
		return f.String()
	case f.Optional:
		return f.String() + "=" + value
	}
	return f.String() + " " + value
}

// Nearest returns the name that is most like a wrong one, off by a third of its letters at most, or its only
// continuation; "" if there is none.
func Nearest(wrong string, names []string) (near string) {
	wrong = strings.ReplaceAll(strings.ToLower(wrong), "_", "-")
	best, continued := len(wrong)/3+1, []string(nil)
	for _, name := range names {
		if d := distance(wrong, name); d < best {
			best, near = d, name
		}
		if strings.HasPrefix(name, wrong) {
			continued = append(continued, name)
		}
	}
	if near == "" && len(continued) == 1 {
		near = continued[0]
	}
	return near
}

// distance returns how many letters must be inserted, removed or replaced, or adjacent ones exchanged, to turn a into
// b.
func distance(a, b string) int {
	d := make([][]int, len(a)+1) // from each beginning of a to each of b
	for i := range d {
		d[i] = make([]int, len(b)+1)
		for j := range d[i] {
			switch {
			case i == 0 || j == 0:
				d[i][j] = i + j
			case a[i-1] == b[j-1]:
				d[i][j] = d[i-1][j-1]
			default:
				d[i][j] = 1 + min(d[i-1][j-1], d[i-1][j], d[i][j-1])
			}
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}

// ConfigArgs returns the flags in the text of a configuration file as arguments for Parse: in each line a name without
// dashes and, behind blanks, the value, which ends with the line. Empty lines and those that begin with # are comments.
func ConfigArgs(flags []Flag, text string) (args []string, err error) {
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, value := line, ""
		if end := strings.IndexAny(line, " \t"); end >= 0 {
			name, value = line[:end], strings.TrimSpace(line[end:])
		}
		i := slices.IndexFunc(flags, func(f Flag) bool { return f.Name == name })
		switch {
		case strings.HasPrefix(name, "-") || strings.Contains(name, "="):
			return nil, fmt.Errorf("line %d: write a flag's name without dashes, blanks and its value", number)
		case i < 0:
			return nil, fmt.Errorf("line %d: %w", number, undefined(flags, name))
		case flags[i].Value == "" && value != "":
			return nil, fmt.Errorf("line %d: %s takes no value", number, name)
		case value == "" && (flags[i].Value == "" || flags[i].Optional):
			args = append(args, flags[i].String())
		default:
			args = append(args, flags[i].String()+"="+value)
		}
	}
	return args, nil
}
