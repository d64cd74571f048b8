package budget

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func at(t *testing.T, s string) time.Time {
	t.Helper()
	parsed, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestPeriods(t *testing.T) {
	for _, c := range []struct{ flag, now, start, end string }{
		{"24h", "2026-11-26T15:04:05Z", "2026-11-26T00:00:00Z", "2026-11-27T00:00:00Z"},
		{"24h", "2026-11-27T00:00:00Z", "2026-11-27T00:00:00Z", "2026-11-28T00:00:00Z"},
		{"24h", "2026-11-27T00:30:00+01:00", "2026-11-26T00:00:00Z", "2026-11-27T00:00:00Z"},
		{"168h", "2026-11-26T15:04:05Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"}, // Mondays
		{"90s", "2026-11-26T00:01:31Z", "2026-11-26T00:01:30Z", "2026-11-26T00:03:00Z"},
		{"month", "2026-12-31T23:59:59.9Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{"month", "2026-12-01T00:30:00+01:00", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"},
	} {
		p, err := ParsePeriod(c.flag)
		if err != nil {
			t.Fatal(err)
		}
		now := at(t, c.now)
		if start, end := p.start(now), p.end(now); !start.Equal(at(t, c.start)) || !end.Equal(at(t, c.end)) || start.Location() != time.UTC {
			t.Errorf("%s at %s: %v to %v, want %s to %s", c.flag, c.now, start, end, c.start, c.end)
		}
	}
	if p, err := ParsePeriod("0"); p != 0 || err != nil || !p.end(time.Now()).IsZero() {
		t.Errorf("0: %v, %v", p, err)
	}
	for _, s := range []string{"", "day", "Month", "24", "-1h", "-1ns", "1500ms", "1d"} {
		if p, err := ParsePeriod(s); err == nil {
			t.Errorf("%q is %v", s, p)
		}
	}
}

// TestRenewal: sums restart at the end of their period, not before, and a request that runs then is charged in the next
// one.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins at midnight UTC
		b := mustOpen(t, Config{Limit: 100, Period: Period(24 * time.Hour)})
		midnight := time.Now()
		time.Sleep(10 * time.Hour)
		b.Charge(1, 0, 100)
		b.Charge(2, 0, 40)
		if _, ok := b.Reserve(2); !ok {
			t.Error("no deposit was reserved")
		}
		time.Sleep(14*time.Hour - 1)
		if spent, ok := allowed(b, 1); spent != 100 || ok {
			t.Errorf("%d, %t before the period ends", spent, ok)
		}
		if since, resets := b.Period(); !since.Equal(midnight) || !resets.Equal(midnight.Add(24*time.Hour)) {
			t.Errorf("from %v to %v", since, resets)
		}
		time.Sleep(time.Nanosecond)
		if spent, ok := allowed(b, 1); spent != 0 || !ok {
			t.Errorf("%d, %t when it has ended", spent, ok)
		}
		b.Charge(2, 1, 30)
		b.Charge(2, 0, -5)
		if spent, _ := b.Reserve(2); spent != 25 {
			t.Errorf("%d", spent)
		}
		time.Sleep(24 * time.Hour)
		b.Charge(2, 1, 7) // the first call of the period
		if spent, _ := allowed(b, 2); spent != 7 {
			t.Errorf("%d", spent)
		}
		time.Sleep(49 * 24 * time.Hour)
		if since, _ := b.Period(); !since.Equal(midnight.Add(51 * 24 * time.Hour)) {
			t.Errorf("since %v after 50 idle days", since)
		}
	})
}

// TestPeriodOfFile: a restart neither prolongs a period nor shortens it.
func TestPeriodOfFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // at 2000-01-01T00:00:00Z
		for _, c := range []struct {
			what, file, period, since string
			spent                     int64
		}{
			{"its period lasts", header + "\nsince 1999-12-27T00:00:00Z\n1 5\nend\n", "168h", "1999-12-27T00:00:00Z", 5},
			{"its period is over", header + "\nsince 1999-12-20T00:00:00Z\n1 5\nend\n", "168h", "1999-12-27T00:00:00Z", 0},
			{"it began within the period", header + "\nsince 1999-12-28T10:00:00Z\n1 5\nend\n", "168h", "1999-12-28T10:00:00Z", 5},
			{"the clock was set back", header + "\nsince 2099-12-28T00:00:00Z\n1 5\nend\n", "24h", "2099-12-28T00:00:00Z", 5},
			{"there are no periods", header + "\nsince 1970-01-01T00:00:00Z\n1 5\nend\n", "0", "1970-01-01T00:00:00Z", 5},
			{"version 1", header1 + "\n1 5\nend\n", "month", "2000-01-01T00:00:00Z", 5},
			{"version 1, no periods", header1 + "\n1 5\nend\n", "0", "2000-01-01T00:00:00Z", 5},
		} {
			file := filepath.Join(t.TempDir(), "b")
			if err := os.WriteFile(file, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
			p, err := ParsePeriod(c.period)
			if err != nil {
				t.Fatal(err)
			}
			b := mustOpen(t, Config{Limit: 100, Period: p, File: file})
			if spent, _ := allowed(b, 1); spent != c.spent {
				t.Errorf("%s: %d are spent, want %d", c.what, spent, c.spent)
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
			text, err := os.ReadFile(file)
			if err != nil || !strings.HasPrefix(string(text), header+"\n"+since+c.since+"\n") {
				t.Errorf("%s: %v\n%s", c.what, err, text)
			}
			wantSpent(t, file, 1, c.spent)
		}
	})
}
