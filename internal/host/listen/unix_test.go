//go:build unix

package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/safefile"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

var _ net.Listener = (*UnixSocket)(nil)

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string, mode os.FileMode) string {
	t.Helper()
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	chmod(t, path, mode)
	return path
}

func lstat(t *testing.T, path string) fs.FileInfo {
	t.Helper()
	st, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func mustUnix(t *testing.T, cfg UnixConfig) *UnixSocket {
	t.Helper()
	s, err := Unix(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// reaches checks that a client of path is accepted by s.
func reaches(t *testing.T, path string, s *UnixSocket) {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s.SetDeadline(time.Now().Add(30 * time.Second))
	got, err := s.Accept()
	if err != nil {
		t.Fatalf("the client reached another listener: %v", err)
	}
	got.Close()
}

// unixFails checks for an error that contains these words, in the common form.
func unixFails(t *testing.T, cfg UnixConfig, words ...string) {
	t.Helper()
	s, err := Unix(cfg)
	if err == nil {
		s.Close()
		t.Errorf("%.200q was accepted, want %q", cfg.Path, words)
		return
	}
	wellFormed(t, err.Error(), cfg.Path)
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not contain %q", err, word)
		}
	}
}

// wellFormed checks that the error comes first, then the hint, and the path only once.
func wellFormed(t *testing.T, text, path string) {
	t.Helper()
	rest, ok := strings.CutPrefix(text, "cannot listen on the socket "+path+": ")
	if !ok || !strings.Contains(rest, "; ") || strings.HasSuffix(rest, ".") {
		t.Errorf("%q: bad form", text)
	}
	if path != "" && strings.Contains(rest, "listen unix") {
		t.Errorf("%q contains the path twice", text)
	}
}

// holds checks that dir contains exactly these names: no lock and no temporary file.
func holds(t *testing.T, dir string, want ...string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, f.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}

// plantDead creates a socket without a listener.
func plantDead(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestUnixModePolicy(t *testing.T) {
	const self = 1000
	type ids = []uint32
	for _, c := range []struct {
		users, groups ids
		everyone      bool
		mode, group   uint32
	}{
		{mode: 0o600},
		{users: ids{self}, mode: 0o600},
		{users: ids{self, self}, mode: 0o600},
		{groups: ids{7}, mode: 0o660, group: 7},
		{groups: ids{7, 7}, mode: 0o660, group: 7},
		{groups: ids{0}, mode: 0o660, group: 0},
		{users: ids{self}, groups: ids{7}, mode: 0o660, group: 7},
		{groups: ids{7, 8}, mode: 0o666},
		{groups: ids{7, 8, 7}, mode: 0o666},
		{users: ids{1001}, mode: 0o666},
		{users: ids{0}, mode: 0o666},
		{users: ids{self, 1001}, groups: ids{7}, mode: 0o666},
		{everyone: true, mode: 0o666},
		{everyone: true, groups: ids{7}, mode: 0o666},
	} {
		cfg := UnixConfig{Users: c.users, Groups: c.groups, Everyone: c.everyone}
		if mode, group := cfg.mode(self); mode != c.mode || group != c.group {
			t.Errorf("%+v: mode %04o, group %d; want %04o, %d", cfg, mode, group, c.mode, c.group)
		}
	}
	groups := []uint32{9, 8}
	UnixConfig{Groups: groups}.mode(self)
	if groups[0] != 9 {
		t.Error("the caller's groups were sorted")
	}
}

func TestUnixServes(t *testing.T) {
	dir := proctest.Dir(t, 0o755)
	path := dir + "/s"
	s := mustUnix(t, UnixConfig{Path: path})
	holds(t, dir, "s")
	if got := lstat(t, path).Mode(); got != os.ModeSocket|0o600 {
		t.Errorf("mode %v", got)
	}
	if got := s.Addr().String(); got != path {
		t.Errorf("Addr is %s", got)
	}
	client, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, ok := c.(*net.UnixConn); !ok {
		t.Errorf("Accept returns a %T", c)
	}
	for name, sc := range map[string]syscall.Conn{"listener": s, "connection": c.(*net.UnixConn)} {
		closesOnExec(t, name, sc)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	holds(t, dir)
	if _, err := s.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
}

func closesOnExec(t *testing.T, name string, sc syscall.Conn) {
	t.Helper()
	raw, err := sc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		if flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s: descriptor flags %#x, %v", name, flags, err)
		}
	})
}

