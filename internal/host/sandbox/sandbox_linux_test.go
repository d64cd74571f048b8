package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

const nobody = 65534

// TestMain runs jobs in child processes, because nothing that this package does can be undone in the test process.
func TestMain(m *testing.M) {
	proctest.Main(m, map[string]proctest.Job{
		"enforce": jobEnforce, "serve": jobServe, "abort": jobAbort, "attack": jobAttack, "count": jobCount, "window": jobWindow,
	})
}

func withCgo() bool {
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_GETPID, 0, 0, 0)
	return errno == syscall.ENOTSUP
}

// childConfig is the configuration of a child.
type childConfig struct {
	Policy
	Deny     [][2]uint32 // system calls that an outer filter refuses, and the errno
	Upstream string      // a server with a test CA, and its port
	CA       string
	Port     uint16
	DNS      string // a name server without names
	Notify   string // a unix socket, as systemd's
	Other    string // a listener that no rule allows
	Outside  string // a file of the child's own that no rule names
	Work     bool   // has a directory to write in
	Attack   bool
	Dumpable bool // emulates fs.suid_dumpable=1 for a process that changes its user
}

// childResult is the child's report.
type childResult struct {
	Err, Report string
	Missing     []string
	Work        []string          // failures of its work, before and after the attacks
	Attacks     map[string]string // the errno of each
	UDP         map[string]string // the errno of each way to reach Other by UDP
}

// child is a sandboxed process, which exits when its input is closed.
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
		t.Fatalf("the child printed %q: %v", line, err)
	}
	return p
}

// outside creates the files and servers for a child whose final user is uid.
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
	o.Notify = filepath.Join(directory(t, uid), "notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: o.Notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { notify.Close() })
	if err := os.Chmod(o.Notify, 0o666); err != nil {
		t.Fatal(err)
	}
	o.Outside = file(t, directory(t, uid))
	return o
}

// nameServer responds to every query with NXDOMAIN. Its port is 53, as that of all name servers; the address is one of
// 127.0.0.0/8 that no other test should use.
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
			buf[2], buf[3] = 0x84, 0x03                      // an authoritative response: NXDOMAIN
			c.WriteTo(append([]byte(nil), buf[:n]...), from) // the response repeats the question
		}
	}()
	return c.LocalAddr().String()
}

