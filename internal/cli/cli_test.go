package cli

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// table returns flags that note what they are set to.
func table(set *[]string) []Flag {
	note := func(name string) func(string) error {
		return func(s string) error {
			*set = append(*set, name+"="+s)
			return when(s == "wrong", "it is wrong")
		}
	}
	return []Flag{
		{Name: "file", Value: "FILE", Set: note("file")},
		{Name: "many", Value: "a|b", Repeat: true, Set: note("many")},
		{Name: "on", Set: note("on")},
		{Name: "help", Set: RequestHelp},
		{Name: "c", Value: "X", Hidden: true, Set: note("c")},
		{Name: "needs", Needs: "many on", Set: note("needs")},
		{Name: "hidden", Hidden: true, Set: note("hidden")},
		{Name: "may", Value: "X", Optional: true, Repeat: true, Also: "old older=Y", Set: note("may")},
	}
}

func TestParse(t *testing.T) {
	for line, want := range map[string]string{
		"--file x rest --on":       "file=x; rest --on",
		"-file=x -- --on":          "file=x; --on",
		"--file=a=b --on":          "file=a=b on=true; ",
		"--file --on":              "file=--on; ",
		"--file=":                  "file=; ",
		"--on=true":                "on=true; ",
		"--many a --many=b -c -":   "many=a many=b c=-; ",
		"- --on":                   "; - --on",
		"--on=false":               "flag --on: this flag takes no value",
		"--on=":                    "flag --on: this flag takes no value",
		"--file":                   "flag needs an argument: --file",
		"--file x --file=x":        "flag --file: the flag is given more than once",
		"--on --on":                "flag --on: the flag is given more than once",
		"--file wrong":             `invalid value "wrong" for flag --file: it is wrong`,
		"-c wrong":                 `invalid value "wrong" for flag -c: it is wrong`,
		"-fil":                     "flag provided but not defined: --fil; is --file meant?",
		"--hiden":                  "flag provided but not defined: --hiden",
		"-d":                       "flag provided but not defined: -d",
		"--may x":                  "may=true; x",
		"--may=x --may=y":          "may=x may=y; ",
		"--may= --may":             "flag --may: the flag is given more than once",
		"--old":                    "flag provided but not defined: --old; is --may meant?",
		"--older=1":                "flag provided but not defined: --older; is --may=Y meant?",
		"--needs":                  "--needs needs --many or --on",
		"--needs --on":             "needs=true on=true; ",
		"---on":                    "bad flag syntax: ---on",
		"--=x":                     "bad flag syntax: --",
		"--" + longName + "=x":     "flag provided but not defined: one of 31 characters",
		"--sk-x":                   "flag provided but not defined: one of 4 characters",
		"--file x --help --nosuch": "help requested",
	} {
		var set []string
		given, rest, err := Parse(table(&set), strings.Fields(line))
		if err == nil {
			err = CheckNeeds(table(&set), given)
		}
		got := strings.Join(set, " ") + "; " + strings.Join(rest, " ")
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
		for name := range given {
			if !slices.ContainsFunc(set, func(s string) bool { return strings.HasPrefix(s, name+"=") }) {
				t.Errorf("%q: %s is given but not set", line, name)
			}
		}
	}
}

var longName = strings.Repeat("x", 31)

func TestSize(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "10": 10, "2KiB": 2048, "3MiB": 3 << 20, "4GiB": 4 << 30, "1k": 1024, "1G": 1 << 30, "10MB": 10 << 20, "2mib": 2 << 20} {
		var n int64
		if err := Size(&n)(text); err != nil || n != want {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
	for _, text := range []string{"", "-1", "1x", "1i", "1b", "G", "KiB", "1.5MiB", "9223372036854775807GiB", "4611686018427387905"} {
		var n int64
		if Size(&n)(text) == nil {
			t.Errorf("%q: %d", text, n)
		}
	}
}

func FuzzNearest(f *testing.F) {
	f.Add("prot", "port")
	f.Fuzz(func(t *testing.T, a, b string) {
		d := distance(a, b)
		if d != distance(b, a) || d > max(len(a), len(b)) || (d == 0) != (a == b) {
			t.Errorf("distance(%q, %q) = %d, the other way %d", a, b, d, distance(b, a))
		}
	})
}

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{"0": 0, "90s": 90 * time.Second, "2d": 48 * time.Hour, "1d12h": 36 * time.Hour} {
		var d time.Duration
		if err := Duration(&d, "2h")(text); err != nil || d != want {
			t.Errorf("%q: %v, %v", text, d, err)
		}
	}
	for _, text := range []string{"", "5", "-1s", "d", "-1d", "1.5d", "200000d", "5/s"} {
		var d time.Duration
		if Duration(&d, "2h")(text) == nil {
			t.Errorf("%q: %v", text, d)
		}
	}
}
