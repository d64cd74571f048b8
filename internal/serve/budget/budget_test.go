package budget

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func mustOpen(t *testing.T, c Config) *Ledger {
	t.Helper()
	b, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// allowed reports what a user has spent, and whether another request may begin.
func allowed(b *Ledger, uid uint32) (int64, bool) {
	spent, ok := b.Reserve(uid)
	if ok {
		b.Charge(uid, 1, 0)
	}
	return spent, ok
}

// wantSpent reads the file as the next start would.
func wantSpent(t *testing.T, file string, uid uint32, want int64) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, spent, err := parse(text)
	if err != nil || spent[uid] != want {
		t.Errorf("uid %d has spent %d in the file, want %d (%v)", uid, spent[uid], want, err)
	}
}

func TestAllowed(t *testing.T) {
	b := mustOpen(t, Config{Limit: 100})
	for _, c := range []struct {
		uid   uint32
		add   int64
		spent int64
		ok    bool
	}{
		{1, 0, 0, true},
		{1, 99, 99, true},
		{1, -50, 99, true},
		{1, math.MinInt64, 99, true},
		{1, 1, 100, false},
		{1, 500, 600, false},
		{1, math.MaxInt64, math.MaxInt64, false},
		{1, math.MaxInt64, math.MaxInt64, false},
		{1, -1, math.MaxInt64, false},
		{2, 0, 0, true},
		{0, 100, 100, false},
		{math.MaxUint32, 5, 5, true},
	} {
		b.Charge(c.uid, 1, c.add)
		if spent, ok := allowed(b, c.uid); spent != c.spent || ok != c.ok {
			t.Errorf("uid %d, %d more: %d, %t; want %d, %t", c.uid, c.add, spent, ok, c.spent, c.ok)
		}
	}
	if err := errors.Join(b.Close(), b.Close()); err != nil {
		t.Error(err)
	}
}

// TestReserve: concurrent requests cannot exceed the limit by more than what each costs beyond its deposit.
func TestReserve(t *testing.T) {
	for _, c := range []struct{ limit, deposit int64 }{
		{1, 1}, {3, 1}, {4, 1}, {7, 1}, {10_000, 2_500}, {3_999_999, 999_999}, {4_000_000, 1_000_000}, {math.MaxInt64, 1_000_000},
	} {
		b := mustOpen(t, Config{Limit: c.limit})
		if got := b.Deposit(); got != c.deposit {
			t.Errorf("limit %d: a deposit of %d, want %d", c.limit, got, c.deposit)
		}
	}
	b := mustOpen(t, Config{Limit: 1000})
	reserve := func(uid uint32, spent int64, ok bool) {
		t.Helper()
		if gotSpent, got := b.Reserve(uid); got != ok || gotSpent != spent {
			t.Errorf("uid %d: %d, %t; want %d, %t", uid, gotSpent, got, spent, ok)
		}
	}
	for range 4 {
		reserve(1, 0, true)
	}
	reserve(1, 0, false)
	reserve(2, 0, true) // other users' deposits do not count
	b.Charge(1, 1, 300)
	reserve(1, 300, false)
	b.Charge(1, 1, -5)
	reserve(1, 300, true)
	b.Charge(1, 1, 5000)
	reserve(1, 5300, false)
	b.Charge(1, 1, 0)
	b.Charge(1, 1, 0)
	b.Charge(1, 0, -4301)
	reserve(1, 999, true)
	b.Charge(1, 1, -1000) // as many as were spent
	reserve(1, 999, true)
	reserve(1, 999, false)
	b.Charge(1, 1, 0)
	b.Charge(1, 0, math.MinInt64)
	if spent, ok := allowed(b, 1); spent != 0 || !ok {
		t.Errorf("%d, %t after all was given back", spent, ok)
	}
	if len(b.reserved) != 1 {
		t.Errorf("deposits of %d users are left, want 1", len(b.reserved))
	}
}

func TestLimitIsRequired(t *testing.T) {
	for _, limit := range []int64{0, -1, math.MinInt64} {
		if b, err := Open(Config{Limit: limit}); b != nil || err == nil {
			t.Errorf("limit %d was taken", limit)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "b")
	b, err := Open(Config{Limit: 1, File: file})
	if err != nil {
		t.Fatal(err)
	}
	b.pause = time.Millisecond
	var all sync.WaitGroup
	for uid := range uint32(8) {
		all.Go(func() {
			for range 1000 {
				b.Charge(uid/2, 0, 1)
				allowed(b, uid)
			}
		})
	}
	all.Wait()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for uid := range uint32(4) {
		wantSpent(t, file, uid, 2000)
	}
}

// TestWritesInTime: a change is written at once after a pause, and otherwise within a second, without a write for each
// change.
func TestWritesInTime(t *testing.T) {
	file := filepath.Join(t.TempDir(), "b")
	synctest.Test(t, func(t *testing.T) {
		b := mustOpen(t, Config{Limit: 100, File: file, Report: func(err error) { t.Error(err) }})
		synctest.Wait()
		wantSpent(t, file, 1, 0)
		b.Charge(1, 0, 10)
		synctest.Wait()
		wantSpent(t, file, 1, 10)
		for range 5 {
			b.Charge(1, 0, 1)
		}
		synctest.Wait()
		wantSpent(t, file, 1, 10)
		time.Sleep(pause)
		synctest.Wait()
		wantSpent(t, file, 1, 15)

		for range 2000 { // permanent changes
			b.Charge(2, 0, 1)
			time.Sleep(time.Millisecond)
		}
		text, _ := os.ReadFile(file)
		if _, spent, err := parse(text); err != nil || spent[2] < 1000 {
			t.Errorf("%d of 2000 are in the file (%v)", spent[2], err)
		}
	})
}

func TestCloseWritesWhatIsLeft(t *testing.T) {
	file := filepath.Join(t.TempDir(), "b")
	synctest.Test(t, func(t *testing.T) {
		b := mustOpen(t, Config{Limit: 100, File: file})
		b.Charge(1, 0, 10)
		synctest.Wait()
		b.Charge(1, 0, 5)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		wantSpent(t, file, 1, 15)
		b.Charge(1, 0, 1000) // too late; it must neither write nor panic
		time.Sleep(time.Hour)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		wantSpent(t, file, 1, 15)
	})
	b := mustOpen(t, Config{Limit: 100, File: file})
	if spent, ok := allowed(b, 1); spent != 15 || !ok {
		t.Errorf("%d, %t after a new start", spent, ok)
	}
}

// TestQuiet: unchanged sums are not written.
func TestQuiet(t *testing.T) {
	file := filepath.Join(t.TempDir(), "b")
	synctest.Test(t, func(t *testing.T) {
		b := mustOpen(t, Config{Limit: 100, File: file})
		b.Charge(1, 0, 1)
		time.Sleep(time.Hour)
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		b.Charge(1, 0, 0)
		time.Sleep(time.Hour)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it was written without a change (%v)", err)
		}
	})
}

