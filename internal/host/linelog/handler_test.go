package linelog

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
)

// logged returns the lines that f logs.
func logged(t *testing.T, asJSON bool, f func(*slog.Logger)) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	to, err := File(path, -1)
	if err != nil {
		t.Fatal(err)
	}
	l := New(to, "log", 0, nil)
	f(slog.New(NewHandler(l, asJSON)))
	l.Close()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

func TestTextHandler(t *testing.T) {
	for want, attrs := range map[string][]any{
		"":                                   nil,
		" n=1 word=a/b empty=\"\"":           {"n", 1, "word", "a/b", "empty", ""},
		` took=1.5s error="it \"failed\""`:   {"took", 1500 * time.Millisecond, "error", errors.New(`it "failed"`)},
		` a="b=c" d="e\\" f="\x1b[2J\n g"`:   {"a", "b=c", "d", `e\`, "f", "\x1b[2J\n g"},
		` bidi="\u202ea" bad="\xff" ok=grün`: {"bidi", "\u202ea", "bad", "\xff", "ok", "grün"},
	} {
		got := logged(t, false, func(l *slog.Logger) { l.Warn("a\nmessage", attrs...) })
		pattern := `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARN a\\nmessage` + regexp.QuoteMeta(want) + `$`
		if len(got) != 1 || !regexp.MustCompile(pattern).MatchString(got[0]) {
			t.Errorf("logged %q, want %s", got, pattern)
		}
	}
	got := logged(t, false, func(l *slog.Logger) {
		l.With("a", 1).WithGroup("g").With("b", 2).Error("m", "c", 3)
		l.Info(strings.Repeat("m", 5000), "long", strings.Repeat("ü", 5000))
	})
	if len(got) != 2 || !strings.HasSuffix(got[0], "ERROR m a=1 b=2 c=3") || len(got[1]) > 4200 || !strings.HasSuffix(got[1], "ü... (8000 more bytes)") {
		t.Errorf("logged %q", got)
	}
}

func TestJSONHandler(t *testing.T) {
	got := logged(t, true, func(l *slog.Logger) {
		l.Warn("a\nmessage", "n", 1, "took", 1500*time.Millisecond, "error", errors.New(`it "failed"`), "f", "\x1b[2J\u202e", "long", strings.Repeat("a", 5000))
	})
	var record struct {
		Time                             time.Time
		Level, Msg, Took, Error, F, Long string
		N                                int
	}
	if len(got) != 1 || json.Unmarshal([]byte(got[0]), &record) != nil {
		t.Fatalf("logged %q", got)
	}
	if record.Level != "WARN" || record.Msg != `a\nmessage` || record.N != 1 || record.Took != "1.5s" || record.Error != `it "failed"` ||
		record.F != `\x1b[2J\u202e` || len(record.Long) > 2100 || record.Time.Location() != time.UTC {
		t.Errorf("logged %+v", record)
	}
}

// FuzzHandlers: whatever a text is, its record is one printable line, and what follows it stays the last attribute.
func FuzzHandlers(f *testing.F) {
	f.Add("a\n2026-11-26T14:55:03.123Z INFO stopped\x1b[2J")
	f.Add(`" hint="forged`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, asJSON := range []bool{false, true} {
			got := logged(t, asJSON, func(l *slog.Logger) { l.Info(text, "text", text, "last", "end") })
			if len(got) != 1 || strings.ContainsFunc(got[0], func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Fatalf("logged %q", got)
			}
			if !asJSON && !strings.HasSuffix(got[0], " last=end") {
				t.Fatalf("logged %q", got)
			}
		}
	})
}
