package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/linelog"
)

// TestRejections checks that the first response with each status has a line at once, the others one a minute for all,
// and that a new key begins anew.
func TestRejections(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	to, err := linelog.File(path, -1)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		l := errorLogTo(to)
		r := &rejections{log: l, counts: map[int]int64{}}
		for range 3 {
			r.add(401)
			r.add(429)
		}
		time.Sleep(rejectedEvery) // of 2 each
		synctest.Wait()
		time.Sleep(rejectedEvery) // of none: the next one is a first one
		synctest.Wait()
		r.add(401)
		r.add(401)
		r.newKey()
		r.add(401)
		r.add(403)
		time.Sleep(3 * rejectedEvery)
		synctest.Wait()
		l.close()
	})
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range regexp.MustCompile(`(?m)`+logTime+`([A-Z]+) the upstream .* (status=\d+ count=\d+) hint=".+"$`).FindAllStringSubmatch(string(text), -1) {
		got = append(got, m[1]+" "+m[2])
	}
	slices.Sort(got[2:4]) // of the same moment
	want := []string{"ERROR status=401 count=1", "WARN status=429 count=1", "ERROR status=401 count=2", "WARN status=429 count=2",
		"ERROR status=401 count=1", "ERROR status=401 count=1", "WARN status=403 count=1"}
	if !slices.Equal(got, want) {
		t.Errorf("logged %q, want %q:\n%s", got, want, text)
	}
}
