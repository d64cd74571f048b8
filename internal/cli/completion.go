package cli

import (
	"cmp"
	_ "embed"
	"fmt"
	"strings"
)

var (
	//go:embed completion.bash
	bash string
	//go:embed completion.zsh
	zsh string
	//go:embed completion.fish
	fish string
)

// Completion returns the completion script for a shell; "" for a shell that is
// not known. The texts take the place of their names between at signs.
func Completion(shell string, texts map[string]string) string {
	script := map[string]string{"bash": bash, "zsh": zsh, "fish": fish}[shell]
	quote := `'\''` // ends the quotation, and begins it again
	if shell == "fish" {
		quote = `\'`
	}
	for name, text := range texts {
		script = strings.ReplaceAll(script, "@"+name+"@", strings.ReplaceAll(text, "'", quote))
	}
	return script
}

// Lines returns a line for each flag: its name, behind a star if it may be
// repeated, its value, behind "=" if it may be omitted, or a dot, and its summary.
func Lines(flags []Flag) string {
	var b strings.Builder
	for _, f := range flags {
		if f.Topic == "" {
			continue
		}
		star, value := "", cmp.Or(f.Value, ".")
		if f.Repeat {
			star = "*"
		}
		if f.Optional {
			value = "=" + value
		}
		fmt.Fprintf(&b, "%s%s %s %s\n", star, f, value, f.Summary)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
