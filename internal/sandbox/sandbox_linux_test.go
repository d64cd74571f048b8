package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/proctest"
)

const nobody = 65534

// None of what this package does can be undone in the process that runs the tests.
func TestMain(m *testing.M) {
	proctest.Main(m, map[string]proctest.Job{
		"enforce": jobEnforce, "serve": jobServe, "abort": jobAbort, "attack": jobAttack, "window": jobWindow,
	})
}

func withCgo() bool {
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_GETPID, 0, 0, 0)
	return errno == syscall.ENOTSUP
}

// childConfig are what a child is told.
type childConfig struct {
	Policy
	UserName string      // looked up by the child
	Deny     [][2]uint32 // system calls that an outer filter refuses, and with which errno
	Upstream string      // with the CA, and its port
	CA       string
	Port     uint16
	DNS      string // a name server that knows no name
	Notify   string // a unix socket, as systemd's
	Other    string // a listener to which no rule leads
	Outside  string // a file of its own that no rule names
	Work     bool   // has a folder to write in
	Attack   bool
	Dumpable bool // as fs.suid_dumpable=1 makes a process that changes its user
}

// childResult is what it says afterwards.
type childResult struct {
	Err, Report string
	Missing     []string
	Work        []string          // what went wrong of its work, before and after the attacks
	Attacks     map[string]string // the errno of each
	UDP         map[string]string // and of each way to reach Other by UDP
}

// child is a process in the sandbox, which stays until it is let go.
type child struct {
	childResult
	pid int
}

// startChild starts a child and reads its result.
func startChild(t *testing.T, o childConfig, attr *syscall.SysProcAttr) *child {
	t.Helper()
	return startChildOf(t, proctest.Static(t), o, attr)
}

func startChildOf(t *testing.T, binary string, o childConfig, attr *syscall.SysProcAttr) *child {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := proctest.CommandOf(binary, "enforce", string(text))
	cmd.Dir, cmd.Stderr, cmd.SysProcAttr = "/", &stderr, attr
	c, err := proctest.Start(t, cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.End()
		if !cmd.ProcessState.Success() || stderr.Len() > 0 {
			t.Errorf("the child ended with %v: %s", cmd.ProcessState, &stderr)
		}
	})
	line := c.Line()
	p := &child{pid: cmd.Process.Pid}
	if err := json.Unmarshal([]byte(line), &p.childResult); err != nil {
		t.Fatalf("the child says %q: %v", line, err)
	}
	return p
}

