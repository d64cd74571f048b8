package cli

import "strings"

// Nearest returns the name that is most like a wrong one, off by a third of its
// letters at most, or its only continuation; "" if there is none.
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

// distance returns how many letters must be inserted, removed or replaced, or
// adjacent ones exchanged, to turn a into b.
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