// directory returns a new directory in which uid may write.
func directory(t *testing.T, uid int) string {
	t.Helper()
	dir := proctest.Dir(t, 0o700)
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// file makes a file in a directory.
func file(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// readable makes a link to a file.
func readable(t *testing.T, uid int) string {
	t.Helper()
	link := filepath.Join(directory(t, uid), "link")
	target := file(t, directory(t, uid))
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

// needNetworkRules returns Landlock's ABI, and skips a test on a kernel where it is incomplete.
func needNetworkRules(t *testing.T) (abi int) {
	t.Helper()
	abi, err := landlockABI()
	if err != nil || abi < netABI {
		proctest.Cannot(t, fmt.Sprintf("Landlock's version is %d (%v)", abi, err))
	}
	return abi
}

// find returns a user by name or number; nil for "".
func find(t *testing.T, name string) *User {
	t.Helper()
	if name == "" {
		return nil
	}
	found, err := user.Lookup(name)
	if err != nil {
		found, err = user.LookupId(name)
	}
	if err != nil {
		found = &user.User{Username: name, Uid: name, Gid: name}
	}
	uid, err := strconv.Atoi(found.Uid)
	gid, err2 := strconv.Atoi(found.Gid)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return &User{found.Username, uid, gid}
}

// TestEnforce: for every initial user, each protection is fully in force on every thread; the work succeeds, every
// attack is refused, and the work succeeds after that.
func TestEnforce(t *testing.T) {
	proctest.NeedRoot(t, "become other users")
	lock := fmt.Sprintf("landlock=abi%d", needNetworkRules(t))
	t.Log(lock)
	for _, c := range []struct {
		what    string
		user    string
		uid     uint32 // the final one
		attr    *syscall.SysProcAttr
		want    string
		keepBnd bool
	}{
		{"root becomes nobody", "nobody", nobody, nil, "user=nobody caps=none no-new-privs=on " + lock + " seccomp=on", false},
		{"root becomes a number", "4242", 4242, nil, "user=4242 caps=none no-new-privs=on " + lock + " seccomp=on", false},
		{"root stays", "", 0, nil, "user=root(the process is still root; name another user with --user) caps=none no-new-privs=on " + lock + " seccomp=on", false},
		{"an ordinary user", "", nobody, as(nobody), "user=nobody caps=none no-new-privs=on " + lock + " seccomp=on", true},
		{"a namespace's root", "4242", 4242, inNamespace(0), "user=4242 caps=none no-new-privs=on " + lock + " seccomp=on", false},
		{"a namespace's root becomes its nobody", "65534", nobody, inNamespace(0), "user=nobody caps=none no-new-privs=on " + lock + " seccomp=on", false},
		{"a namespace's user", "", 4242, inNamespace(4242), "user=4242 caps=none no-new-privs=on " + lock + " seccomp=on", true},
	} {
		t.Run(c.what, func(t *testing.T) {
			o := outside(t, int(c.uid))
			dir := directory(t, int(c.uid))
			o.User, o.Write, o.Work, o.Attack = find(t, c.user), []string{dir}, true, true
			o.Read = []string{readable(t, int(c.uid)), "/no/such/file"}
			p := startChild(t, o, c.attr)
			if p.Err != "" || p.Report != c.want {
				t.Fatalf("%q (%s), want %q", p.Report, p.Err, c.want)
			}
			checkThreads(t, p.pid, c.uid, c.keepBnd)
			checkChild(t, p)
			if text, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(text) != "second" {
				t.Errorf("the file contains %q: %v", text, err)
			}
		})
	}
}

// checkChild checks the child's work and the result of its attacks.
func checkChild(t *testing.T, p *child) {
	t.Helper()
	for _, w := range p.Work {
		t.Errorf("work: %s", w)
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

// checkUDP checks the ports that the process can send to by UDP: all of them, until Landlock has a right for UDP.
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

// checkThreads checks every thread's status in /proc.
func checkThreads(t *testing.T, pid int, uid uint32, keepBnd bool) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) < 8 {
		t.Fatalf("%d threads: %v", len(files), err)
	}
	// The kernel makes root the owner of an undumpable process's files.
	if info, err := os.Stat(fmt.Sprintf("/proc/%d/environ", pid)); err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("it can be dumped: %v", err)
	}
	none := "0000000000000000"
	ids := fmt.Sprintf("%d %[1]d %[1]d %[1]d", uid)
	want := map[string]string{"Seccomp": "2", "NoNewPrivs": "1", "CapInh": none, "CapPrm": none, "CapEff": none, "CapAmb": none, "Uid": ids, "Gid": ids}
	if !keepBnd {
		want["CapBnd"] = none
	}
	for _, name := range files {
		f, err := os.Open(name)
		if errors.Is(err, unix.ENOENT) {
			continue // the thread has ended
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
			if got := st.value(k); got != v {
				t.Errorf("%s: %s is %q, want %q", name, k, got, v)
			}
		}
		if g := st.value("Groups"); g != "" && uid != 0 {
			t.Errorf("%s: groups %q", name, g)
		}
	}
}

// TestEnforceWithoutWriting: without a directory to write in, nothing can be written, and files can only be removed
// from the directories of Remove.
func TestEnforceWithoutWriting(t *testing.T) {
	proctest.NeedRoot(t, "become other users")
	needNetworkRules(t)
	o := outside(t, nobody)
	dir := directory(t, nobody)
	removed := file(t, dir)
	o.User, o.Remove, o.Attack = find(t, "nobody"), []string{dir}, true
	p := startChild(t, o, nil)
	if p.Err != "" || len(p.Missing) != 0 {
		t.Fatal(p.Err, p.Missing)
	}
	checkChild(t, p)
	for path, want := range map[string]bool{removed: false, o.Outside: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestAttacksSucceedOutside is the control of the tests above: without the sandbox most attacks succeed.
func TestAttacksSucceedOutside(t *testing.T) {
	proctest.NeedRoot(t, "become other users")
	o := outside(t, 0)
	dir := directory(t, 0)
	o.Off, o.Attack, o.Work, o.Write = true, true, true, []string{dir}
	p := startChild(t, o, nil)
	if want := "user=root(the process is still root; name another user with --user) caps=none no-new-privs=on landlock=missing(turned off) seccomp=missing(turned off)"; p.Err != "" || p.Report != want {
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

// TestMissing: Enforce reports each protection that the kernel, or an outer filter, refuses, with the reason.
func TestMissing(t *testing.T) {
	proctest.NeedRoot(t, "become other users")
	deny := func(call uint32, errno unix.Errno) [][2]uint32 { return [][2]uint32{{call, uint32(errno)}} }
	for _, c := range []struct {
		what string
		deny [][2]uint32
		want string
	}{
		{"no Landlock in the kernel", deny(unix.SYS_LANDLOCK_CREATE_RULESET, unix.ENOSYS), "landlock: not supported by this kernel"},
		{"Landlock off at boot", deny(unix.SYS_LANDLOCK_CREATE_RULESET, unix.EOPNOTSUPP), "landlock: disabled at boot; add landlock to lsm="},
		{"Landlock refused", deny(unix.SYS_LANDLOCK_RESTRICT_SELF, unix.EPERM), "landlock: landlock_restrict_self: operation not permitted"},
		{"Landlock pretended", deny(unix.SYS_LANDLOCK_RESTRICT_SELF, 0), "landlock: it had no effect: a directory could still be opened (<nil>)"},
		{"no descriptor left", deny(unix.SYS_LANDLOCK_CREATE_RULESET, unix.EMFILE),
			"landlock: landlock_create_ruleset: too many open files; raise the limit of open files (ulimit -n)"},
		{"seccomp refused", deny(unix.SYS_SECCOMP, unix.EPERM), "seccomp: seccomp: operation not permitted"},
		{"no seccomp", deny(unix.SYS_SECCOMP, unix.ENOSYS), "seccomp: seccomp: function not implemented"},
		{"seccomp pretended", deny(unix.SYS_SECCOMP, 0), "seccomp: thread "},
		{"capabilities refused", deny(unix.SYS_CAPSET, unix.EPERM), "caps: capset: operation not permitted"},
		{"capabilities pretended", deny(unix.SYS_CAPSET, 0), "caps: thread "},
	} {
		t.Run(c.what, func(t *testing.T) {
			o := outside(t, nobody)
			o.Deny = c.deny
			if !strings.HasPrefix(c.want, "caps: ") { // leaving root drops them without capset
				o.User = find(t, "nobody")
			}
			p := startChild(t, o, nil)
			if p.Err != "" || len(p.Missing) == 0 || !slices.ContainsFunc(p.Missing, func(m string) bool { return strings.HasPrefix(m, c.want) }) {
				t.Errorf("%q (%s), want %q", p.Missing, p.Err, c.want)
			}
			for _, w := range p.Work {
				t.Errorf("work: %s", w)
			}
		})
	}
}

// TestGroupsPretended: root's groups that are still there are reported.
func TestGroupsPretended(t *testing.T) {
	proctest.NeedRoot(t, "become other users")
	o := outside(t, nobody)
	o.Deny, o.User = [][2]uint32{{unix.SYS_SETGROUPS, 0}}, find(t, "nobody")
	p := startChild(t, o, &syscall.SysProcAttr{Credential: &syscall.Credential{Groups: []uint32{4, 24}}})
	kept := func(m string) bool {
		return strings.HasPrefix(m, "user: thread ") && strings.HasSuffix(m, " has Groups 4 24")
	}
	if p.Err != "" || !slices.ContainsFunc(p.Missing, kept) {
		t.Errorf("%q (%s), want the groups among them", p.Missing, p.Err)
	}
}

// TestDumpableMeanwhile: a process that other processes of its user could attach to during Enforce is reported as
// exposed.
func TestDumpableMeanwhile(t *testing.T) {
	proctest.NeedRoot(t, "become other users")
	needNetworkRules(t)
	o := outside(t, nobody)
	o.Dumpable = true
	attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	p := startChild(t, o, attr)
	if want := "user: processes of that user could attach during the change of user"; p.Err != "" || len(p.Missing) != 1 || !strings.HasPrefix(p.Missing[0], want) {
		t.Errorf("%q (%s), want %q", p.Missing, p.Err, want)
	}
	if got, err := unix.Open(fmt.Sprintf("/proc/%d/mem", p.pid), unix.O_RDONLY, 0); err == nil {
		defer unix.Close(got)
		var st unix.Stat_t
		if err := unix.Fstat(got, &st); err != nil || st.Uid != 0 {
			t.Errorf("it is still dumpable: its memory belongs to %d (%v)", st.Uid, err)
		}
	}
}

// TestCgo: with cgo, as under the race detector, no protection is applied in part, since the C library does not work
// under the filter. All of them are missing, and the work succeeds.
func TestCgo(t *testing.T) {
	if !withCgo() {
		t.Skip("this test binary is without cgo, as the proxy is")
	}
	proctest.NeedRoot(t, "become other users")
	o := outside(t, nobody)
	o.User = find(t, "nobody")
	p := startChildOf(t, "/proc/self/exe", o, nil)
	why := "(" + errCgo.Error() + ")"
	if !strings.HasPrefix(p.Report, "user=nobody caps=missing(") || !strings.HasSuffix(p.Report, "seccomp=missing"+why) || strings.Contains(p.Report, "\n") || p.Err != "" {
		t.Errorf("%q (%s)", p.Report, p.Err)
	}
	for _, w := range p.Work {
		t.Errorf("work: %s", w)
	}
}

// TestMistakes: an impossible policy is an error with a hint.
func TestMistakes(t *testing.T) {
	proctest.NeedRoot(t, "become other users")
	for _, c := range []struct {
		what string
		p    Policy
		attr *syscall.SysProcAttr
		deny [][2]uint32
		want string
	}{
		{"not root", Policy{User: find(t, "4242")}, as(nobody), nil, "only root can become another user (--user 4242)"},
		{"no such directory", Policy{Write: []string{"/no/such"}}, nil, nil, "open /no/such: no such file or directory"},
		{"a file as directory", Policy{Remove: []string{"/etc/passwd"}}, nil, nil, "open /etc/passwd: not a directory"},
		{"a rule that is refused", Policy{}, nil, [][2]uint32{{unix.SYS_LANDLOCK_ADD_RULE, uint32(unix.EPERM)}}, "cannot add a Landlock rule for "},
	} {
		t.Run(c.what, func(t *testing.T) {
			if c.deny != nil {
				needNetworkRules(t)
			}
			o := outside(t, nobody)
			o.Policy, o.Deny = c.p, c.deny
			if p := startChild(t, o, c.attr); !strings.Contains(p.Err, c.want) {
				t.Errorf("%q, want %q", p.Err, c.want)
			}
		})
	}
}

// TestHandled: everything that a version of Landlock can refuse is handled, and nothing that it lacks: the kernel would
// refuse the whole ruleset.
func TestHandled(t *testing.T) {
	for _, c := range []struct {
		abi            int
		fs, net, scope uint64
	}{
		{1, 0x1fff, 0, 0}, {2, 0x3fff, 0, 0}, {3, 0x7fff, 0, 0}, {4, 0x7fff, 3, 0}, {5, 0xffff, 3, 0}, {6, 0xffff, 3, 3},
		{7, 0xffff, 3, 3}, {8, 0xffff, 3, 3}, {9, 0x1ffff, 3, 3}, {10, 0x1ffff, 15, 3}, {12, 0x1ffff, 15, 3},
	} {
		want := unix.LandlockRulesetAttr{Handled_access_fs: c.fs, Handled_access_net: c.net, Scoped: c.scope}
		if got, _ := handled(c.abi, true); got != want {
			t.Errorf("ABI %d: %+v, want %+v", c.abi, got, want)
		}
	}
	if got, _ := handled(6, false); got.Scoped != unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET {
		t.Errorf("signals are scoped although Go's threads need them: %#x", got.Scoped)
	}
	last := versions[len(versions)-1].abi
	if last > knownABI {
		t.Errorf("the rights of ABI %d are never handled: knownABI is %d", last, knownABI)
	}
}

// TestPortRules: UDP allows DNS queries only; no port can be bound except one that the kernel chooses for a datagram
// socket.
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
		attr, _ := handled(c.abi, true)
		net := attr.Handled_access_net
		got := portRules(net, []uint16{443, 0, 8443})
		if !slices.Equal(got, c.want) {
			t.Errorf("ABI %d: %v, want %v", c.abi, got, c.want)
		}
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

// TestRestrictFlags: the kernel refuses a call with a flag that it lacks.
func TestRestrictFlags(t *testing.T) {
	for abi, want := range map[int]uintptr{1: 0, 6: 0, 7: 1, 8: 1 | 8, 10: 1 | 8} {
		if _, got := handled(abi, true); got != want {
			t.Errorf("ABI %d: %#x, want %#x", abi, got, want)
		}
	}
}

// TestBlind: an unreadable status is never reported as a protection.
func TestBlind(t *testing.T) {
	if err := openThreads(t.TempDir()).read().err; err == nil {
		t.Error("a directory without threads is accepted")
	}
	closed, err := os.CreateTemp(t.TempDir(), "status")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	part := t.TempDir()
	for _, tid := range []string{"/1", "/2"} {
		if err := os.Mkdir(part+tid, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(part+"/1/status", []byte("Seccomp:\t2\n"), 0o600), os.Symlink("status", part+"/2/status")); err != nil {
		t.Fatal(err)
	}
	filtered := statuses{all: []status{"\nSeccomp:\t2\nSeccomp_filters:\t1\n"}}
	for what, files := range map[string]threads{"never opened": openThreads("/no/such"), "no files": {}, "not readable": {files: []*os.File{closed}}, "one not opened": openThreads(part)} {
		blind := files.read()
		for i, err := range []error{
			blind.checkIDs(0, "Uid"), blind.checkNoCaps(true), blind.check("1", "NoNewPrivs"),
			blind.checkFilter(statuses{all: []status{"\n"}}), filtered.checkFilter(blind),
		} {
			if err == nil {
				t.Errorf("%s: protection %d is reported without proof", what, i)
			}
		}
	}
	for _, filters := range []string{"0", "2", "x"} {
		start := statuses{all: []status{status("\nSeccomp_filters:\t" + filters + "\n")}}
		if err := filtered.checkFilter(start); (err == nil) != (filters == "0") {
			t.Errorf("from %s filters to 1: %v", filters, err)
		}
	}
}
