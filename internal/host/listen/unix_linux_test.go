package listen

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// jobs run in a child with a path. A job prints its result in one line and stays until its input ends.
var jobs = map[string]func(path string) string{
	"unix":   func(path string) string { return jobListen(UnixConfig{Path: path}) },
	"dial":   jobDial,
	"narrow": jobNarrow,
	"dead": func(path string) string {
		l, err := net.Listen("unix", path) // and exits without output
		kept = l
		return fmt.Sprint(err)
	},
}

// kept holds the job's socket, which the garbage collector would close.
var kept any

func jobSocket(args []string) error {
	name, path := args[0], args[1]
	job := jobs[name]
	if gid, ok := strings.CutPrefix(name, "unix:"); ok {
		job = func(path string) string { return jobListen(UnixConfig{Path: path, Groups: []uint32{number(gid)}}) }
	}
	fmt.Println(job(path))
	proctest.UntilInputEnds()
	return nil
}

func number(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		panic(err)
	}
	return uint32(n)
}

func jobListen(cfg UnixConfig) string {
	s, err := Unix(cfg)
	if err != nil {
		return err.Error()
	}
	kept = s
	return modeOf(cfg.Path)
}

func modeOf(path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%04o uid %d gid %d", st.Mode&0o7777, st.Uid, st.Gid)
}

func jobDial(path string) string {
	c, err := net.Dial("unix", path)
	if err != nil {
		return err.Error()
	}
	kept = c
	return "connected"
}

// jobNarrow prints the mode of a socket at its creation.
func jobNarrow(path string) string {
	unix.Umask(0)
	l, err := listenNarrow(path)
	if err != nil {
		return err.Error()
	}
	kept = l
	return modeOf(path)
}

func start(t *testing.T, attr *syscall.SysProcAttr, job, path string) *proctest.Child {
	t.Helper()
	cmd := proctest.Command("socket", job, path)
	cmd.Dir, cmd.SysProcAttr = "/", attr
	c, err := proctest.Start(t, cmd)
	if err != nil {
		if attr != nil && attr.Cloneflags&unix.CLONE_NEWUSER != 0 {
			proctest.Cannot(t, "no user namespaces: "+err.Error())
		}
		t.Fatal(err)
	}
	return c
}

func as(uid, gid uint32, groups ...uint32) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups}}
}

// jobLine runs a job and returns its line.
func jobLine(t *testing.T, attr *syscall.SysProcAttr, job, path string) string {
	t.Helper()
	c := start(t, attr, job, path)
	defer c.End()
	return c.Line()
}

// TestUnixIsBornNarrow checks the mode before it is set to its final value, for every umask.
func TestUnixIsBornNarrow(t *testing.T) {
	if got := jobLine(t, nil, "narrow", proctest.Dir(t, 0o755)+"/s"); !strings.HasPrefix(got, "0600 ") {
		t.Errorf("born with mode %s", got)
	}
}

// TestUnixLetsIn: the mode decides who can connect. uid 1001 is in group 7.
func TestUnixLetsIn(t *testing.T) {
	proctest.NeedRoot(t, "be other users")
	in7, other := as(1001, 1001, 7), as(1002, 1002, 8)
	type ids = []uint32
	for _, c := range []struct {
		cfg            UnixConfig
		mode           string
		in7In, otherIn bool
	}{
		{UnixConfig{}, "0600 uid 0 gid 0", false, false},
		{UnixConfig{Groups: ids{7}}, "0660 uid 0 gid 7", true, false},
		{UnixConfig{Groups: ids{9}}, "0660 uid 0 gid 9", false, false},
		{UnixConfig{Groups: ids{7, 8}}, "0666 uid 0 gid 0", true, true},
		{UnixConfig{Users: ids{1001}}, "0666 uid 0 gid 0", true, true},
		{UnixConfig{Everyone: true}, "0666 uid 0 gid 0", true, true},
	} {
		dir := proctest.Dir(t, 0o755)
		c.cfg.Path = dir + "/s"
		mustUnix(t, c.cfg)
		if got := modeOf(c.cfg.Path); got != c.mode {
			t.Errorf("%+v: %s, want %s", c.cfg, got, c.mode)
		}
		for attr, want := range map[*syscall.SysProcAttr]bool{in7: c.in7In, other: c.otherIn} {
			got := jobLine(t, attr, "dial", c.cfg.Path)
			if in := got == "connected"; in != want || !in && !strings.Contains(got, "permission denied") {
				t.Errorf("%+v: uid %d: %s, want in: %t", c.cfg, attr.Credential.Uid, got, want)
			}
		}
	}
}