func TestUnixClosesDirectory(t *testing.T) {
	s := mustUnix(t, UnixConfig{Path: proctest.Dir(t, 0o755) + "/s"})
	fd := uintptr(s.dir.FD())
	flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x, %v", flags, err)
	}
	s.Close()
	if _, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err != unix.EBADF {
		t.Errorf("the directory is still open: %v", err)
	}
}

func TestUnixBadPaths(t *testing.T) {
	dir := proctest.Dir(t, 0o755)
	put := func(name string) {
		if err := os.WriteFile(dir+"/"+name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("file")
	here := names(t, ".")
	limit := fmt.Sprint(maxUnixPath)
	for path, want := range map[string]string{
		"":                          "empty",
		"@name":                     "abstract",
		"@" + dir + "/s":            "abstract",
		"\x00name":                  "abstract",
		dir + "/a\x00b":             "abstract",
		dir + "/":                   "names a directory",
		dir + "/.":                  "names a directory",
		dir + "/..":                 "names a directory",
		".":                         "names a directory",
		"/":                         "names a directory",
		dir + "/missing/s":          dir + "/missing does not exist",
		dir + "/missing/a/s":        dir + "/missing does not exist",
		dir + "/file/s":             dir + "/file: not a directory",
		pad(dir+"/", maxUnixPath+1): fmt.Sprintf("is %d bytes long, and the limit is %s", maxUnixPath+1, limit),
		pad(dir+"/", 5000):          "is 5000 bytes long, and the limit is " + limit,
	} {
		unixFails(t, UnixConfig{Path: path}, want)
	}
	holds(t, dir, "file")
	holds(t, ".", here...)
}

func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names
}

// pad makes path n bytes long.
func pad(path string, n int) string { return path + strings.Repeat("x", n-len(path)) }

func TestUnixLongestPath(t *testing.T) {
	if maxUnixPath < 100 || maxUnixPath > 107 {
		t.Errorf("limit %d", maxUnixPath)
	}
	dir := proctest.Dir(t, 0o755)
	path := pad(dir+"/", maxUnixPath)
	s := mustUnix(t, UnixConfig{Path: path})
	reaches(t, path, s)
	s.Close()
	holds(t, dir)
}

// TestUnixRelativePath: the limit applies to the path as given, not to the absolute one.
func TestUnixRelativePath(t *testing.T) {
	dir := proctest.Dir(t, 0o755)
	deep := mkdir(t, pad(dir+"/", 150), 0o755)
	mkdir(t, deep+"/sub", 0o755)
	t.Chdir(deep)
	for _, path := range []string{"s", "./s", "sub/../s", "./@s", "../s"} {
		s := mustUnix(t, UnixConfig{Path: path})
		reaches(t, path, s)
		unixFails(t, UnixConfig{Path: path}, "another process listens")
		s.Close()
	}
	holds(t, deep, "sub")
	unixFails(t, UnixConfig{Path: deep + "/s"}, "and the limit is")
}

func TestUnixReplacesDead(t *testing.T) {
	dir := proctest.Dir(t, 0o755)
	path := dir + "/s"
	plantDead(t, path)
	chmod(t, path, 0o777)
	s := mustUnix(t, UnixConfig{Path: path})
	if got := lstat(t, path).Mode(); got != os.ModeSocket|0o600 {
		t.Errorf("mode %v", got)
	}
	reaches(t, path, s)
	holds(t, dir, "s")
}

func TestUnixRefusesAlive(t *testing.T) {
	dir := proctest.Dir(t, 0o755)
	path := dir + "/s"
	s := mustUnix(t, UnixConfig{Path: path})
	before := lstat(t, path)
	for range 3 {
		unixFails(t, UnixConfig{Path: path, Everyone: true}, "another process listens on it; stop")
	}
	after := lstat(t, path)
	if !os.SameFile(before, after) || after.Mode() != before.Mode() {
		t.Errorf("it was touched: %v, then %v", before, after)
	}
	s.Close()
	again := mustUnix(t, UnixConfig{Path: path})
	reaches(t, path, again)
}

func TestUnixRefusesAliveDatagram(t *testing.T) {
	path := proctest.Dir(t, 0o755) + "/s"
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	unixFails(t, UnixConfig{Path: path}, "another process listens on it; stop")
	lstat(t, path)
}

// TestUnixLeavesOtherThings: everything but a stale socket of ours stays unchanged.
func TestUnixLeavesOtherThings(t *testing.T) {
	for what, c := range map[string]struct {
		lay  func(dir, path string) error
		want string
	}{
		"file":      {func(_, path string) error { return os.WriteFile(path, []byte("precious"), 0o600) }, "not a socket"},
		"empty":     {func(_, path string) error { return os.WriteFile(path, nil, 0o600) }, "not a socket"},
		"directory": {func(_, path string) error { return os.Mkdir(path, 0o700) }, "not a socket"},
		"fifo":      {func(_, path string) error { return unix.Mkfifo(path, 0o600) }, "not a socket"},
		"link to a dead socket": {func(dir, path string) error {
			plantDead(t, dir+"/dead")
			return os.Symlink("dead", path)
		}, "symbolic link"},
		"link to a file": {func(dir, path string) error {
			return errors.Join(os.WriteFile(dir+"/file", []byte("precious"), 0o600), os.Symlink("file", path))
		}, "symbolic link"},
		"dangling link":  {func(dir, path string) error { return os.Symlink(dir+"/new", path) }, "symbolic link"},
		"link to itself": {func(_, path string) error { return os.Symlink("s", path) }, "symbolic link"},
	} {
		t.Run(what, func(t *testing.T) {
			dir := proctest.Dir(t, 0o755)
			path := dir + "/s"
			if err := c.lay(dir, path); err != nil {
				t.Fatal(err)
			}
			before, there := lstat(t, path), names(t, dir)
			unixFails(t, UnixConfig{Path: path}, c.want)
			after := lstat(t, path)
			if !os.SameFile(before, after) || after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime()) {
				t.Errorf("it was touched: %v, then %v", before, after)
			}
			holds(t, dir, there...)
		})
	}
}

