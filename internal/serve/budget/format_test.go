package budget

import (
	"bytes"
	"maps"
	"math"
	"strings"
	"testing"
	"time"
)

func TestFormat(t *testing.T) {
	spent := map[uint32]int64{1000: 123456, 0: 1, math.MaxUint32: math.MaxInt64, 99: 0}
	from := time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)
	const want = header + "\nsince 2026-11-26T00:00:00Z\n0 1\n99 0\n1000 123456\n4294967295 9223372036854775807\nend\n"
	if got := string(format(from, spent)); got != want {
		t.Errorf("got\n%s", got)
	}
	if since, got, err := parse([]byte(want)); err != nil || !maps.Equal(got, spent) || since != from {
		t.Errorf("%v, %v, %v", since, got, err)
	}
}

func TestParseRefuses(t *testing.T) {
	const first, second = header1 + "\n", header + "\nsince 2026-11-26T00:00:00Z\n"
	for file, want := range map[string]string{
		"":                         "line 1 is not",
		"\n":                       "line 1 is not",
		header:                     "line 2: the file is truncated",
		header1:                    "line 2: the file is truncated",
		"\ufeff" + first + "end\n": "line 1 is not",
		strings.Replace(first, "1", "3", 1) + "end\n": "line 1 is not",
		second:                     "line 3: the file is truncated",
		second + "1 2\n":           "line 4: the file is truncated",
		second + "1 2\n1 3\nend\n": "line 4: uid 1 is not larger",
		second + "end\n\n":         "unexpected text after",
		second + "since 2026-11-26T00:00:00Z\nend\n":        "line 3 is not a uid",
		first + "since 2026-11-26T00:00:00Z\nend\n":         "line 2 is not a uid",
		header + "\nend\n":                                  "line 2 is not \"since \"",
		header + "\n1 2\nend\n":                             "line 2 is not \"since \"",
		header + "\nsince \nend\n":                          "line 2 is not \"since \"",
		header + "\nsince 2026-11-26\nend\n":                "line 2 is not \"since \"",
		header + "\nsince 2026-11-26T00:00:00.5Z\nend\n":    "line 2 is not \"since \"",
		header + "\nsince 2026-11-26T00:00:00+00:00\nend\n": "line 2 is not \"since \"",
		header + "\nsince 2026-11-26T01:00:00+01:00\nend\n": "line 2 is not \"since \"",
		header + "\nsince 0001-01-01T00:00:00Z\nend\n":      "line 2 is not \"since \"",
		first:                                  "line 2: the file is truncated",
		first + "end":                          "line 2: the file is truncated",
		first + "1 2\n":                        "line 3: the file is truncated",
		first + "1 2\n3 4":                     "line 3: the file is truncated",
		first + "end\nx":                       "unexpected text after",
		first + "end\n\n":                      "unexpected text after",
		first + "end\n1 2\n":                   "unexpected text after",
		first + "\nend\n":                      "line 2 is not a uid",
		first + "1\nend\n":                     "line 2 is not a uid",
		first + "1 \nend\n":                    "line 2 is not a uid",
		first + "1 2 3\nend\n":                 "line 2 is not a uid",
		first + "1  2\nend\n":                  "line 2 is not a uid",
		first + "1 2\r\nend\n":                 "line 2 is not a uid",
		first + "1\t2\nend\n":                  "line 2 is not a uid",
		first + "01 2\nend\n":                  "line 2 is not a uid",
		first + "1 +2\nend\n":                  "line 2 is not a uid",
		first + "1 -2\nend\n":                  "line 2 is not a uid",
		first + "1 2.0\nend\n":                 "line 2 is not a uid",
		first + "1 1_0\nend\n":                 "line 2 is not a uid",
		first + "root 2\nend\n":                "line 2 is not a uid",
		first + "4294967296 2\nend\n":          "line 2 is not a uid",
		first + "1 9223372036854775808\nend\n": "line 2 is not a uid",
		first + "1 2\n1 3\nend\n":              "line 3: uid 1 is not larger",
		first + "2 2\n1 3\nend\n":              "line 3: uid 1 is not larger",
	} {
		if _, spent, err := parse([]byte(file)); spent != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want %q", file, spent, err, want)
		}
	}
}

// FuzzParse: an accepted file equals the form that format writes. So a file has only one interpretation, and no number
// below 0.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", header1 + "\nend\n", header1 + "\n0 1\n1000 5\nend\n", header1 + "\n01 2\nend\n", header1 + "\n1 2",
		header + "\nsince 2026-11-26T00:00:00Z\n0 1\n1000 5\nend\n", header + "\nsince 2026-11-26T00:00:00z\nend\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		from, spent, err := parse(file)
		if err != nil {
			if spent != nil {
				t.Fatal("an error, and sums")
			}
			return
		}
		got := format(from, spent)
		if from.IsZero() {
			got = append([]byte(header1), got[bytes.Index(got, []byte("Z\n"))+1:]...)
		}
		if !bytes.Equal(got, file) {
			t.Fatalf("%q was read as %q", file, got)
		}
		for uid, n := range spent {
			if n < 0 {
				t.Fatalf("uid %d: %d", uid, n)
			}
		}
	})
}