// TestUnixGroupOfUnprivileged: an unprivileged proxy can give its socket to a group of its own, and must open it to all
// users for any other.
func TestUnixGroupOfUnprivileged(t *testing.T) {
	proctest.NeedRoot(t, "be other users")
	for job, want := range map[string]string{
		"unix":      "0600 uid 1001 gid 1001",
		"unix:7":    "0660 uid 1001 gid 7",
		"unix:8":    "0666 uid 1001 gid 1001",
		"unix:1001": "0660 uid 1001 gid 1001",
	} {
		dir := proctest.Dir(t, 0o777|os.ModeSticky)
		if got := jobLine(t, as(1001, 1001, 7), job, dir+"/s"); got != want {
			t.Errorf("%s: %s, want %s", job, got, want)
		}
		holds(t, dir, "s")
	}
}

// TestUnixInSetgidDirectory: in a directory with the set-group-id bit, the socket is created with the directory's group.
func TestUnixInSetgidDirectory(t *testing.T) {
	proctest.NeedRoot(t, "be other users")
	dir := proctest.Dir(t, 0o755)
	if err := os.Chown(dir, 0, 8); err != nil {
		t.Fatal(err)
	}
	chmod(t, dir, 0o755|os.ModeSetgid)
	mustUnix(t, UnixConfig{Path: dir + "/s", Groups: []uint32{7}})
	if got := modeOf(dir + "/s"); got != "0660 uid 0 gid 7" {
		t.Error(got)
	}
}

func TestUnixRefusesOthersSocket(t *testing.T) {
	proctest.NeedRoot(t, "be other users")
	dir := proctest.Dir(t, 0o777|os.ModeSticky)
	squatter := start(t, as(nobody, nobody), "unix", dir+"/s")
	if got := squatter.Line(); !strings.HasPrefix(got, "0600 ") {
		t.Fatal(got)
	}
	unixFails(t, UnixConfig{Path: dir + "/s"}, "belongs to another user (uid 65534)")
	squatter.End() // without closing: the socket is stale now, but still another user's
	unixFails(t, UnixConfig{Path: dir + "/s"}, "belongs to another user (uid 65534)")
	if got := jobLine(t, as(1001, 1001), "unix", dir+"/s"); !strings.Contains(got, "belongs to another user (uid 65534)") {
		t.Error(got)
	}
	if got := jobLine(t, as(nobody, nobody), "unix", dir+"/s"); !strings.HasPrefix(got, "0600 uid 65534") {
		t.Errorf("its owner: %s", got)
	}
	holds(t, dir, "s")
}

func TestUnixRefusesOthersLock(t *testing.T) {
	proctest.NeedRoot(t, "be other users")
	dir := proctest.Dir(t, 0o755)
	put(t, dir+"/.s.lock", "", 0o666)
	give(t, nobody, dir+"/.s.lock")
	unixFails(t, UnixConfig{Path: dir + "/s"}, ".s.lock belongs to another user (uid 65534)")
	holds(t, dir, ".s.lock")
}

// TestUnixOthersDirectories: the owner of a directory or a link on the path decides where the socket is.
func TestUnixOthersDirectories(t *testing.T) {
	proctest.NeedRoot(t, "be other users")
	dir := proctest.Dir(t, 0o777|os.ModeSticky)
	for _, name := range []string{"mine", "theirs"} {
		mkdir(t, dir+"/"+name, 0o755)
		mkdir(t, dir+"/"+name+"/in", 0o755)
	}
	give(t, nobody, dir+"/theirs")
	link(t, "mine", dir+"/link")
	give(t, nobody, dir+"/link")
	for _, c := range []struct {
		directory, root, them string // each user's error; "" for success
	}{
		{"", "", ""},
		{"/mine", "", "permission denied"},
		{"/mine/in", "", "permission denied"},
		{"/theirs", "theirs belongs to another user (uid 65534)", ""},
		{"/theirs/in", "theirs belongs to another user (uid 65534)", "permission denied"},
		{"/link", "the link " + dir + "/link belongs to another user", "permission denied"},
	} {
		path := dir + c.directory + "/s"
		for attr, want := range map[*syscall.SysProcAttr]string{as(0, 0): c.root, as(nobody, nobody): c.them} {
			got := jobLine(t, attr, "unix", path)
			if want == "" {
				want = fmt.Sprintf("0600 uid %d", attr.Credential.Uid)
			} else {
				wellFormed(t, got, path)
			}
			if !strings.Contains(got, want) {
				t.Errorf("uid %d in %q: %q, want %q", attr.Credential.Uid, c.directory, got, want)
			}
			os.Remove(path)
		}
	}
	if got := jobLine(t, as(1001, 1001), "unix", dir+"/theirs/s"); !strings.Contains(got, "another user (uid 65534)") {
		t.Errorf("a third user: %s", got)
	}
}

