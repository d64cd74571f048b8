package listen

import (
	"errors"
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

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

const nobody = 65534

// maxLinks is the number of links that Linux follows, and this package too.
const maxLinks = 40

// line is the content that write must produce.
const line = "{\"port\":41535,\"pid\":22540}\n"

// TestMain runs jobs as another user, with another umask, or in their own namespace, which all belong to a process.
func TestMain(m *testing.M) {
	proctest.Main(m, map[string]proctest.Job{"info": jobInfo, "socket": jobSocket})
}

// jobInfo calls writeInfo on a path with a umask, and prints its error.
func jobInfo(args []string) error {
	mask, err := strconv.ParseUint(args[1], 8, 32)
	if err != nil {
		return err
	}
	unix.Umask(int(mask))
	fmt.Println(write(args[0]))
	return nil
}

// inChild calls writeInfo as uid with a umask and returns the error's text.
func inChild(t *testing.T, uid int, umask, path string) string {
	t.Helper()
	cmd := proctest.Command("info", path, umask)
	cmd.Dir = "/"
	if uid != os.Geteuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func put(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// give changes the owner of path.
func give(t *testing.T, uid int, path string) {
	t.Helper()
	if os.Geteuid() != 0 {
		proctest.Cannot(t, "only root can plant another user's file")
	}
	if err := os.Lchown(path, uid, uid); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func write(path string) error { return writeInfo(path, 41535, 22540) }

func mustWrite(t *testing.T, path string) {
	t.Helper()
	if err := write(path); err != nil {
		t.Fatal(err)
	}
	if got := content(t, path); got != line {
		t.Errorf("%s holds %q, want %q", path, got, line)
	}
}

func TestInfoBytes(t *testing.T) { mustWrite(t, filepath.Join(t.TempDir(), "info")) }

func TestInfoNewFileMode(t *testing.T) {
	for umask, want := range map[string]os.FileMode{"022": 0o644, "077": 0o600, "027": 0o640, "000": 0o666} {
		path := filepath.Join(t.TempDir(), "info")
		if got := inChild(t, os.Geteuid(), umask, path); got != "<nil>" {
			t.Fatal(got)
		}
		st, err := os.Stat(path)
		if err != nil || st.Mode() != want {
			t.Errorf("umask %s: %v, %v; want %v", umask, st.Mode(), err, want)
		}
	}
}

func TestInfoIsWrittenInPlace(t *testing.T) {
	dir := t.TempDir()
	path, hard := filepath.Join(dir, "info"), filepath.Join(dir, "hard")
	put(t, path, strings.Repeat("old ", 1000), 0o640)
	if err := os.Link(path, hard); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, path)
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) || after.Mode() != 0o640 || content(t, hard) != line {
		t.Errorf("another file, or mode %v", after.Mode())
	}
	if files, _ := os.ReadDir(dir); len(files) != 2 {
		t.Errorf("other files remain: %v", files)
	}
}

func TestInfoMakesDirectories(t *testing.T) {
	dir := t.TempDir()
	if got := inChild(t, os.Geteuid(), "022", dir+"/a/b/info"); got != "<nil>" {
		t.Fatal(got)
	}
	for _, made := range []string{"/a", "/a/b"} {
		if st, err := os.Stat(dir + made); err != nil || st.Mode() != os.ModeDir|0o755 {
			t.Errorf("%s: %v, %v", made, st, err)
		}
	}
	if got := content(t, dir+"/a/b/info"); got != line {
		t.Errorf("%q", got)
	}
}

// TestInfoIsOneWrite counts write calls by the kernel's statistics of the thread. The runtime may write on the same
// thread in between, so the test uses the minimum of many runs.
func TestInfoIsOneWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "info")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fewest := 1 << 30
	for range 20 {
		before := writeCalls(t)
		if err := write(path); err != nil {
			t.Fatal(err)
		}
		fewest = min(fewest, writeCalls(t)-before)
	}
	if fewest != 1 {
		t.Errorf("%d writes, want 1", fewest)
	}
}