// outside is the world in which a child works, who in the end is uid.
func outside(t *testing.T, uid int) childConfig {
	t.Helper()
	s, err := openaitest.Start(openaitest.Options{TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	_, port, _ := net.SplitHostPort(s.Addr())
	n, err := net.LookupPort("tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	o := childConfig{Upstream: "https://localhost:" + port + openaitest.DefaultPath, CA: string(s.CAPEM()), Port: uint16(n), Other: other.Addr().String(), DNS: nameServer(t)}
	o.Ports = []uint16{o.Port}
	o.Notify = filepath.Join(folder(t, uid), "notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: o.Notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { notify.Close() })
	if err := os.Chmod(o.Notify, 0o666); err != nil {
		t.Fatal(err)
	}
	o.Outside = file(t, folder(t, uid))
	return o
}

// nameServer answers every question with "no such name". Its port is 53, as that of all name servers; the address is one
// of loopback's that no other test should have.
func nameServer(t *testing.T) string {
	t.Helper()
	addr := fmt.Sprintf("127.%d.%d.%d:53", 1+rand.N(254), rand.N(256), 1+rand.N(254))
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		for buf := make([]byte, 1500); ; {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if n < 12 {
				continue
			}
			buf[2], buf[3] = 0x84, 0x03                      // an authoritative answer: NXDOMAIN
			c.WriteTo(append([]byte(nil), buf[:n]...), from) // the question stands in it again
		}
	}()
	return c.LocalAddr().String()
}

// folder is one in which a user may write.
func folder(t *testing.T, uid int) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sandbox-test-") // t.TempDir's parents are closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// file makes a file in a folder.
func file(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// readable is a link to a file.
func readable(t *testing.T, uid int) string {
	t.Helper()
	link := filepath.Join(folder(t, uid), "link")
	target := file(t, folder(t, uid))
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	return link
}

func as(uid uint32) *syscall.SysProcAttr {
	if os.Geteuid() != 0 {
		return nil
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
}

// inNamespace starts as root of a user namespace, or as an ordinary user there.
func inNamespace(uid uint32) *syscall.SysProcAttr {
	maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}}
	return &syscall.SysProcAttr{
		Cloneflags:                 unix.CLONE_NEWUSER,
		UidMappings:                maps,
		GidMappings:                maps,
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{Uid: uid, Gid: uid},
	}
}

// Whoever starts it, it is wholly in force on every thread; its work goes on,
// every attack is refused, and the work goes on after that.
func TestEnforce(t *testing.T) {
	proctest.NeedRoot(t, "become other users")
	abi, err := landlockABI()
	if err != nil || abi < netABI {
		proctest.Cannot(t, fmt.Sprintf("Landlock's version is %d (%v)", abi, err))
	}
	lock := fmt.Sprintf("landlock=abi%d", abi)
	t.Log(lock)
	for _, c := range []struct {
		what    string
		user    string
		uid     uint32 // in the end
		attr    *syscall.SysProcAttr
		want    string
		keepBnd bool
	}{
		{"root becomes nobody", "nobody", nobody, nil, "user=nobody caps=none no-new-privs=on " + lock + " seccomp=on", false},
		{"root becomes a number", "4242", 4242, nil, "user=4242 caps=none no-new-privs=on " + lock + " seccomp=on", false},
		{"root stays", "", 0, nil, "user=root(it stays root; name another user with --user) caps=none no-new-privs=on " + lock + " seccomp=on", false},
		{"an ordinary user", "", nobody, as(nobody), "user=nobody caps=none no-new-privs=on " + lock + " seccomp=on", true},
		{"a namespace's root", "4242", 4242, inNamespace(0), "user=4242 caps=none no-new-privs=on " + lock + " seccomp=on", false},
		{"a namespace's root becomes its nobody", "65534", nobody, inNamespace(0), "user=nobody caps=none no-new-privs=on " + lock + " seccomp=on", false},
		{"a namespace's user", "", 4242, inNamespace(4242), "user=4242 caps=none no-new-privs=on " + lock + " seccomp=on", true},
	} {
		t.Run(c.what, func(t *testing.T) {
			o := outside(t, int(c.uid))
			dir := folder(t, int(c.uid))
			o.UserName, o.Write, o.Work, o.Attack = c.user, []string{dir}, true, true
			o.Read = []string{readable(t, int(c.uid)), "/no/such/file"}
			p := startChild(t, o, c.attr)
			if p.Err != "" || p.Report != c.want {
				t.Fatalf("%q (%s), want %q", p.Report, p.Err, c.want)
			}
			checkThreads(t, p.pid, c.uid, c.keepBnd)
			checkChild(t, p)
			if text, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(text) != "second" {
				t.Errorf("the file holds %q: %v", text, err)
			}
		})
	}
}

// checkChild looks at its work and at what it could do.
func checkChild(t *testing.T, p *child) {
	t.Helper()
	for _, w := range p.Work {
		t.Errorf("at work: %s", w)
	}
	if len(p.Attacks) != len(attacks) {
		t.Errorf("%d attacks, want %d", len(p.Attacks), len(attacks))
	}
	for name, got := range p.Attacks {
		if got != unix.EPERM.Error() && got != unix.EACCES.Error() {
			t.Errorf("%s: %s", name, got)
		}
	}
	checkUDP(t, p)
}

// checkUDP looks at what the process could send by UDP: anything, until Landlock has a right for it.
func checkUDP(t *testing.T, p *child) {
	t.Helper()
	want := "<nil>"
	if abi, err := landlockABI(); err == nil && abi >= udpABI {
		want = unix.EACCES.Error()
	}
	for _, way := range []string{"connect", "sendto"} {
		if got := p.UDP[way]; got != want {
			t.Errorf("another port by UDP, %s: %q, want %q", way, got, want)
		}
	}
}

// checkThreads reads what the kernel says of every thread.
func checkThreads(t *testing.T, pid int, uid uint32, keepBnd bool) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) < 8 {
		t.Fatalf("%d threads: %v", len(files), err)
	}
	// The kernel gives what is not dumpable to root.
	if info, err := os.Stat(fmt.Sprintf("/proc/%d/environ", pid)); err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("it can be dumped: %v", err)
	}
	none := "0000000000000000"
	id := fmt.Sprint(uid)
	ids := fmt.Sprintf("%d %[1]d %[1]d %[1]d", uid)
	want := status{"Seccomp": "2", "NoNewPrivs": "1", "CapInh": none, "CapPrm": none, "CapEff": none, "CapAmb": none, "Uid": ids, "Gid": ids}
	if !keepBnd {
		want["CapBnd"] = none
	}
	for _, name := range files {
		f, err := os.Open(name)
		if errors.Is(err, unix.ENOENT) {
			continue // it has ended
		}
		if err != nil {
			t.Fatal(err)
		}
		st, err := readStatus(f)
		f.Close()
		if err != nil {
			continue
		}
		for k, v := range want {
			if st[k] != v {
				t.Errorf("%s: %s is %q, want %q", name, k, st[k], v)
			}
		}
		if g := st["Groups"]; g != "" && g != id && g != "0" {
			t.Errorf("%s: groups %q", name, g)
		}
	}
}

