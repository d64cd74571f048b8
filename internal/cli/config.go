package cli

import (
	"fmt"
	"slices"
	"strings"
)

// ConfigArgs returns the flags in the text of a configuration file as arguments
// for Parse: in each line a name without dashes and, behind blanks, the value,
// which ends with the line. Empty lines and those that begin with # are comments.
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
			args = append(args, dashed(name))
		default:
			args = append(args, dashed(name)+"="+value)
		}
	}
	return args, nil
}