func TestUnixClosesOnlyItsOwn(t *testing.T) {
	for what, replace := range map[string]func(path string) error{
		"file":        func(path string) error { return os.WriteFile(path, []byte("precious"), 0o600) },
		"link":        func(path string) error { return os.Symlink("old", path) }, // to the socket itself
		"directory":   func(path string) error { return os.Mkdir(path, 0o700) },
		"dead socket": func(path string) error { plantDead(t, path); return nil },
	} {
		t.Run(what, func(t *testing.T) {
			dir := proctest.Dir(t, 0o755)
			path := dir + "/s"
			s := mustUnix(t, UnixConfig{Path: path})
			if err := errors.Join(os.Rename(path, dir+"/old"), replace(path)); err != nil {
				t.Fatal(err)
			}
			before := lstat(t, path)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if !os.SameFile(before, lstat(t, path)) {
				t.Error("another's was removed")
			}
			holds(t, dir, "old", "s")
		})
	}
}

func TestUnixCloseAfterReplacementByHand(t *testing.T) {
	path := proctest.Dir(t, 0o755) + "/s"
	first := mustUnix(t, UnixConfig{Path: path})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second := mustUnix(t, UnixConfig{Path: path})
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	reaches(t, path, second)
	second.Close()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
}

func TestUnixCloseOfRemovedPath(t *testing.T) {
	dir := proctest.Dir(t, 0o755)
	s := mustUnix(t, UnixConfig{Path: dir + "/s"})
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestUnixCloseAfterClose: a second Close removes nothing, since the inode number may have been reused.
func TestUnixCloseAfterClose(t *testing.T) {
	path := proctest.Dir(t, 0o755) + "/s"
	s := mustUnix(t, UnixConfig{Path: path})
	s.Close()
	next := mustUnix(t, UnixConfig{Path: path})
	if err := s.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	reaches(t, path, next)
}

func TestUnixRemoveKeepsListening(t *testing.T) {
	dir := proctest.Dir(t, 0o755)
	s := mustUnix(t, UnixConfig{Path: dir + "/s"})
	c, err := net.Dial("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := errors.Join(s.remove(), s.remove()); err != nil {
		t.Fatal(err)
	}
	holds(t, dir)
	got, err := s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	got.Close()
}

// TestUnixRemovesFromItsDirectory: Close uses the open directory, not its name.
func TestUnixRemovesFromItsDirectory(t *testing.T) {
	dir := proctest.Dir(t, 0o755)
	mkdir(t, dir+"/a", 0o755)
	s := mustUnix(t, UnixConfig{Path: dir + "/a/s"})
	if err := os.Rename(dir+"/a", dir+"/b"); err != nil {
		t.Fatal(err)
	}
	mkdir(t, dir+"/a", 0o755)
	plantDead(t, dir+"/a/s")
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	holds(t, dir+"/a", "s")
	holds(t, dir+"/b")
}

func TestUnixDirectoryRules(t *testing.T) {
	const sticky = os.ModeSticky
	allow := func(parent, directory os.FileMode) { directoryRule(t, parent, directory, "") }
	deny := func(parent, directory os.FileMode, culprit string) { directoryRule(t, parent, directory, culprit) }
	allow(0o700, 0o700)
	allow(0o755, 0o755)
	allow(0o755, 0o777|sticky)
	allow(0o777|sticky, 0o755)
	allow(0o777|sticky, 0o777|sticky)
	allow(0o755, 0o775|sticky)
	deny(0o755, 0o777, "/p/f")
	deny(0o755, 0o775, "/p/f")
	deny(0o755, 0o757, "/p/f")
	deny(0o755, 0o702, "/p/f")
	deny(0o777, 0o755, "/p")
	deny(0o775, 0o700, "/p")
	deny(0o777, 0o777|sticky, "/p")
}

func directoryRule(t *testing.T, parent, directory os.FileMode, culprit string) {
	t.Helper()
	dir := proctest.Dir(t, 0o755)
	mkdir(t, dir+"/p", 0o755)
	mkdir(t, dir+"/p/f", directory)
	chmod(t, dir+"/p", parent)
	cfg := UnixConfig{Path: dir + "/p/f/s"}
	if culprit != "" {
		unixFails(t, cfg, "other users may write to the directory "+dir+culprit+" (mode ", "replace its files")
		holds(t, dir+"/p/f")
		return
	}
	reaches(t, cfg.Path, mustUnix(t, cfg))
}

// TestUnixDirectoryBehindLinks: the checks apply to the directories that a link leads to.
func TestUnixDirectoryBehindLinks(t *testing.T) {
	dir := proctest.Dir(t, 0o755)
	mkdir(t, dir+"/good", 0o755)
	mkdir(t, dir+"/bad", 0o777)
	mkdir(t, dir+"/bad/in", 0o755)
	for name, target := range map[string]string{
		"abs": dir + "/good", "rel": "good", "chain": "rel", "up": "good/../good/.",
		"tobad": "bad", "intobad": "bad/in", "through": "bad/../good",
		"loop": "loop", "gone": "nowhere",
	} {
		if err := os.Symlink(target, dir+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"abs", "rel", "chain", "up"} {
		s := mustUnix(t, UnixConfig{Path: dir + "/" + name + "/s"})
		reaches(t, dir+"/good/s", s)
		s.Close()
	}
	for name, want := range map[string]string{
		"tobad": "other users may write to the directory " + dir + "/bad ", "intobad": "other users may write to the directory " + dir + "/bad ",
		"through": "other users may write to the directory " + dir + "/bad ",
		"loop":    "cannot follow the link", "gone": dir + "/nowhere does not exist",
	} {
		unixFails(t, UnixConfig{Path: dir + "/" + name + "/s"}, want)
	}
	holds(t, dir+"/good")
	holds(t, dir+"/bad", "in")
}

func TestUnixNoSuchGroup(t *testing.T) {
	dir := proctest.Dir(t, 0o755)
	unixFails(t, UnixConfig{Path: dir + "/s", Groups: []uint32{1<<32 - 1}}, "no such group")
	holds(t, dir)
}

// TestUnixStartsAtOnce: of several that start at once, on a free path or a stale socket, one serves and the others get
// an error.
func TestUnixStartsAtOnce(t *testing.T) {
	dir := proctest.Dir(t, 0o755)
	path := dir + "/s"
	for round := range 100 {
		if round%2 == 1 {
			plantDead(t, path)
		}
		winner := startsAtOnce(t, path, 4)
		reaches(t, path, winner)
		holds(t, dir, "s")
		if err := winner.Close(); err != nil {
			t.Fatal(err)
		}
		holds(t, dir)
		if t.Failed() {
			t.FailNow()
		}
	}
}

func startsAtOnce(t *testing.T, path string, n int) (winner *UnixSocket) {
	t.Helper()
	sockets, errs, start := make([]*UnixSocket, n), make([]error, n), make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			sockets[i], errs[i] = Unix(UnixConfig{Path: path})
		})
	}
	close(start)
	wg.Wait()
	for i, s := range sockets {
		switch {
		case s == nil && !strings.Contains(errs[i].Error(), "another process listens"):
			t.Errorf("the error is %v", errs[i])
		case s != nil && winner != nil:
			s.Close()
			t.Error("two winners")
		case s != nil:
			winner = s
		}
	}
	if winner == nil {
		t.Fatalf("no winner: %v", errs)
	}
	return winner
}