func TestUnixHiddenDirectory(t *testing.T) {
	proctest.NeedRoot(t, "be other users")
	dir := proctest.Dir(t, 0o755)
	mkdir(t, dir+"/hidden", 0o700)
	mkdir(t, dir+"/hidden/in", 0o755)
	got := jobLine(t, as(nobody, nobody), "unix", dir+"/hidden/in/s")
	if !strings.Contains(got, "cannot search the directory "+dir+"/hidden") || !strings.Contains(got, "permission denied") {
		t.Error(got)
	}
}

// TestUnixUnlistableDirectory: search permission on a directory is sufficient.
func TestUnixUnlistableDirectory(t *testing.T) {
	proctest.NeedRoot(t, "be other users")
	dir := proctest.Dir(t, 0o755)
	mkdir(t, dir+"/p", 0o711)
	mkdir(t, dir+"/p/f", 0o300)
	give(t, nobody, dir+"/p/f")
	if got := jobLine(t, as(nobody, nobody), "unix", dir+"/p/f/s"); !strings.HasPrefix(got, "0600 ") {
		t.Error(got)
	}
}

func TestUnixReplacesKilled(t *testing.T) {
	dir := proctest.Dir(t, 0o755)
	c := start(t, nil, "dead", dir+"/s")
	if got := c.Line(); got != "<nil>" {
		t.Fatal(got)
	}
	unixFails(t, UnixConfig{Path: dir + "/s"}, "another process listens")
	c.Cmd.Process.Kill()
	c.End()
	holds(t, dir, "s")
	reaches(t, dir+"/s", mustUnix(t, UnixConfig{Path: dir + "/s"}))
}

// TestUnixRefusesBusy: a listener with a full queue returns EAGAIN and is alive.
func TestUnixRefusesBusy(t *testing.T) {
	path := proctest.Dir(t, 0o755) + "/s"
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for err = nil; err == nil; {
		var c net.Conn
		if c, err = net.Dial("unix", path); err == nil {
			defer c.Close()
		}
	}
	if !strings.Contains(err.Error(), "temporarily unavailable") {
		t.Fatal(err)
	}
	unixFails(t, UnixConfig{Path: path}, "another process listens on it; stop")
	lstat(t, path)
}

// TestUnixProcessesAtOnce: two processes start at once, as after a reboot with two units for one path.
func TestUnixProcessesAtOnce(t *testing.T) {
	dir := proctest.Dir(t, 0o755)
	for round := range 10 {
		if round%2 == 1 {
			plantDead(t, dir+"/s")
		}
		a, b := start(t, nil, "unix", dir+"/s"), start(t, nil, "unix", dir+"/s")
		got := []string{a.Line(), b.Line()}
		slices.Sort(got) // sorts the mode first
		if !strings.HasPrefix(got[0], "0600 ") || !strings.Contains(got[1], "another process listens") {
			t.Errorf("%q", got)
		}
		holds(t, dir, "s")
		a.End()
		b.End()
		os.Remove(dir + "/s")
	}
}

// inNamespace is root in a user namespace whose only mapped user and group is outer.
func inNamespace(outer int) *syscall.SysProcAttr {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: outer, Size: 1}}
	return &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, Credential: &syscall.Credential{NoSetGroups: true}}
}

// TestUnixInUserNamespaceWithoutRoot: root's directories appear to belong to the overflow uid.
func TestUnixInUserNamespaceWithoutRoot(t *testing.T) {
	proctest.NeedRoot(t, "be other users")
	path := proctest.Dir(t, 0o777|os.ModeSticky) + "/s"
	if got := jobLine(t, inNamespace(4242), "unix", path); !strings.Contains(got, "the directory / belongs to another user (uid 65534)") {
		t.Error(got)
	}
}
