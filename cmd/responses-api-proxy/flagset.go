package main

import (
	"errors"
	"flag"
	"strconv"
	"strings"
	"time"
)

// flagSet adds flags that may be given once: a second value would silently win.
type flagSet struct{ *flag.FlagSet }

// value adds a flag that set reads.
func (fs flagSet) value(name string, set func(string) error) { fs.Func(name, "", once(set)) }

// text adds a flag whose value is needed, and stands for itself.
func (fs flagSet) text(name, what string, to *string) {
	fs.value(name, func(s string) error {
		*to = s
		return when(s == "", what+" is needed")
	})
}

// toggle adds a flag without a value.
func (fs flagSet) toggle(name string, set func()) {
	fs.BoolFunc(name, "", once(func(s string) error {
		set()
		return when(s != "true", "this flag takes no value")
	}))
}

// size adds a flag for a number of bytes.
func (fs flagSet) size(name string, to *int64) {
	fs.value(name, func(s string) (err error) { *to, err = parseSize(s); return err })
}

// count adds a flag for a number of things.
func (fs flagSet) count(name string, set func(int64)) {
	fs.value(name, func(s string) error {
		n, err := strconv.ParseInt(s, 10, 64)
		set(n)
		return when(err != nil || n < 0, "a number from 0 on is needed")
	})
}

// duration adds a flag for one, such as the example.
func (fs flagSet) duration(name, example string, to *time.Duration) {
	fs.value(name, func(s string) (err error) {
		*to, err = time.ParseDuration(s)
		return when(err != nil || *to < 0, "a duration is a number with a unit, such as "+example)
	})
}

// parseSize reads a number of bytes, with or without a unit of 1024.
func parseSize(s string) (int64, error) {
	unit := int64(1)
	for suffix, n := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if rest, ok := strings.CutSuffix(s, suffix); ok {
			s, unit = rest, n
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > 1<<62/unit {
		return 0, errors.New("a size is a number of bytes, or of KiB, MiB or GiB, such as 64MiB")
	}
	return n * unit, nil
}

// once refuses a flag that is given again: the second would silently win.
func once(set func(string) error) func(string) error {
	seen := false
	return func(s string) error {
		if seen {
			return errors.New("the flag is given more than once")
		}
		seen = true
		return set(s)
	}
}

func when(wrong bool, text string) error {
	if wrong {
		return errors.New(text)
	}
	return nil
}
