package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

// figures are the output of compare -o: contender, metric, one value for each round.
type figures map[string]map[string][]float64

func load(file string) (got figures, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &got); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return got, got.sound()
}

// sound refuses figures of requests that failed, which would make the picture wrong.
func (f figures) sound() error {
	for contender, metrics := range f {
		for metric, rounds := range metrics {
			if strings.HasSuffix(metric, ".bad") && slices.Max(rounds) > 0 {
				return fmt.Errorf("%s: %s is not 0, measure again", contender, metric)
			}
		}
	}
	return nil
}

// value returns the median over the rounds.
func (f figures) value(contender, metric string) (float64, error) {
	v := slices.Sorted(slices.Values(f[contender][metric]))
	if len(v) == 0 {
		return 0, fmt.Errorf("no figure %s of %s, measure it", metric, contender)
	}
	return (v[len(v)/2] + v[(len(v)-1)/2]) / 2, nil
}

// rounds returns the number of rounds of a figure.
func (f figures) rounds(contender, metric string) int { return len(f[contender][metric]) }

// count writes a whole number with commas, as the documents do.
func count(v float64) string {
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// millis writes milliseconds with two significant digits, or whole ones.
func millis(ms float64) string {
	switch {
	case ms < 1:
		return fmt.Sprintf("%.2f", ms)
	case ms < 10:
		return fmt.Sprintf("%.1f", ms)
	}
	return count(ms)
}