func writeCalls(t *testing.T) (n int) {
	t.Helper()
	counters, err := os.ReadFile("/proc/thread-self/io")
	if err != nil {
		proctest.Cannot(t, "this kernel has no I/O statistics: "+err.Error())
	}
	_, rest, _ := strings.Cut(string(counters), "syscw: ")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestInfoDirectoryNotWritable: if root has prepared the file, an unprivileged proxy needs no access to the directory.
func TestInfoDirectoryNotWritable(t *testing.T) {
	dir := proctest.Dir(t, 0o755)
	path := filepath.Join(dir, "info")
	put(t, path, "old", 0o666)
	if os.Geteuid() != 0 {
		proctest.Cannot(t, "only root can make a directory that the proxy cannot write to")
	}
	if got := inChild(t, nobody, "022", path); got != "<nil>" || content(t, path) != line {
		t.Errorf("%s; the file holds %q", got, content(t, path))
	}
	got := inChild(t, nobody, "022", filepath.Join(dir, "other"))
	if !strings.Contains(got, "permission denied") || !strings.Contains(got, filepath.Join(dir, "other")) {
		t.Errorf("a new file in that directory: %s", got)
	}
}

func TestInfoFollowsOwnLinks(t *testing.T) {
	for _, mode := range []os.FileMode{0o755, 0o777, 0o777 | os.ModeSticky} {
		dir := proctest.Dir(t, mode)
		put(t, dir+"/target", "old and longer than the new content", 0o600)
		link(t, dir+"/target", dir+"/absolute")
		link(t, "target", dir+"/relative")
		link(t, "relative", dir+"/chain")
		link(t, "new", dir+"/dangling")
		for _, name := range []string{"absolute", "relative", "chain"} {
			put(t, dir+"/target", "old and longer than the new content", 0o600)
			mustWrite(t, dir+"/"+name)
			if st, err := os.Lstat(dir + "/" + name); err != nil || st.Mode()&os.ModeSymlink == 0 {
				t.Errorf("%s is no longer a link: %v, %v", name, st, err)
			}
			if got := content(t, dir+"/target"); got != line {
				t.Errorf("%s: the target holds %q", name, got)
			}
		}
		mustWrite(t, dir+"/dangling")
		if got := content(t, dir+"/new"); got != line {
			t.Errorf("the dangling link's target holds %q", got)
		}
	}
}

// sticky returns a directory like /tmp, and a file of ours beside it that no other user may make us write to.
func sticky(t *testing.T) (dir, victim string) {
	t.Helper()
	victim = filepath.Join(proctest.Dir(t, 0o755), "victim")
	put(t, victim, "precious", 0o644)
	return proctest.Dir(t, 0o777|os.ModeSticky), victim
}

// refused checks for an error that names the culprit, and that the victim is unchanged.
func refused(t *testing.T, path, culprit, victim string) {
	t.Helper()
	err := write(path)
	if err == nil {
		t.Errorf("%s was followed or filled", culprit)
	} else if !strings.Contains(err.Error(), culprit) {
		t.Errorf("%q does not name %s", err, culprit)
	}
	if got := content(t, victim); got != "precious" {
		t.Errorf("%s holds %q", victim, got)
	}
}

func TestInfoRefusesPlantedFile(t *testing.T) {
	dir, _ := sticky(t)
	path := dir + "/info"
	put(t, path, "precious", 0o666)
	give(t, nobody, path)
	refused(t, path, path, path)
}

func TestInfoRefusesPlantedLinks(t *testing.T) {
	for _, c := range []struct {
		what string
		lay  func(t *testing.T, dir, victim string) (path, culprit string) // culprit belongs to user nobody
	}{
		{"absolute", func(t *testing.T, dir, victim string) (string, string) {
			link(t, victim, dir+"/info")
			return dir + "/info", dir + "/info"
		}},
		{"relative", func(t *testing.T, dir, victim string) (string, string) {
			link(t, "../"+filepath.Base(filepath.Dir(victim))+"/victim", dir+"/info")
			return dir + "/info", dir + "/info"
		}},
		{"behind a link of our own", func(t *testing.T, dir, victim string) (string, string) {
			link(t, "planted", dir+"/info")
			link(t, victim, dir+"/planted")
			return dir + "/info", dir + "/planted"
		}},
		{"behind a link elsewhere", func(t *testing.T, dir, victim string) (string, string) {
			own := filepath.Dir(victim) + "/own"
			link(t, dir+"/planted", own)
			link(t, victim, dir+"/planted")
			return own, dir + "/planted"
		}},
		{"dangling", func(t *testing.T, dir, victim string) (string, string) {
			link(t, filepath.Dir(victim)+"/new", dir+"/info")
			return dir + "/info", dir + "/info"
		}},
		{"to a directory", func(t *testing.T, dir, victim string) (string, string) {
			link(t, filepath.Dir(victim), dir+"/directory")
			return dir + "/directory/victim", dir + "/directory"
		}},
		{"behind a link to the directory", func(t *testing.T, dir, victim string) (string, string) {
			own := filepath.Dir(victim) + "/tmp"
			link(t, dir, own)
			link(t, victim, dir+"/info")
			give(t, nobody, dir+"/info")
			return own + "/info", "info"
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir, victim := sticky(t)
			path, culprit := c.lay(t, dir, victim)
			if filepath.Dir(culprit) == dir {
				give(t, nobody, culprit)
			}
			refused(t, path, culprit, victim)
			if _, err := os.Lstat(filepath.Dir(victim) + "/new"); err == nil {
				t.Error("the link's target was made")
			}
		})
	}
}

// TestInfoRefusesHardLinks: where protected_hardlinks is off, another user's hard link to a file of root's looks like
// root's own file.
func TestInfoRefusesHardLinks(t *testing.T) {
	for name, c := range map[string]struct {
		mode  os.FileMode
		owner int
	}{
		"sticky":                  {0o777 | os.ModeSticky, 0},
		"others may write":        {0o777, 0},
		"another user's":          {0o755, nobody},
		"another user's, private": {0o700, nobody},
	} {
		t.Run(name, func(t *testing.T) {
			victim := filepath.Join(proctest.Dir(t, 0o755), "victim")
			put(t, victim, "precious", 0o644)
			dir := proctest.Dir(t, c.mode)
			if err := os.Link(victim, dir+"/info"); err != nil {
				t.Fatal(err)
			}
			give(t, c.owner, dir)
			refused(t, dir+"/info", dir+"/info", victim)
			mustWrite(t, dir+"/own")
		})
	}
}

// TestInfoTrustsOwnerOfDirectory: the rule is the kernel's protected_symlinks: root and the directory's owner are trusted,
// and a directory that only its owner can write to needs no check.
func TestInfoTrustsOwnerOfDirectory(t *testing.T) {
	for name, c := range map[string]struct {
		mode  os.FileMode
		owner int
	}{
		"sticky directory of the same user": {0o777 | os.ModeSticky, nobody},
		"ordinary directory":                {0o755, 0},
		"sticky, but for one user":          {0o755 | os.ModeSticky, 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir := proctest.Dir(t, c.mode)
			put(t, dir+"/target", "old", 0o666)
			link(t, "target", dir+"/info")
			for _, path := range []string{dir, dir + "/target", dir + "/info"} {
				give(t, nobody, path)
			}
			give(t, c.owner, dir)
			mustWrite(t, dir+"/info")
		})
	}
}