// TestReports: a failure is reported once for each kind until a write succeeds; no change is lost meanwhile.
func TestReports(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "b")
	inTheWay := filepath.Join(dir, ".b.tmp", "x")
	synctest.Test(t, func(t *testing.T) {
		reports := make(chan string, 100)
		b := mustOpen(t, Config{Limit: 100, File: file, Report: func(err error) { reports <- err.Error() }})
		block := func(path string) {
			if err := os.MkdirAll(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		// next returns the report of the next interval, or "".
		next := func() string {
			t.Helper()
			time.Sleep(10 * pause)
			synctest.Wait()
			if len(reports) > 1 {
				t.Fatalf("%d reports", len(reports))
			}
			select {
			case r := <-reports:
				return r
			default:
				return ""
			}
		}
		want := func(what string) {
			t.Helper()
			if got := next(); !strings.Contains(got, what) || what == "" && got != "" {
				t.Fatalf("reported: %q; want %q", got, what)
			}
		}
		block(inTheWay)
		want("") // no change
		b.Charge(1, 0, 10)
		first := next()
		if !strings.Contains(first, "cannot write the budget file") {
			t.Fatalf("reported: %q", first)
		}
		b.Charge(1, 0, 10)
		want("")

		os.RemoveAll(filepath.Dir(inTheWay)) // another kind of failure
		os.Remove(file)
		block(filepath.Join(file, "x"))
		want("rename")

		os.RemoveAll(file)
		want("")
		wantSpent(t, file, 1, 20)

		block(inTheWay) // the first kind again
		b.Charge(1, 0, 10)
		want(first)
		if err := b.Close(); err == nil || err.Error() != first {
			t.Errorf("Close: %v", err)
		}
		wantSpent(t, file, 1, 20)
	})
}

// TestCheckWritable: an error is returned to the caller, and the sums count all the same; without a file there is none.
func TestCheckWritable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "d", "budget")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	b, none := mustOpen(t, Config{Limit: 100, File: file}), mustOpen(t, Config{Limit: 100})
	if err := errors.Join(b.CheckWritable(), none.CheckWritable()); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(filepath.Dir(file)); err != nil {
		t.Fatal(err)
	}
	if err := b.CheckWritable(); err == nil || !strings.Contains(err.Error(), "cannot write the budget file "+file) {
		t.Errorf("without a directory: %v", err)
	}
	for _, b := range []*Ledger{b, none} {
		b.Charge(1, 0, 5)
		if spent, ok := allowed(b, 1); spent != 5 || !ok {
			t.Errorf("%d, %t", spent, ok)
		}
	}
}

// TestNeverWaits: neither a blocked disk nor a blocked Report blocks the callers.
func TestNeverWaits(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		held, release := make(chan struct{}), make(chan struct{})
		b := mustOpen(t, Config{Limit: 100, File: filepath.Join(dir, "b"), Report: func(error) { close(held); <-release }})
		if err := os.MkdirAll(filepath.Join(dir, ".b.tmp", "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		b.Charge(1, 0, 1)
		<-held
		for range 100 {
			b.Charge(1, 0, 1)
		}
		if spent, ok := allowed(b, 1); spent != 101 || ok {
			t.Errorf("%d, %t", spent, ok)
		}
		close(release)
	})
}

func TestRefusesToStart(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := header1 + "\n1 5\nend\n"
	for _, c := range []struct{ file, want string }{
		{write("empty", "", 0o600), "malformed: line 1"},
		{write("version", strings.Replace(good, "version 1", "version 3", 1), 0o600), "malformed: line 1"},
		{write("cut", header1+"\n1 5\n", 0o600), "remove it to start from zero"},
		{write("json", `{"1":5}`, 0o600), "malformed"},
		{filepath.Join(dir, "missing", "b"), "directory"},
		{filepath.Join(write("file", good, 0o600), "b"), "directory"},
		{dir + string(filepath.Separator), "name a file"},
		{"..", "name a file"},
		{dir, "not a regular file"},
	} {
		before, _ := os.ReadFile(c.file)
		b, err := Open(Config{Limit: 100, File: c.file})
		if b != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.file, err, c.want)
		}
		if after, _ := os.ReadFile(c.file); !slices.Equal(before, after) {
			t.Errorf("%s has been changed", c.file)
		}
	}
}