// TestUnixStartsWhileAnotherEnds: the path of a proxy that starts while another ends is kept.
func TestUnixStartsWhileAnotherEnds(t *testing.T) {
	dir := proctest.Dir(t, 0o755)
	path := dir + "/s"
	s := mustUnix(t, UnixConfig{Path: path})
	for range 100 {
		ended := make(chan error)
		go func(s *UnixSocket) { ended <- s.Close() }(s)
		deadline := time.Now().Add(30 * time.Second)
		next, err := Unix(UnixConfig{Path: path})
		for ; err != nil && time.Now().Before(deadline); next, err = Unix(UnixConfig{Path: path}) {
			if !strings.Contains(err.Error(), "another process listens") {
				t.Fatal(err)
			}
		}
		if err := errors.Join(err, <-ended); err != nil {
			t.Fatal(err)
		}
		reaches(t, path, next)
		s = next
	}
	s.Close()
	holds(t, dir)
}

func testEntry(t *testing.T, path string) *UnixSocket {
	t.Helper()
	e, err := find(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.dir.Close() })
	return e
}

// lock takes the lock of a socket, as soon as no other has it.
func (s *UnixSocket) lock(t *testing.T) (unlock func()) {
	name := "." + s.name + ".lock"
	for end := time.Now().Add(30 * time.Second); ; runtime.Gosched() {
		held, err := s.dir.Lock(name)
		if err == nil {
			return func() {
				s.dir.Remove(name)
				held.Close()
			}
		}
		if !errors.Is(err, safefile.ErrLocked) || time.Now().After(end) {
			t.Error("waited for the lock: ", err)
			return func() {}
		}
	}
}

