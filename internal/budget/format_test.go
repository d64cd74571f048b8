package budget

import (
	"bytes"
	"maps"
	"math"
	"strings"
	"testing"
)

func TestFormat(t *testing.T) {
	spent := map[uint32]int64{1000: 123456, 0: 1, math.MaxUint32: math.MaxInt64, 99: 0}
	const want = header + "\n0 1\n99 0\n1000 123456\n4294967295 9223372036854775807\nend\n"
	if got := string(format(spent)); got != want {
		t.Errorf("got\n%s", got)
	}
	if got, err := parse([]byte(want)); err != nil || !maps.Equal(got, spent) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestParseRefuses(t *testing.T) {
	const first = header + "\n"
	for file, want := range map[string]string{
		"":                         "line 1 is not",
		"\n":                       "line 1 is not",
		header:                     "line 2: the file is cut",
		"\ufeff" + first + "end\n": "line 1 is not",
		strings.Replace(first, "1", "2", 1) + "end\n": "line 1 is not",
		first:                                  "line 2: the file is cut",
		first + "end":                          "line 2: the file is cut",
		first + "1 2\n":                        "line 3: the file is cut",
		first + "1 2\n3 4":                     "line 3: the file is cut",
		first + "end\n\n":                      "something behind",
		first + "end\n1 2\n":                   "something behind",
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
		if spent, err := parse([]byte(file)); spent != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want %q", file, spent, err, want)
		}
	}
}

// FuzzParse: a file is refused, or it is the one form of what was read. So no
// two readings of a file are possible, and none with a number below 0.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", header + "\nend\n", header + "\n0 1\n1000 5\nend\n", header + "\n01 2\nend\n", header + "\n1 2"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		spent, err := parse(file)
		if err != nil {
			if spent != nil {
				t.Fatal("an error, and sums")
			}
			return
		}
		if got := format(spent); !bytes.Equal(got, file) {
			t.Fatalf("%q was read as %q", file, got)
		}
		for uid, n := range spent {
			if n < 0 {
				t.Fatalf("uid %d: %d", uid, n)
			}
		}
	})
}
