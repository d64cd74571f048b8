package main

import (
	"flag"
	"fmt"
	"strings"
)

// hint adds to an error of package flag which flag may have been meant.
func hint(fs *flag.FlagSet, err error) error {
	wrong, unknown := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !unknown || len(wrong) > 64 {
		return err
	}
	names := []string{"help"}
	fs.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	if near := nearest(wrong, names); near != "" {
		return fmt.Errorf("%w; is --%s meant?", err, near)
	}
	return err
}

// unexpected is the error for a word that belongs to no flag. It never shows
// what may be a key: errors are logged.
func unexpected(word string) error {
	if len(word) >= 20 || strings.HasPrefix(word, "sk-") {
		return fmt.Errorf("unexpected argument of %d characters; if it is a key, every user of this host can have read it: revoke it, and pipe the new one in", len(word))
	}
	if near := nearest(word, []string{"verify", "health"}); near != "" {
		return fmt.Errorf("unexpected argument %q; is the subcommand %s meant? it stands first", word, near)
	}
	return fmt.Errorf("unexpected argument %q; a switch takes no value, and the key comes from standard input", word)
}

// nearest is the name that is most like a wrong one, off by a third of its
// letters at most, or its only continuation; "" if there is none.
func nearest(wrong string, names []string) (near string) {
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

// distance is how many letters must be put in, left out or replaced, or
// neighbours exchanged, to make b of a.
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
