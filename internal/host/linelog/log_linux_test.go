package linelog

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// ownMounts gives a child its own mount namespace, in a user namespace if necessary.
func ownMounts() *syscall.SysProcAttr {
	if os.Geteuid() == 0 {
		return &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	}
	return &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
}

// disk is a file system of 64 KiB.
type disk struct {
	t       *testing.T
	dir     string
	audit   string
	ballast string
}

func newDisk(t *testing.T) disk {
	t.Helper()
	dir := filepath.Join(proctest.AgainDir(), strings.ReplaceAll(t.Name(), "/", "-"))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,mode=700"); err != nil {
		proctest.Cannot(t, fmt.Sprint("a tmpfs cannot be mounted: ", err))
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return disk{t, dir, filepath.Join(dir, "audit"), filepath.Join(dir, "ballast")}
}

// fill leaves one page free.
func (d disk) fill() {
	d.t.Helper()
	if err := os.WriteFile(d.ballast, make([]byte, 15*4096), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d disk) empty() {
	d.t.Helper()
	if err := os.Remove(d.ballast); err != nil {
		d.t.Fatal(err)
	}
}

// wantTorn checks that the file ends within a line; otherwise the test proves nothing.
func (d disk) wantTorn() {
	d.t.Helper()
	text, err := os.ReadFile(d.audit)
	if err != nil || len(text) != 4096 || bytes.HasSuffix(text, lineFeed) {
		d.t.Fatalf("%d bytes, %v: no torn line", len(text), err)
	}
}

const waiting = "audit lines cannot be written, and are queued: no space left on device"

// TestFullDisk fills a disk and frees space, in every way that an operator may.
func TestFullDisk(t *testing.T) {
	if proctest.AgainDir() == "" {
		proctest.Again(t, "/proc/self/exe", t.TempDir(), ownMounts())
		return
	}
	t.Run("room again", roomAgain)
	t.Run("room again, too late for some", roomTooLate)
	t.Run("truncated", truncated)
	t.Run("renamed and reopened", renamed)
	t.Run("torn by an earlier process, renamed and reopened", tornAndRenamed)
	t.Run("reopened as it is", reopenedAsIs)
	t.Run("closed, and opened by another process", closedAndOpened)
}

func roomAgain(t *testing.T) {
	d, r := newDisk(t), proctest.NewReports()
	d.fill()
	l := mustOpen(t, d.audit, r)
	write(l, 0, 50)
	r.Want(t, waiting)
	d.wantTorn()
	write(l, 50, 100)
	d.empty()
	r.Want(t, "the audit is written again; 0 lines were dropped")
	write(l, 100, 110)
	l.Close()
	proctest.CheckLines(t, 110, 0, d.audit)
	r.Silent(t)
}

func roomTooLate(t *testing.T) {
	d, r := newDisk(t), proctest.NewReports()
	l := mustOpen(t, d.audit, r)
	write(l, 0, 200) // more than fits on the disk, and less than the queue holds
	r.Want(t, waiting)
	write(l, 200, 10_000)
	r.Want(t, "audit lines are being dropped: no space left on device")
	if err := unix.Mount("", d.dir, "", unix.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	r.Want(t, fmt.Sprintf("the audit is written again; %d lines were dropped", l.Lost.Load()))
	l.Close()
	seen, broken := proctest.Lines(t, d.audit)
	if broken != 0 {
		t.Errorf("%d lines are broken", broken)
	}
	checkSum(t, l, len(seen), 10_000)
	r.Silent(t)
}

func truncated(t *testing.T) {
	d, r := newDisk(t), proctest.NewReports()
	d.fill()
	l := mustOpen(t, d.audit, r)
	write(l, 0, 50)
	r.Want(t, waiting)
	before, _ := proctest.Lines(t, d.audit)
	if err := os.Truncate(d.audit, 0); err != nil {
		t.Fatal(err)
	}
	d.empty()
	r.Want(t, "the audit is written again; 0 lines were dropped")
	l.Close()
	if after, broken := proctest.Lines(t, d.audit); len(before)+len(after) != 49 || broken != 1 {
		t.Errorf("%d lines before, %d after, %d broken", len(before), len(after), broken)
	}
}

func renamed(t *testing.T) {
	d, r := newDisk(t), proctest.NewReports()
	d.fill()
	l := mustOpen(t, d.audit, r)
	write(l, 0, 50)
	r.Want(t, waiting)
	d.wantTorn()
	old := d.audit + ".1"
	if err := os.Rename(d.audit, old); err != nil {
		t.Fatal(err)
	}
	d.empty()
	l.Reopen()
	r.Want(t, "the audit is written again; 0 lines were dropped")
	l.Close()
	proctest.CheckLines(t, 50, 1, old, d.audit)
	if _, broken := proctest.Lines(t, d.audit); broken != 0 {
		t.Error("the new file has a broken line")
	}
}

func tornAndRenamed(t *testing.T) {
	d, r := newDisk(t), proctest.NewReports()
	if err := os.WriteFile(d.audit, bytes.Repeat([]byte("x"), 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	d.fill() // there is no space for a line feed
	l := mustOpen(t, d.audit, r)
	write(l, 0, 50)
	r.Want(t, waiting)
	if err := os.Rename(d.audit, d.audit+".1"); err != nil {
		t.Fatal(err)
	}
	d.empty()
	l.Reopen()
	r.Want(t, "the audit is written again; 0 lines were dropped")
	l.Close()
	proctest.CheckLines(t, 50, 0, d.audit)
}

func reopenedAsIs(t *testing.T) {
	d, r := newDisk(t), proctest.NewReports()
	d.fill()
	l := mustOpen(t, d.audit, r)
	write(l, 0, 50)
	r.Want(t, waiting)
	l.Reopen()
	d.empty()
	r.Want(t, "the audit is written again; 0 lines were dropped")
	l.Close()
	proctest.CheckLines(t, 50, 1, d.audit)
}

func closedAndOpened(t *testing.T) {
	d, r := newDisk(t), proctest.NewReports()
	d.fill()
	l := mustOpen(t, d.audit, r)
	write(l, 0, 50)
	r.Want(t, waiting)
	l.Close()
	r.Want(t, "audit lines were dropped: no space left on device")
	seen, _ := proctest.Lines(t, d.audit)
	n := len(seen)
	checkSum(t, l, n, 50)
	d.empty()
	l = mustOpen(t, d.audit, r)
	write(l, n, n+10)
	l.Close()
	proctest.CheckLines(t, n+10, 1, d.audit)
	r.Silent(t)
}
