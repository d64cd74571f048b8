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
func (f Flag) String() string { return dashed(f.Name) }

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// ErrHelp is returned by Parse as it is when a flag's Set returns it.
var ErrHelp = errors.New("help requested")

// Parse sets the flags that args begin with, and returns their names and the
// remaining words. It accepts one dash or two, and a value in the next word or
// behind "=".
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
	for _, f := range flags {
		needs := strings.Fields(f.Needs)
		if given[f.Name] && len(needs) > 0 && !slices.ContainsFunc(needs, func(name string) bool { return given[name] }) {
			return nil, nil, fmt.Errorf("%s needs --%s", f, strings.Join(needs, " or --"))
		}
	}
	return given, args, nil
}

// undefined returns the error for a flag that is not in the table, with the one
// that may have been meant.
func undefined(flags []Flag, name string) error {
	switch {
	case name == "" || name[0] == '-':
		return fmt.Errorf("bad flag syntax: --%.64s", name)
	case len(name) > 64:
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
		meant = dashed(near)
	}
	err := fmt.Errorf("flag provided but not defined: %s", dashed(name))
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
