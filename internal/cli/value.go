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

// String returns a Set that stores any value but the empty one; what names the
// value in the error.
func String(to *string, what string) func(string) error {
	return Parsed(to, func(s string) (string, error) { return s, when(s == "", what+" is needed") })
}

// Each returns a Set that appends every value for which check returns nil.
func Each(to *[]string, check func(string) error) func(string) error {
	return func(s string) error {
		*to = append(*to, s)
		return check(s)
	}
}

// Append returns a Set that appends what parse returns.
func Append[T any](to *[]T, parse func(string) (T, error)) func(string) error {
	return func(s string) error {
		v, err := parse(s)
		*to = append(*to, v)
		return err
	}
}

// NotEmpty returns a check that the value, which what names, is not empty.
func NotEmpty(what string) func(string) error { return String(new(string), what) }

// Choice returns a Set that stores one of the words.
func Choice[T ~string](to *T, words ...string) func(string) error {
	return Parsed(to, func(s string) (T, error) {
		return T(s), when(!slices.Contains(words, s), "choose "+strings.Join(words, " or "))
	})
}

// Int returns a Set that stores a decimal number within the limits; want is the
// error for all else.
func Int[T int | int64 | uint16](to *T, least, most uint64, want string) func(string) error {
	return Parsed(to, func(s string) (T, error) {
		n, err := strconv.ParseUint(s, 10, 64)
		return T(n), when(err != nil || n < least || n > most, want)
	})
}

// Count returns a Set that stores a number from 0 on.
func Count[T int | int64](to *T) func(string) error {
	return Int(to, 0, math.MaxInt, "a number from 0 on is needed")
}

// Float returns a Set that stores a number from 0 to most; want is the error for
// all else.
func Float(to *float64, most float64, want string) func(string) error {
	return Parsed(to, func(s string) (float64, error) {
		n, err := strconv.ParseFloat(s, 64)
		return n, when(err != nil || !(n >= 0 && n <= most), want) // NaN is neither
	})
}

// Duration returns a Set that stores a duration, such as the example.
func Duration(to *time.Duration, example string) func(string) error {
	return Parsed(to, func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		return d, when(err != nil || d < 0, "a duration is a number with a unit, such as "+example)
	})
}

// Size returns a Set that stores a number of bytes, given with or without a unit
// of 1024.
func Size(to *int64) func(string) error {
	return Parsed(to, func(s string) (int64, error) {
		unit := int64(1)
		for suffix, n := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
			if rest, ok := strings.CutSuffix(s, suffix); ok {
				s, unit = rest, n
			}
		}
		n, err := strconv.ParseUint(s, 10, 63)
		return int64(n) * unit, when(err != nil || int64(n) > 1<<62/unit, "a size is a number of bytes, or of KiB, MiB or GiB, such as 64MiB")
	})
}

func when(wrong bool, text string) error {
	if wrong {
		return errors.New(text)
	}
	return nil
}
