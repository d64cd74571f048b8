package cli

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
)

// RequestHelp is the Set of --help.
func RequestHelp(string) error { return ErrHelp }

// Bool returns a Set that stores true.
func Bool(to *bool) func(string) error {
	return func(string) error {
		*to = true
		return nil
	}
}

// Any returns a Set that stores any value.
func Any(to *string) func(string) error { return String(to, "") }

// String returns a Set that stores any value but the empty one, unless what, the
// value's name in the error, is empty.
func String(to *string, what string) func(string) error {
	return func(s string) error {
		*to = s
		return when(s == "" && what != "", what+" is needed")
	}
}

// Strings returns a Set that appends any value but the empty one.
func Strings(to *[]string, what string) func(string) error {
	return func(s string) error {
		*to = append(*to, s)
		return when(s == "", what+" is needed")
	}
}

// Choice returns a Set that stores one of the words.
func Choice[T ~string](to *T, words ...T) func(string) error {
	return func(s string) error {
		*to = T(s)
		names := make([]string, len(words))
		for i, w := range words {
			names[i] = string(w)
		}
		return when(!slices.Contains(words, T(s)), "choose "+strings.Join(names, " or "))
	}
}

// Count returns a Set that stores a number from 0 on.
func Count[T int | int64](to *T) func(string) error {
	return func(s string) error {
		n, err := strconv.ParseInt(s, 10, 64)
		*to = T(n)
		return when(err != nil || n < 0 || int64(T(n)) != n, "a number from 0 on is needed")
	}
}

// Duration returns a Set that stores a duration, such as the example.
func Duration(to *time.Duration, example string) func(string) error {
	return func(s string) (err error) {
		*to, err = time.ParseDuration(s)
		return when(err != nil || *to < 0, "a duration is a number with a unit, such as "+example)
	}
}

// Size returns a Set that stores a number of bytes, given with or without a unit
// of 1024.
func Size(to *int64) func(string) error {
	return func(s string) error {
		unit := int64(1)
		for suffix, n := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
			if rest, ok := strings.CutSuffix(s, suffix); ok {
				s, unit = rest, n
			}
		}
		n, err := strconv.ParseInt(s, 10, 64)
		*to = n * unit
		return when(err != nil || n < 0 || n > 1<<62/unit, "a size is a number of bytes, or of KiB, MiB or GiB, such as 64MiB")
	}
}

func when(wrong bool, text string) error {
	if wrong {
		return errors.New(text)
	}
	return nil
}
