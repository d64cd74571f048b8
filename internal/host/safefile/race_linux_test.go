package safefile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// TestExchangedLinks: while another user's link and ours replace each other, no file is opened through the other one.
func TestExchangedLinks(t *testing.T) {
	proctest.NeedRoot(t, "plant another user's link")
	dir := directory(t, 0o777|os.ModeSticky, -1)
	at := func(name string) string { return filepath.Join(dir, name) }
	try(t, os.Mkdir(at("ours"), 0o700), os.Mkdir(at("theirs"), 0o700), os.Symlink("ours", at("link")),
		os.Symlink("theirs", at("planted")), os.Lchown(at("planted"), nobody, -1))
	var done atomic.Bool
	exchanged := make(chan error)
	go func() {
		var err error
		for !done.Load() && err == nil {
			err = unix.Renameat2(unix.AT_FDCWD, at("link"), unix.AT_FDCWD, at("planted"), unix.RENAME_EXCHANGE)
		}
		exchanged <- err
	}()
	opened, refused := 0, 0
	for range 3000 {
		switch err := openers["append"](at("link/f")); {
		case err == nil:
			opened++
		case strings.Contains(err.Error(), "link"):
			refused++
		default:
			t.Fatal(err)
		}
	}
	done.Store(true)
	try(t, <-exchanged)
	if _, err := os.Lstat(at("theirs/f")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was made through another user's link (%v)", err)
	}
	if opened == 0 || refused == 0 {
		t.Errorf("%d times opened, %d times refused; want both", opened, refused)
	}
}
