//go:build unix

package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

func mustOpen(t *testing.T, path string, r proctest.Reports) *Log {
	t.Helper()
	l, err := Open(path, -1, r.Report)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// write writes lines with the numbers from first to end.
func write(l *Log, first, end int) {
	e := full()
	for i := first; i < end; i++ {
		e.RequestID = strconv.Itoa(i)
		l.Write(e)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, mode fs.FileMode, uid int) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() == 0 {
			if err := os.Chown(path, uid, -1); err != nil {
				t.Fatal(err)
			}
		}
	}
	file("ours", 0o644, 0)
	file("group", 0o660, 0)
	file("all", 0o606, 0)
	file("theirs", 0o600, 4242)
	file("owners", 0o600, 4343)
	if err := os.Symlink("ours", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, want string }{
		{"ours", ""}, {"owners", ""},
		{"group", "is writable by other users (mode 0660); run chmod go-w"},
		{"all", "is writable by other users (mode 0606); run chmod go-w"},
		{"theirs", "belongs to another user (uid 4242), who could change it; name another file"},
		{"link", "is a symbolic link; name the file itself"},
		{".", "is a directory; name a file in it"},
		{"no/file", "no such file or directory; name a writable file in an existing directory"},
	} {
		if c.name == "theirs" && os.Geteuid() != 0 {
			continue // only root can chown
		}
		l, err := Open(filepath.Join(dir, c.name), 4343, nil)
		if err == nil {
			l.Close()
		}
		if got := fmt.Sprint(err); c.want != "" && !strings.HasSuffix(got, c.want) || c.want == "" && err != nil {
			t.Errorf("%s: %s, want %q", c.name, got, c.want)
		}
	}
}

func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		proctest.Cannot(t, "only root can give files away")
	}
	path := filepath.Join(t.TempDir(), "audit")
	for _, owner := range []int{4242, 0, -1} { // only the first one creates it
		l, err := Open(path, owner, nil)
		if owner != 4242 {
			if err == nil {
				t.Errorf("a file of 4242's is trusted, with owner %d", owner)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		if info, err := os.Stat(path); err != nil || info.Sys().(*syscall.Stat_t).Uid != 4242 {
			t.Errorf("%+v, %v", info.Sys(), err)
		}
	}
}

// BenchmarkWrite: the goroutines yield now and then, as requests do, or the writer would not run.
func BenchmarkWrite(b *testing.B) {
	for name, path := range map[string]string{"null": "/dev/null", "file": filepath.Join(b.TempDir(), "audit")} {
		b.Run(name, func(b *testing.B) {
			l, err := Open(path, -1, nil)
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				e := full()
				for i := 0; pb.Next(); i++ {
					l.Write(e)
					if i%64 == 63 {
						runtime.Gosched()
					}
				}
			})
			b.ReportMetric(float64(l.Lost.Load())/float64(b.N), "lost/op")
		})
	}
}

// TestRefusalsAreLimited: refusals, which cost nothing, cannot fill the disk; requests with costs are always written.
func TestRefusalsAreLimited(t *testing.T) {
	const n = 2000
	path, r := filepath.Join(t.TempDir(), "audit"), proctest.NewReports()
	l := mustOpen(t, path, r)
	refusal := &Entry{Time: noon, Caller: Caller{UID: 0, Known: true}, Status: 400, Code: "malformed_request"}
	unknown := &Entry{Time: noon, Status: 403, Code: "user_not_allowed"}
	write(l, 0, 10)
	for range n {
		l.Write(refusal)
		l.Write(unknown)
	}
	write(l, 10, n)
	l.Write(&Entry{Time: noon, Caller: Caller{UID: 1001, Known: true}, Status: 403, Code: "route_not_allowed"})
	l.Close()
	l.Close()
	write(l, n, n+2) // too late
	var spent, refused, others, suppressed, unknownSuppressed int
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var e struct {
			Time       time.Time
			UID        *uint32
			Code       string
			Suppressed int
		}
		if err := json.Unmarshal(line, &e); err != nil || e.Time.IsZero() {
			t.Fatalf("%s: %v", line, err)
		}
		switch {
		case e.Suppressed > 0 && e.UID == nil:
			unknownSuppressed += e.Suppressed
		case e.Suppressed > 0 && *e.UID == 0:
			suppressed += e.Suppressed
		case e.Code == "upstream_broke":
			spent++
		case e.UID != nil && *e.UID == 0:
			refused++
		case e.UID != nil && *e.UID == 1001:
			others++
		}
	}
	if spent != n || others != 1 || refused+suppressed != n || suppressed < n*9/10 || unknownSuppressed < n*9/10 {
		t.Errorf("%d lines of what was spent, %d of another user; %d refusals and %d suppressed of uid 0; %d of the unidentified, of %d each",
			spent, others, refused, suppressed, unknownSuppressed, n)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 || l.Lost.Load() != 2 {
		t.Errorf("mode %v, %v; %d lines lost", info.Mode(), err, l.Lost.Load())
	}
	r.Silent(t)
}