func TestInfoErrors(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/file", "precious", 0o600)
	link(t, "loop2", dir+"/loop1")
	link(t, "loop1", dir+"/loop2")
	link(t, "self", dir+"/self")
	for i := range maxLinks + 5 {
		link(t, fmt.Sprintf("chain%d", i+1), fmt.Sprintf("%s/chain%d", dir, i))
	}
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		want error
	}{
		{dir, unix.EISDIR},
		{dir + "/file/info", unix.ENOTDIR},
		{dir + "/loop1", unix.ELOOP},
		{dir + "/self", unix.ELOOP},
		{dir + "/chain0", unix.ELOOP},
		{dir + "/fifo", unix.ENXIO},
		{"/dev/full", unix.ENOSPC},
		{"/proc/nope/a", fs.ErrNotExist},
		{dir + "/" + strings.Repeat("x", 300), unix.ENAMETOOLONG},
	} {
		err := within(t, func() error { return write(c.path) })
		if !errors.Is(err, c.want) {
			t.Errorf("%.60s: %v, want %v", c.path, err, c.want)
			continue
		}
		if text := err.Error(); !strings.Contains(text, "--server-info") || !strings.Contains(text, filepath.Dir(c.path)) {
			t.Errorf("%q names neither the flag nor the path", text)
		}
	}
	if got := content(t, dir+"/file"); got != "precious" {
		t.Errorf("the file contains %q", got)
	}
}

// within fails the test if call does not return.
func within(t *testing.T, call func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("writeInfo blocks")
		return nil
	}
}

func TestInfoToFIFOWithReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := within(t, func() error { return write(path) }); err != nil {
		t.Fatal(err)
	}
	var p [100]byte
	if n, err := unix.Read(fd, p[:]); err != nil || string(p[:n]) != line {
		t.Errorf("%q, %v", p[:max(n, 0)], err)
	}
}
