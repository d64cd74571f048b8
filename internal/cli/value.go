package cli

import (
	"errors"
	"math"
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

// Parsed returns a Set that stores what parse returns.
func Parsed[T any](to *T, parse func(string) (T, error)) func(string) error {
	return func(s string) (err error) {
		*to, err = parse(s)
		return err
	}
}

// Any returns a Set that stores any value.
func Any(to *string) func(string) error {
	return Parsed(to, func(s string) (string, error) { return s, nil })
}

// String returns a Set that stores any value but the empty one; what names the value in the error.
func String(to *string, what string) func(string) error { return Parsed(to, NotEmpty(what)) }

// NotEmpty returns a parser of any value but the empty one; what names the value in the error.
func NotEmpty(what string) func(string) (string, error) {
	return func(s string) (string, error) { return s, when(s == "", what+" is needed") }
}

// Each returns a Set that appends every value for which check returns nil.
func Each(to *[]string, check func(string) error) func(string) error {
	return Append(to, func(s string) (string, error) { return s, check(s) })
}

// Append returns a Set that appends what parse returns.
func Append[T any](to *[]T, parse func(string) (T, error)) func(string) error {
	return func(s string) error {
		v, err := parse(s)
		*to = append(*to, v)
		return err
	}
}

// Choice returns a Set that stores one of the words.
func Choice(to *string, words ...string) func(string) error {
	return Parsed(to, func(s string) (string, error) {
		return s, when(!slices.Contains(words, s), "choose "+strings.Join(words, " or "))
	})
}

// Int returns a Set that stores a decimal number within the limits. The error for any other value is text.
func Int[T int | int64 | uint16](to *T, least, most uint64, text string) func(string) error {
	return Parsed(to, func(s string) (T, error) {
		n, err := strconv.ParseUint(s, 10, 64)
		return T(n), when(err != nil || n < least || n > most, text)
	})
}

// Count returns a Set that stores a number from 0 on.
func Count[T int | int64](to *T) func(string) error {
	return Int(to, 0, math.MaxInt, "a number from 0 on is needed")
}

// Float returns a Set that stores a number from 0 to most. The error for any other value is text.
func Float(to *float64, most float64, text string) func(string) error {
	return Parsed(to, func(s string) (float64, error) {
		n, err := strconv.ParseFloat(s, 64)
		return n, when(err != nil || !(n >= 0 && n <= most), text) // NaN is neither
	})
}

// Duration returns a Set that stores a duration, such as the example; 2d is 48h.
func Duration(to *time.Duration, example string) func(string) error {
	return Parsed(to, func(s string) (time.Duration, error) {
		text := s
		if days, rest, ok := strings.Cut(s, "d"); ok {
			n, err := strconv.ParseUint(days, 10, 16)
			if err == nil {
				text = strconv.FormatUint(24*n, 10) + "h" + rest
			}
		}
		d, err := time.ParseDuration(text)
		return d, when(err != nil || d < 0, "a duration is a number with a unit, such as "+example)
	})
}

// Size returns a Set that stores a number of bytes, given with or without a unit of a power of 1024: K, M or G, with or
// without iB or B, in either case.
func Size(to *int64) func(string) error {
	return Parsed(to, func(s string) (int64, error) {
		number := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(s), "b"), "i")
		unit := int64(1)
		for suffix, n := range map[string]int64{"k": 1 << 10, "m": 1 << 20, "g": 1 << 30} {
			if rest, ok := strings.CutSuffix(number, suffix); ok {
				number, unit = rest, n
			}
		}
		n, err := strconv.ParseUint(number, 10, 63)
		wrong := err != nil || int64(n) > 1<<62/unit || unit == 1 && number != s
		return int64(n) * unit, when(wrong, "a size is a number of bytes, or of K, M or G (1024, also KiB, MiB and GiB), such as 64MiB")
	})
}

func when(wrong bool, text string) error {
	if wrong {
		return errors.New(text)
	}
	return nil
}
