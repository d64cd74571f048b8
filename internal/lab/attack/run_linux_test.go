package attack

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/launch"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

const (
	canary = "sk-test-QpW7zKx2Lm9VbN4tRf8YcD1sHg6JuE3oAi5TeXkMvZ0wSdCyBn"
	// owner runs the proxies if root runs the tests; stranger is a third user.
	owner, stranger = 65534, 65533
	longEnough      = 30 * time.Second
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "verify" {
		os.Exit(Run(os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
	}
	if len(os.Args) > 1 && (os.Args[1] == childCommand || os.Args[1] == childRaceCommand) {
		os.Exit(Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	proctest.Main(m, nil)
}

// program returns the proxy with its verifier beside it, or the demo, which has a
// naive proxy in it.
func program(t *testing.T, name string) string {
	t.Helper()
	const dir = "../../../cmd/"
	if name == "demo" {
		return proctest.Program(t, dir+name)
	}
	proctest.Program(t, dir+"responses-api-proxy-verify")
	file := proctest.Program(t, dir+"responses-api-proxy")
	if err := os.Chmod(file, 0o711); err != nil { // as it is installed
		t.Fatal(err)
	}
	return file
}

// A rig is a running proxy with a fake upstream.
type rig struct {
	up        *openaitest.Server
	uid       int
	dir, info string
	port, pid int
	gone      chan struct{}
}

// start starts the naive proxy or ours, with more flags for ours.
func start(t *testing.T, kind string, flags ...string) *rig {
	t.Helper()
	r := &rig{uid: os.Geteuid()}
	if r.uid == 0 {
		r.uid = owner
	}
	var err error
	if r.up, err = openaitest.Start(openaitest.Options{Key: canary}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.up.Close)
	r.makeDir(t)
	var cmd *exec.Cmd
	if kind == "naive" {
		cmd = exec.Command(program(t, "demo"), "naive-proxy-of-the-demo", r.up.URL(), r.info)
	} else {
		cmd = exec.Command(program(t, "responses-api-proxy"), append(r.expand(flags), "--upstream-url", r.up.URL(), "--port", "0", "--server-info", r.info)...)
	}
	r.run(t, cmd)
	r.ask(t) // so that the key has been used
	return r
}

// makeDir makes a directory that every user can search.
func (r *rig) makeDir(t *testing.T) {
	t.Helper()
	var err error
	if r.dir, err = os.MkdirTemp("", "verify-test-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(r.dir) })
	if err := errors.Join(os.Chmod(r.dir, 0o755), os.Chown(r.dir, r.uid, r.uid)); err != nil {
		t.Fatal(err)
	}
	r.info = filepath.Join(r.dir, "info.json")
}

func (r *rig) expand(words []string) []string {
	var out []string
	for _, w := range words {
		out = append(out, strings.NewReplacer("$DIR", r.dir, "$INFO", r.info, "$PORT", strconv.Itoa(r.port), "$PID", strconv.Itoa(r.pid)).Replace(w))
	}
	return out
}

func as(cmd *exec.Cmd, uid int) {
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
}

// run starts the proxy and waits until it listens.
func (r *rig) run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Dir, cmd.Env = r.dir, []string{"GOCOVERDIR=" + r.dir}
	as(cmd, r.uid)
	ctx, cancel := context.WithTimeout(t.Context(), longEnough)
	defer cancel()
	p, err := launch.Start(ctx, cmd, []byte(canary), r.info, false)
	if err != nil {
		t.Fatal("the proxy does not serve: ", err)
	}
	t.Cleanup(p.Close)
	r.port, r.pid, r.gone = p.Port, p.PID, p.Ended
}

// ask sends a valid request.
func (r *rig) ask(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), longEnough)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", fmt.Sprintf("http://127.0.0.1:%d/v1/responses", r.port), strings.NewReader(`{"input":"hi"}`))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	io.Copy(io.Discard, res.Body)
	// 403: this user may not call
	if res.StatusCode != 200 && res.StatusCode != 403 {
		t.Fatalf("status %d", res.StatusCode)
	}
}

// verify runs verify as uid and checks every run: no part of the key longer than permitted is printed.
func (r *rig) verify(t *testing.T, uid int, args ...string) (code int, out string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", append([]string{"verify"}, r.expand(args)...)...)
	cmd.Env, cmd.Dir = []string{}, "/"
	as(cmd, uid)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(canary+"\n"), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if strings.Contains(stdout.String()+stderr.String(), canary[:shown+1]) {
		t.Errorf("more of the key is shown than may be:\n%s", stdout.String())
	}
	if stderr.Len() > 0 {
		t.Errorf("standard error: %s", stderr.String())
	}
	return cmd.ProcessState.ExitCode(), stdout.String()
}

// document runs verify with --json and checks that it prints one complete document.
func (r *rig) document(t *testing.T, uid int, args ...string) *document {
	t.Helper()
	code, out := r.verify(t, uid, append(args, "--json")...)
	d := &document{}
	dec := json.NewDecoder(strings.NewReader(out))
	dec.DisallowUnknownFields()
	if err := dec.Decode(d); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if _, err := dec.Token(); err != io.EOF {
		t.Errorf("there is more than one document: %s", out)
	}
	d.check(t, code)
	return d
}

func (d *document) check(t *testing.T, code int) {
	t.Helper()
	counts := map[result]int{pass: 0, fail: 0, skipped: 0, info: 0, rootCan: 0}
	for _, o := range d.Attempts {
		if o.Group == "" || o.Attempt == "" || o.Detail == "" || marks[o.Result] == "" {
			t.Errorf("incomplete: %+v", o)
		}
		if proves := o.Result == pass || o.Result == fail; proves != (o.Proves != "") {
			t.Errorf("proves what it does not, or not what it does: %+v", o)
		}
		counts[o.Result]++
	}
	for r, n := range counts {
		if d.Counts[r] != n {
			t.Errorf("%d are %s, counted %d", n, r, d.Counts[r])
		}
	}
	want := 0
	if counts[fail] > 0 {
		want = 1
	}
	if code != want || d.Exit != want || d.Version != 3 || len(d.Counts) != 5 {
		t.Errorf("exit code %d, want %d; %+v", code, want, d)
	}
}

// list returns the attempts with a result.
func (d *document) list(r result) (names []string) {
	for _, o := range d.Attempts {
		if o.Result == r {
			names = append(names, o.Attempt)
		}
	}
	return names
}

func (d *document) detail(t *testing.T, name string) string {
	t.Helper()
	for _, o := range d.Attempts {
		if o.Attempt == name {
			return string(o.Result) + ": " + o.Detail
		}
	}
	t.Errorf("no attempt %q", name)
	return ""
}

// expect checks results, as "name: result".
func (d *document) expect(t *testing.T, want result, names ...string) {
	t.Helper()
	for _, name := range names {
		if got := d.detail(t, name); !strings.HasPrefix(got, string(want)+": ") {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 || !hasPtrace() {
		proctest.Cannot(t, "only root can become other users and attach to their processes")
	}
}

func needsSecretMemory(t *testing.T) {
	t.Helper()
	fd, err := unix.MemfdSecret(unix.O_CLOEXEC)
	unix.Close(fd)
	if err != nil {
		proctest.Cannot(t, "no memfd_secret")
	}
}

// ways are the attempts that show whether a process permits access.
var ways = []string{"/proc/PID/environ", "/proc/PID/maps", "/proc/PID/auxv", "/proc/PID/io", "/proc/PID/fd", "/proc/PID/mem",
	"process_vm_readv", "ptrace attach", "pidfd_getfd"}

// expectEvents checks the result for performance events, or that none was possible where the kernel opens them to no
// ordinary user.
func (d *document) expectEvents(t *testing.T, want result) {
	t.Helper()
	paranoid, err := os.ReadFile("/proc/sys/kernel/perf_event_paranoid")
	if level, _ := strconv.Atoi(strings.TrimSpace(string(paranoid))); err != nil || level > 2 || openEvent(0) != nil {
		want = skipped
	}
	d.expect(t, want, "perf_event_open")
}

// requests are the attempts that a naive proxy accepts.
var requests = []string{"foreign Host", "foreign Origin", "Origin: null", "Referer", "Sec-Fetch-Site", "other routes", "other spellings", "other methods"}

// TestOurs: no attempt succeeds against our proxy, and none reaches the upstream or disturbs the proxy.
func TestOurs(t *testing.T) {
	r := start(t, "ours")
	before := r.up.Count()
	for _, attacker := range []struct {
		name                     string
		uid                      int
		pass, information, later []string
	}{
		{"same user", r.uid, append(slices.Clone(ways), requests...), []string{"the attacker"}, []string{"keys of any kind", "the key itself", "another user calls"}},
		{"another user", stranger, append(slices.Clone(ways), requests...), []string{"this user calls"}, []string{"keys of any kind"}},
		{"root", 0, append([]string{"keys of any kind", "the key itself", "the secret page", "/proc/PID/environ", "/proc/PID/fd", "dumpable", "core limit"}, requests...),
			[]string{"/proc/PID/mem", "another user calls", "the kernel's settings"}, nil},
	} {
		t.Run(attacker.name, func(t *testing.T) {
			if attacker.uid != r.uid {
				needsRoot(t)
			}
			if attacker.uid == 0 {
				needsSecretMemory(t)
			}
			d := r.document(t, attacker.uid, "--server-info", "$INFO", "--key-stdin")
			if d.Exit != 0 {
				t.Errorf("failed: %q", d.list(fail))
			}
			d.expect(t, pass, attacker.pass...)
			if attacker.uid != 0 {
				d.expectEvents(t, pass)
			}
			d.expect(t, info, attacker.information...)
			d.checkRoot(t, attacker.uid == 0)
			d.expect(t, skipped, append(attacker.later, "well-formed request", "shutdown by a page", "core by SIGABRT")...)
		})
	}
	if n := r.up.Count(); n != before {
		t.Errorf("%d requests reached the upstream", n-before)
	}
	if tracer := readStatus(r.pid)["TracerPid"]; tracer != "0" {
		t.Errorf("still attached: %s", tracer)
	}
	r.ask(t)
}

// checkRoot: what root can do is neither a pass nor a fail, and no other user can do it.
func (d *document) checkRoot(t *testing.T, root bool) {
	t.Helper()
	found := d.list(rootCan)
	if !root {
		if len(found) > 0 {
			t.Errorf("it says that root can do this: %q", found)
		}
		return
	}
	d.expect(t, rootCan, "ptrace attach", "memory, to write")
	rows := 0
	for _, o := range d.Attempts {
		if o.Group == groupRoot {
			rows++
			if o.Result != rootCan && o.Result != info || o.Proves != "" {
				t.Errorf("%+v", o)
			}
		}
	}
	if rows != 7 {
		t.Errorf("%d rows of what root can do", rows)
	}
	if !slices.Contains(found, "BPF raw tracepoint") && !slices.Contains(found, "tracefs uprobe event") {
		proctest.Cannot(t, "no kernel with BPF or uprobes")
	}
}

// TestKeyLog: the secret of a session, as text, is found.
func TestKeyLog(t *testing.T) {
	needsRoot(t)
	v := &processTarget{target: &target{options: &options{pid: os.Getpid()}}, root: true}
	if got, text := v.scanKeyLog(); got != info {
		t.Errorf("%s: %s", got, text)
	}
	label := []string{"CLIENT", "TRAFFIC", "SECRET", "0"} // assembled at run time, so that it is in memory once
	line := []byte(strings.Join(label, "_") + " " + strings.Repeat("0f", 32) + " " + strings.Repeat("1e", 48) + "\n")
	if got, text := v.scanKeyLog(); got != rootCan || !strings.Contains(text, " lines: ") {
		t.Errorf("%s: %s, with %d bytes of a line", got, text, len(line))
	}
	runtime.KeepAlive(line) // or the scan could find its memory reused
}

// TestNaive: every attempt finds what the naive proxy exposes.
func TestNaive(t *testing.T) {
	r := start(t, "naive")
	d := r.document(t, r.uid, "--port", "$PORT", "--pid", "$PID", "--key-stdin")
	d.expect(t, fail, requests...)
	if scope, _ := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope"); len(scope) == 0 || scope[0] == '0' {
		d.expect(t, fail, append(slices.Clone(ways), "keys of any kind", "the key itself", "dumpable")...)
	}
	d.expectEvents(t, fail) // whatever Yama does
	d.expect(t, pass, "/proc/PID/cmdline", "two lengths", "blank before colon")
	if r.up.Count() < len(requests) {
		t.Errorf("only %d requests reached the upstream", r.up.Count())
	}
	for _, req := range r.up.Requests()[1:] {
		if body, _ := req.Body(t.Context()); strings.Contains(string(body), "model") || strings.Contains(string(body), "input") {
			t.Errorf("a valid body was sent: %s", body)
		}
	}
	r.ask(t)
}

// TestPartsOfTheProgram: parts of the key that the program's file has are not taken for copies; others are.
func TestPartsOfTheProgram(t *testing.T) {
	r := start(t, "naive")
	const known = "ABCDEFGHIJKLMNOPQRSTUVWXYZ" // package encoding/base64 has it, in the file and in memory
	for key, want := range map[string]result{known + rand.Text(): info, canary[:20] + rand.Text(): fail} {
		v := &processTarget{target: &target{options: &options{pid: r.pid}, key: []byte(key)}}
		if got, text := v.scanKey(); got != want || !regexp.MustCompile("^0 whole, [1-9]").MatchString(text) {
			t.Errorf("%s: %s: %s, want %s", key, got, text, want)
		}
	}
}

// TestNaiveAsRoot: root finds the key of the naive proxy without knowing it.
func TestNaiveAsRoot(t *testing.T) {
	needsRoot(t)
	r := start(t, "naive")
	d := r.document(t, 0, "--server-info", "$INFO")
	d.expect(t, fail, "keys of any kind", "foreign Origin")
	d.expect(t, skipped, "the key itself")
	if got := d.detail(t, "keys of any kind"); !strings.Contains(got, fmt.Sprintf("%s… (%d characters)", canary[:shown], len(canary))) {
		t.Error(got)
	}
}

// TestTable: the table has 80 columns, and names what failed.
func TestTable(t *testing.T) {
	r := start(t, "naive")
	code, out := r.verify(t, r.uid, "--server-info", "$INFO", "--key-stdin")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	for line := range strings.Lines(out) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if strings.ContainsAny(out, "\x1b\t\r") {
		t.Errorf("more than plain text:\n%q", out)
	}
	_, list, _ := strings.Cut(out, "✗ failed:\n")
	for _, name := range requests {
		if !strings.Contains(out, "✗ "+name) || !strings.Contains(list, "  "+name+"\n") {
			t.Errorf("%q is not named:\n%s", name, out)
		}
	}
}

// TestCallers: verify reports who may call.
func TestCallers(t *testing.T) {
	needsRoot(t)
	r := start(t, "ours", "--allow-user", "0")
	d := r.document(t, 0, "--port", "$PORT")
	if got := d.detail(t, "this user calls"); !strings.Contains(got, "info: may call") {
		t.Error(got)
	}
	if got := d.detail(t, "another user calls"); !strings.Contains(got, "may not call: refused by uid") {
		t.Error(got)
	}
	if d.PID != r.pid {
		t.Errorf("process %d listens, want %d", d.PID, r.pid)
	}
	d = r.document(t, stranger, "--port", "$PORT", "--spend")
	d.expect(t, skipped, "all of them") // without --pid
	if got := d.detail(t, "this user calls"); !strings.Contains(got, "may not call") {
		t.Error(got)
	}
	if got := d.detail(t, "well-formed request"); got != "info: not forwarded: 403 user_not_allowed" {
		t.Error(got)
	}
	if d.Exit != 0 {
		t.Errorf("failed: %q", d.list(fail))
	}
}

// TestListenerPID: the process that listens is found, unless there are two.
func TestListenerPID(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Logf("%s: %v", address, err)
			continue
		}
		defer l.Close()
		port := l.Addr().(*net.TCPAddr).Port
		if got := listenerPID(port); got != os.Getpid() {
			t.Errorf("%s: process %d, want this one, %d", address, got, os.Getpid())
		}
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		other := exec.Command("cat")
		other.ExtraFiles = []*os.File{f}
		child, err := proctest.Start(t, other)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		if got := listenerPID(port); got != 0 {
			t.Errorf("%s: process %d of two", address, got)
		}
		child.End()
		l.Close()
		if got := listenerPID(port); got != 0 {
			t.Errorf("%s: process %d, and nothing listens", address, got)
		}
	}
}

// TestSocket: over a unix socket the kernel reports the pid, and web pages do not apply.
func TestSocket(t *testing.T) {
	r := start(t, "ours", "--listen", "unix:$DIR/s")
	before := r.up.Count()
	d := r.document(t, r.uid, "--socket", "$DIR/s", "--key-stdin")
	if d.Exit != 0 || d.PID != r.pid {
		t.Errorf("process %d, want %d; failed: %q", d.PID, r.pid, d.list(fail))
	}
	d.expect(t, pass, append([]string{"socket", "two lengths", "other routes"}, ways...)...)
	d.expect(t, skipped, "foreign Origin", "foreign Host", "from the network")
	if n := r.up.Count(); n != before {
		t.Errorf("%d requests reached the upstream", n-before)
	}
}

// TestSpend: one request is sent if --spend is given.
func TestSpend(t *testing.T) {
	r := start(t, "ours")
	before := r.up.Count()
	d := r.document(t, r.uid, "--server-info", "$INFO", "--spend")
	if got := d.detail(t, "well-formed request"); !strings.HasPrefix(got, "info: forwarded; the response is ") {
		t.Error(got)
	}
	if n := r.up.Count() - before; n != 1 {
		t.Errorf("%d requests reached the upstream", n)
	}
}

// TestDisruptive: the proxy ends, and leaves nothing behind.
func TestDisruptive(t *testing.T) {
	r := start(t, "ours")
	uid := r.uid
	if os.Geteuid() == 0 {
		uid = 0 // root can read the directory of the core file
	}
	d := r.document(t, uid, "--server-info", "$INFO", "--disruptive")
	if d.Exit != 0 {
		t.Errorf("failed: %q", d.list(fail))
	}
	d.expect(t, pass, "shutdown by a page")
	<-r.gone
	if pattern, _ := os.ReadFile("/proc/sys/kernel/core_pattern"); uid == 0 && bytes.Equal(pattern, []byte("core\n")) {
		d.expect(t, pass, "core by SIGABRT")
	}
	if cores, _ := filepath.Glob(filepath.Join(r.dir, "core*")); len(cores) > 0 {
		t.Errorf("%q", cores)
	}
}

// TestCrashFindsCores: a soft limit of 0 does not prevent a core file. The target is a shell, because the Go runtime
// catches the signal.
func TestCrashFindsCores(t *testing.T) {
	if pattern, _ := os.ReadFile("/proc/sys/kernel/core_pattern"); !bytes.HasPrefix(pattern, []byte("core")) {
		t.Skipf("here cores go elsewhere: %s", pattern)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil || limit.Max < 1<<30 {
		t.Skipf("cores are limited here: %+v (%v)", limit, err)
	}
	cmd := exec.Command("sh", "-c", "ulimit -S -c 0; read key; echo ready; read more")
	cmd.Dir = t.TempDir()
	child, err := proctest.Start(t, cmd)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(child.In, canary)
	if got := child.Line(); got != "ready" {
		t.Fatal(got)
	}
	got, text := (&target{options: &options{pid: cmd.Process.Pid}, key: []byte(canary)}).crash()
	child.End()
	if got != fail || !regexp.MustCompile(`^[1-9]\d* copies of the key in a core file`).MatchString(text) || strings.Contains(text, canary) {
		t.Errorf("%s: %s", got, text)
	}
}