// Without a folder to write in there is no writing at all, and a file may only
// be removed where it was said.
func TestEnforceWithoutWriting(t *testing.T) {
	proctest.NeedRoot(t, "become other users")
	o := outside(t, nobody)
	dir := folder(t, nobody)
	removed := file(t, dir)
	o.UserName, o.Remove, o.Attack, o.Strict = "nobody", []string{dir}, true, true
	p := startChild(t, o, nil)
	if p.Err != "" {
		t.Fatal(p.Err)
	}
	checkChild(t, p)
	for path, want := range map[string]bool{removed: false, o.Outside: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// Without the sandbox most of the attacks get through, so that the tests above
// prove something.
func TestAttacksSucceedOutside(t *testing.T) {
	proctest.NeedRoot(t, "become other users")
	o := outside(t, 0)
	dir := folder(t, 0)
	o.Off, o.Attack, o.Work, o.Write = true, true, true, []string{dir}
	p := startChild(t, o, nil)
	if want := "user=root(it stays root; name another user with --user) caps=none no-new-privs=on landlock=missing(turned off) seccomp=missing(turned off)"; p.Err != "" || p.Report != want {
		t.Fatalf("%q (%s), want %q", p.Report, p.Err, want)
	}
	refused := 0
	for name, got := range p.Attacks {
		if got == unix.EPERM.Error() || got == unix.EACCES.Error() {
			refused++
			if !slices.Contains(privileged, name) {
				t.Errorf("%s: %s even without the sandbox", name, got)
			}
		}
	}
	if refused == len(attacks) {
		t.Error("all attacks are refused without the sandbox")
	}
	for way, got := range p.UDP {
		if got != "<nil>" {
			t.Errorf("another port by UDP, %s: %s even without the sandbox", way, got)
		}
	}
}

// Each protection that the kernel, or a filter around us, refuses: by default
// it starts and says so, strictly it refuses and says why.
func TestMissing(t *testing.T) {
	proctest.NeedRoot(t, "become other users")
	deny := func(call uint32, errno unix.Errno) [][2]uint32 { return [][2]uint32{{call, uint32(errno)}} }
	for _, c := range []struct {
		what string
		deny [][2]uint32
		want string
	}{
		{"no Landlock in the kernel", deny(unix.SYS_LANDLOCK_CREATE_RULESET, unix.ENOSYS), "landlock: this kernel does not have it"},
		{"Landlock off at boot", deny(unix.SYS_LANDLOCK_CREATE_RULESET, unix.EOPNOTSUPP), "landlock: turned off at boot; add landlock to lsm="},
		{"Landlock refused", deny(unix.SYS_LANDLOCK_RESTRICT_SELF, unix.EPERM), "landlock: landlock_restrict_self: operation not permitted"},
		{"Landlock feigned", deny(unix.SYS_LANDLOCK_RESTRICT_SELF, 0), "landlock: it had no effect: a folder could still be opened (<nil>)"},
		{"seccomp refused", deny(unix.SYS_SECCOMP, unix.EPERM), "seccomp: seccomp: operation not permitted"},
		{"no seccomp", deny(unix.SYS_SECCOMP, unix.ENOSYS), "seccomp: seccomp: function not implemented"},
		{"seccomp feigned", deny(unix.SYS_SECCOMP, 0), "seccomp: thread "},
		{"capabilities stay", deny(unix.SYS_CAPSET, unix.EPERM), "caps: capset: operation not permitted"},
		{"capabilities feigned", deny(unix.SYS_CAPSET, 0), "caps: thread "},
	} {
		t.Run(c.what, func(t *testing.T) {
			o := outside(t, nobody)
			o.Deny = c.deny
			if strings.HasPrefix(c.want, "caps: ") {
				o.UserName = "" // whoever leaves root loses them by that
			} else {
				o.UserName = "nobody"
			}
			p := startChild(t, o, nil)
			if p.Err != "" || len(p.Missing) == 0 || !slices.ContainsFunc(p.Missing, func(m string) bool { return strings.HasPrefix(m, c.want) }) {
				t.Errorf("%q (%s), want %q", p.Missing, p.Err, c.want)
			}
			for _, w := range p.Work {
				t.Errorf("at work: %s", w)
			}
			o.Strict = true
			if p := startChild(t, o, nil); !strings.HasPrefix(p.Err, "a protection is missing: ") || !strings.Contains(p.Err, c.want) {
				t.Errorf("strictly: %q, want %q", p.Err, c.want)
			}
		})
	}
}

// A process that its user could attach to in the middle of all this is not
// taken for one that nobody could.
func TestDumpableMeanwhile(t *testing.T) {
	proctest.NeedRoot(t, "become other users")
	o := outside(t, nobody)
	o.Dumpable = true
	attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	p := startChild(t, o, attr)
	if want := "user: processes of that user could attach while the user was changed"; p.Err != "" || len(p.Missing) != 1 || !strings.HasPrefix(p.Missing[0], want) {
		t.Errorf("%q (%s), want %q", p.Missing, p.Err, want)
	}
	if got, err := unix.Open(fmt.Sprintf("/proc/%d/mem", p.pid), unix.O_RDONLY, 0); err == nil {
		defer unix.Close(got)
		var st unix.Stat_t
		if err := unix.Fstat(got, &st); err != nil || st.Uid != 0 {
			t.Errorf("it is still dumpable: its memory belongs to %d (%v)", st.Uid, err)
		}
	}
	o.Strict = true
	if p := startChild(t, o, attr); !strings.HasPrefix(p.Err, "a protection is missing: user: ") {
		t.Errorf("strictly: %q", p.Err)
	}
}

// With cgo, as under the race detector, nothing is done by halves: the C
// library would not bear seccomp. All of it is missing, and work goes on.
func TestCgo(t *testing.T) {
	if !withCgo() {
		t.Skip("this test binary is without cgo, as the proxy is")
	}
	proctest.NeedRoot(t, "become other users")
	o := outside(t, nobody)
	o.UserName = "nobody"
	p := startChildOf(t, "/proc/self/exe", o, nil)
	why := "(" + errCgo.Error() + ")"
	if !strings.HasPrefix(p.Report, "user=nobody caps=missing(") || !strings.HasSuffix(p.Report, "seccomp=missing"+why) || strings.Contains(p.Report, "\n") || p.Err != "" {
		t.Errorf("%q (%s)", p.Report, p.Err)
	}
	for _, w := range p.Work {
		t.Errorf("at work: %s", w)
	}
}

// What cannot be is an error with a hint.
func TestMistakes(t *testing.T) {
	proctest.NeedRoot(t, "become other users")
	for _, c := range []struct {
		what string
		user string
		p    Policy
		attr *syscall.SysProcAttr
		want string
	}{
		{"not root", "4242", Policy{}, as(nobody), "only root can become another user (--user 4242)"},
		{"no such user", "no-such-user", Policy{}, nil, `there is no user "no-such-user"`},
		{"root by name", "root", Policy{}, nil, "user root is root"},
		{"root by number", "0", Policy{}, nil, "user 0 is root"},
		{"no number", "4294967295", Policy{}, nil, "there is no user"},
		{"no such folder", "", Policy{Write: []string{"/no/such"}}, nil, "open /no/such: no such file or directory"},
		{"a file for a folder", "", Policy{Remove: []string{"/etc/passwd"}}, nil, "open /etc/passwd: not a directory"},
		{"strictly off", "", Policy{Off: true, Strict: true}, nil, "cannot be strict with the jail turned off"},
	} {
		t.Run(c.what, func(t *testing.T) {
			o := outside(t, nobody)
			o.Policy, o.UserName = c.p, c.user
			if p := startChild(t, o, c.attr); !strings.Contains(p.Err, c.want) {
				t.Errorf("%q, want %q", p.Err, c.want)
			}
		})
	}
}

// TestHandled: whatever a version of Landlock can refuse is refused, and nothing that it does not have is asked for: the
// kernel would refuse the ruleset as a whole.
func TestHandled(t *testing.T) {
	for _, c := range []struct {
		abi            int
		fs, net, scope uint64
	}{
		{1, 0x1fff, 0, 0}, {2, 0x3fff, 0, 0}, {3, 0x7fff, 0, 0}, {4, 0x7fff, 3, 0}, {5, 0xffff, 3, 0}, {6, 0xffff, 3, 3},
		{7, 0xffff, 3, 3}, {8, 0xffff, 3, 3}, {9, 0x1ffff, 3, 3}, {10, 0x1ffff, 15, 3}, {12, 0x1ffff, 15, 3},
	} {
		want := unix.LandlockRulesetAttr{Handled_access_fs: c.fs, Handled_access_net: c.net, Scoped: c.scope}
		if got := handled(c.abi, true); got != want {
			t.Errorf("ABI %d: %+v, want %+v", c.abi, got, want)
		}
	}
	if got := handled(6, false).Scoped; got != unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET {
		t.Errorf("signals are scoped where Go's own would be: %#x", got)
	}
	last := versions[len(versions)-1].abi
	if last > knownABI {
		t.Errorf("the rights of ABI %d are never handled: knownABI is %d", last, knownABI)
	}
}

// TestPortRules: names can be looked up by UDP, and that is all that UDP is for; no port can be bound but one that the
// kernel chooses for a datagram.
func TestPortRules(t *testing.T) {
	const bindTCP, connectTCP, bindUDP, sendUDP = 1, 2, 4, 8
	for _, c := range []struct {
		abi  int
		want []portRule
	}{
		{3, nil},
		{4, []portRule{{connectTCP, 53}, {connectTCP, 443}, {connectTCP, 8443}}},
		{9, []portRule{{connectTCP, 53}, {connectTCP, 443}, {connectTCP, 8443}}},
		{10, []portRule{{connectTCP | sendUDP, 53}, {bindUDP, 0}, {connectTCP, 443}, {connectTCP, 8443}}},
	} {
		got := portRules(c.abi, []uint16{443, 0, 8443})
		if !slices.Equal(got, c.want) {
			t.Errorf("ABI %d: %v, want %v", c.abi, got, c.want)
		}
		net := handled(c.abi, true).Handled_access_net
		for _, r := range got {
			if r.access == 0 || r.access&^net != 0 {
				t.Errorf("ABI %d: the kernel refuses the rule %v, for it handles %#x", c.abi, r, net)
			}
			if r.access&bindTCP != 0 || r.port == 0 && r.access&(connectTCP|sendUDP) != 0 {
				t.Errorf("ABI %d: %v allows what the tries rely on", c.abi, r)
			}
		}
	}
}

// TestRestrictFlags: a flag that the kernel does not have makes it refuse all.
func TestRestrictFlags(t *testing.T) {
	for abi, want := range map[int]uintptr{1: 0, 6: 0, 7: 1, 8: 1 | 8, 10: 1 | 8} {
		if got := restrictFlags(abi); got != want {
			t.Errorf("ABI %d: %#x, want %#x", abi, got, want)
		}
	}
}

// What cannot be read back is not taken for granted.
func TestBlind(t *testing.T) {
	none := openThreads(t.TempDir())
	if _, err := none.read(); err == nil {
		t.Error("a folder without threads will do")
	}
	closed, err := os.CreateTemp(t.TempDir(), "status")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for what, blind := range map[string]*threads{
		"never opened": {blind: errors.New("blind")},
		"no files":     {},
		"not readable": {files: []*os.File{closed}},
	} {
		for i, err := range []error{blind.wantIDs(0, "Uid"), blind.wantNoCaps(true), blind.want("1", "NoNewPrivs"), blind.wantFilter()} {
			if err == nil {
				t.Errorf("%s: protection %d is taken for granted", what, i)
			}
		}
	}
}