// TestUnixLock: while another process starts on a path, no other does.
func TestUnixLock(t *testing.T) {
	dir := proctest.Dir(t, 0o755)
	unlock := testEntry(t, dir+"/s").lock(t)
	if got := lstat(t, dir+"/.s.lock").Mode(); got != 0o600 {
		t.Errorf("others could hold the lock: mode %v", got)
	}
	unixFails(t, UnixConfig{Path: dir + "/s"}, "another process listens on it; stop")
	other := mustUnix(t, UnixConfig{Path: dir + "/t"})
	holds(t, dir, ".s.lock", "t")
	unlock()
	holds(t, dir, "t")
	other.Close()
	mustUnix(t, UnixConfig{Path: dir + "/s"})
	holds(t, dir, "s")
}

// TestUnixLockOnRemovedFile: a lock on a file that its last holder has removed is not taken for the lock.
func TestUnixLockOnRemovedFile(t *testing.T) {
	dir := proctest.Dir(t, 0o755)
	e := testEntry(t, dir+"/s")
	const n = 8
	var wg sync.WaitGroup
	var in sync.Mutex
	for range n {
		wg.Go(func() {
			for range 100 {
				unlock := e.lock(t)
				if in.TryLock() {
					runtime.Gosched()
					in.Unlock()
				} else {
					t.Error("two processes hold the lock")
				}
				unlock()
			}
		})
	}
	wg.Wait()
	holds(t, dir)
}

func TestUnixLockLeftBehind(t *testing.T) {
	dir := proctest.Dir(t, 0o755)
	if err := os.WriteFile(dir+"/.s.lock", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	reaches(t, dir+"/s", mustUnix(t, UnixConfig{Path: dir + "/s"}))
	holds(t, dir, "s")
}

func TestUnixLockIsNoTrap(t *testing.T) {
	for what, lay := range map[string]func(dir string) error{
		"link":          func(dir string) error { return os.Symlink("file", dir+"/.s.lock") },
		"dangling link": func(dir string) error { return os.Symlink("new", dir+"/.s.lock") },
		"fifo":          func(dir string) error { return unix.Mkfifo(dir+"/.s.lock", 0o600) },
		"directory":     func(dir string) error { return os.Mkdir(dir+"/.s.lock", 0o700) },
	} {
		t.Run(what, func(t *testing.T) {
			dir := proctest.Dir(t, 0o755)
			if err := errors.Join(os.WriteFile(dir+"/file", nil, 0o600), lay(dir)); err != nil {
				t.Fatal(err)
			}
			unixFails(t, UnixConfig{Path: dir + "/s"}, "cannot lock .s.lock")
			holds(t, dir, ".s.lock", "file")
		})
	}
}
