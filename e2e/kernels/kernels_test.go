//go:build linux && kernels

package kernels

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/launch"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

const (
	key = "sk-made-up-0123456789abcdefghijklmnopqrstuvwxyz"

	// programs is where try-kernels.sh puts the two programs, with the mode of an installed one.
	programs = "/programs/"

	root, nobody, stranger = 0, 65534, 4711

	// patience is for what must happen; an emulated processor is slow.
	patience = 2 * time.Minute
)

// kernel is what the running kernel must offer, by its version and its boot parameters, not by what it reports.
type kernel struct {
	secret   bool // secret memory: since 6.5, or since 5.14 with secretmem.enable=1
	landlock int  // the version of Landlock's interface that the program must use
}

// landlocks are the first kernels of each version of Landlock's interface that the program uses, newest first.
var landlocks = []struct{ major, minor, abi int }{
	{7, 2, 10}, {7, 1, 9}, {7, 0, 8}, {6, 15, 7}, {6, 12, 6}, {6, 10, 5}, {6, 7, 4}, {6, 2, 3}, {5, 19, 2}, {5, 13, 1},
}

func running(t *testing.T) (k kernel) {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	release := unix.ByteSliceToString(name.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		t.Fatalf("release %q: %v", release, err)
	}
	since := func(m, n int) bool { return major > m || major == m && minor >= n }
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	k.secret = since(6, 5) || since(5, 14) && bytes.Contains(line, []byte("secretmem.enable=1"))
	for _, l := range landlocks {
		if since(l.major, l.minor) {
			k.landlock = l.abi
			break
		}
	}
	return k
}

// whole reports whether --protection strict must start.
func (k kernel) whole() bool { return k.secret && k.landlock >= 4 }

// stack is a proxy before a fake upstream.
type stack struct {
	*launch.Proxy
	up   *openaitest.Server
	info string
}

// start starts the program as a user, before an upstream with TLS.
func start(t *testing.T, program string, uid int, flags ...string) (*stack, error) {
	t.Helper()
	dir := proctest.Dir(t, 0o755)
	up, err := openaitest.Start(openaitest.Options{Key: key, TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(up.Close)
	ca := filepath.Join(dir, "ca.pem")
	for _, err := range []error{os.Chown(dir, uid, uid), os.WriteFile(ca, up.CAPEM(), 0o644)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s := &stack{up: up, info: filepath.Join(dir, "info.json")}
	cmd := exec.Command(program, append([]string{"--upstream-url", up.URL(), "--ca-file", ca, "--server-info", s.info}, flags...)...)
	cmd.Env = []string{}
	as(cmd, uid)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if s.Proxy, err = launch.Start(ctx, cmd, []byte(key), s.info, true); err == nil {
		t.Cleanup(s.Close)
	}
	return s, err
}

func as(cmd *exec.Cmd, uid int) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
}

func mustStart(t *testing.T, flags ...string) *stack {
	t.Helper()
	s, err := start(t, programs+"responses-api-proxy", root, flags...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// line waits for a line of the program's output.
func (s *stack) line(t *testing.T, text string) string {
	t.Helper()
	line, err := s.AwaitLine(proctest.Within(t, patience), text)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

const ask = `{"model":"gpt-5","stream":true,"input":"hello"}`

// post makes a request and returns the status and the whole response.
func post(url string) (status int, body string, err error) {
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	res, err := client.Post(url, "application/json", strings.NewReader(ask))
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

func (s *stack) url() string { return fmt.Sprintf("http://127.0.0.1:%d/v1/responses", s.Port) }

// serves checks that the whole stream of a response arrives.
func (s *stack) serves(t *testing.T) {
	t.Helper()
	status, body, err := post(s.url())
	if err != nil || status != http.StatusOK || !strings.Contains(body, "response.completed") {
		t.Fatalf("status %d, %v: %.300s", status, err, body)
	}
}

// jobCall makes a request as the child's user.
func jobCall(args []string) error {
	status, body, err := post(args[0])
	fmt.Println(status, body)
	return err
}

func TestMain(m *testing.M) { proctest.Main(m, map[string]proctest.Job{"call": jobCall}) }

// TestCallers: the kernel reports over TCP who calls.
func TestCallers(t *testing.T) {
	s := mustStart(t, "--user", "nobody", "--allow-user", fmt.Sprint(stranger))
	for uid, want := range map[int]string{stranger: "200 ", nobody: "403 ", root: "403 "} {
		cmd := proctest.Command("call", s.url())
		as(cmd, uid)
		out, err := cmd.Output()
		if text := string(out); err != nil || !strings.HasPrefix(text, want) || want == "403 " && !strings.Contains(text, "user_not_allowed") {
			t.Errorf("uid %d: %v, %.300s, want %s", uid, err, out, want)
		}
	}
}

// TestRestart: what a user has used and the audit log outlive the process.
func TestRestart(t *testing.T) {
	dir := proctest.Dir(t, 0o755)
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	audit := filepath.Join(dir, "audit.jsonl")
	flags := []string{"--user", "nobody", "--max-tokens-per-user", "1", "--budget-file", filepath.Join(dir, "budget"), "--audit", audit}
	first := mustStart(t, flags...)
	first.serves(t)
	if err := unix.Kill(first.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-first.Ended:
	case <-time.After(patience):
		t.Fatal("it does not end after SIGTERM")
	}
	second := mustStart(t, flags...)
	if status, body, err := post(second.url()); status != http.StatusTooManyRequests || !strings.Contains(body, "budget_exhausted") {
		t.Errorf("status %d, %v: %.300s; want that the budget is exhausted", status, err, body)
	}
	second.Close()
	lines, err := os.ReadFile(audit)
	if err != nil || bytes.Count(lines, []byte(`"status":200`)) != 1 {
		t.Errorf("the audit log of both has not one request with status 200: %v\n%s", err, lines)
	}
}

// TestProtections: the start lines list what this kernel gives, and what is missing with the remedy.
func TestProtections(t *testing.T) {
	k, s := running(t), mustStart(t, "--user", "nobody")
	memory := "locked"
	if k.secret {
		memory = "memfd_secret"
	}
	want := fmt.Sprintf("secret-memory=%s dumpable=no core=no start-window=closed user=nobody caps=none no-new-privs=on landlock=abi%d seccomp=on",
		memory, k.landlock)
	if got := s.line(t, " protections "); !strings.HasSuffix(got, " protections "+want) {
		t.Errorf("%s\nwant %s", got, want)
	}
	s.line(t, "every user of this host may call") // it follows the protections
	s.serves(t)                                   // all start lines were written before
	for _, c := range []struct {
		text    string
		missing bool
	}{
		{`the key lies in locked memory, which root can read`, !k.secret},
		{`secretmem.enable=1`, !k.secret},
		{`protection=landlock state=abi2 reason="this kernel's version has no rules for the network" hint="Linux 6.7 has them"`, k.landlock < 4},
		{`a protection is incomplete`, k.landlock < 4},
	} {
		if said := s.Output.Line(c.text) != ""; said != c.missing {
			t.Errorf("it says %q: %t, want %t; %s", c.text, said, c.missing, s.Output)
		}
	}
}

// TestStrict: --protection strict starts where nothing is missing. Elsewhere it names what would help.
func TestStrict(t *testing.T) {
	k := running(t)
	s, err := start(t, programs+"responses-api-proxy", root, "--user", "nobody", "--protection", "strict")
	if k.whole() {
		if err != nil {
			t.Fatal(err)
		}
		s.serves(t)
		return
	}
	want := "Linux 6.7"
	if !k.secret {
		want = "secretmem.enable=1"
	}
	var ended *launch.EndedError
	if !errors.As(err, &ended) || !strings.Contains(ended.Output, want) {
		t.Fatalf("it must refuse to start, and name %s: %v", want, err)
	}
	t.Log(ended.Output)
}

// TestAvailable: the packages' setting starts on every kernel.
func TestAvailable(t *testing.T) {
	mustStart(t, "--user", "nobody", "--protection", "available").serves(t)
}

// TestTLS: streams pass, and the upstream has seen the key once in each.
func TestTLS(t *testing.T) {
	s := mustStart(t, "--user", "nobody")
	const n = 10
	for range n {
		s.serves(t)
	}
	requests := s.up.Requests()
	if len(requests) != n || len(s.up.Faults()) > 0 {
		t.Fatalf("the upstream has seen %d requests, want %d; faults %q", len(requests), n, s.up.Faults())
	}
	for _, r := range requests {
		if got := r.Credentials(); len(got) != 1 || got[0] != "Bearer "+key {
			t.Errorf("the upstream was sent the credentials %q", got)
		}
	}
}

// TestUser: every thread is the user of --user, without capabilities.
func TestUser(t *testing.T) {
	s := mustStart(t, "--user", "nobody")
	s.serves(t)
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", s.PID))
	if err != nil || len(tasks) < 2 {
		t.Fatalf("%d threads: %v", len(tasks), err)
	}
	want := regexp.MustCompile(`(?s)Uid:\t65534\t65534\t65534\t65534\nGid:\t65534\t65534\t65534\t65534\n.*` +
		`Groups:\t *\n.*CapInh:\t0{16}\nCapPrm:\t0{16}\nCapEff:\t0{16}\nCapBnd:\t0{16}\nCapAmb:\t0{16}\nNoNewPrivs:\t1\nSeccomp:\t2\n`)
	for _, task := range tasks {
		status, err := os.ReadFile(task)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) { // it has ended
			t.Error(err)
		}
		if err == nil && !want.Match(status) {
			t.Errorf("%s: %s", task, status)
		}
	}
}

// verify runs the attack suite as a user. The attempts in fail must succeed, and no others.
func verify(t *testing.T, uid int, fail []string, flags ...string) {
	t.Helper()
	cmd := exec.Command(programs+"responses-api-proxy", append([]string{"verify", "--json"}, flags...)...)
	cmd.Env, cmd.Dir, cmd.Stderr = []string{"PATH=/bin", "TMPDIR=/tmp"}, "/", os.Stderr
	as(cmd, uid)
	out, err := cmd.Output()
	var report struct {
		Attempts []struct{ Attempt, Result string }
		Counts   map[string]int
	}
	if json.Unmarshal(out, &report) != nil || report.Counts["pass"] == 0 {
		t.Fatalf("it has not run: %v\n%s", err, out)
	}
	t.Logf("uid %d: %v", uid, report.Counts)
	var found []string
	for _, a := range report.Attempts {
		if a.Result == "fail" {
			found = append(found, a.Attempt)
		}
	}
	if !slices.Equal(found, fail) {
		t.Errorf("as uid %d: %q succeed, want %q\n%s", uid, found, fail, out)
	}
}

// TestVerify runs the attack suite against one proxy as root, as another user and as the proxy's own user.
func TestVerify(t *testing.T) {
	s := mustStart(t, "--user", "nobody")
	s.serves(t)
	for _, uid := range []int{root, stranger, nobody} {
		var fail []string
		if uid == root && !running(t).secret {
			fail = []string{"keys of any kind"}
		}
		verify(t, uid, fail, "--server-info", s.info)
	}
	s.serves(t)
}

// TestStandIn runs the attack suite with a proxy and an upstream of its own.
func TestStandIn(t *testing.T) {
	for _, uid := range []int{root, stranger} {
		var fail []string
		if uid == root && !running(t).secret {
			fail = []string{"keys of any kind", "the key itself"}
		}
		verify(t, uid, fail, "--test-instance")
	}
}

// TestStartWindow: whether the window is open depends on who can read the program's file, whatever Yama is set to. The
// last value stays until the machine ends.
func TestStartWindow(t *testing.T) {
	k := running(t)
	dir := proctest.Dir(t, 0o755)
	readable := filepath.Join(dir, "readable")
	text, err := os.ReadFile(programs + "responses-api-proxy")
	for _, err := range []error{err, os.WriteFile(readable, text, 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, scope := range []string{"0", "1", "3"} {
		t.Run("ptrace_scope="+scope, func(t *testing.T) {
			const setting = "/proc/sys/kernel/yama/ptrace_scope"
			if err := os.WriteFile(setting, []byte(scope), 0); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(setting); err != nil || strings.TrimSpace(string(got)) != scope {
				t.Fatalf("%s is %q, %v", setting, got, err)
			}
			for program, state := range map[string]string{readable: "open", programs + "responses-api-proxy": "closed"} {
				s, err := start(t, program, nobody)
				if err != nil {
					t.Fatal(err)
				}
				if got := s.line(t, " protections "); !strings.Contains(got, " start-window="+state+" ") {
					t.Errorf("%s: want start-window=%s: %s", program, state, got)
				}
				s.serves(t)
				verify(t, nobody, nil, "--server-info", s.info)
			}
			_, err := start(t, readable, nobody, "--protection", "strict")
			var ended *launch.EndedError
			if !errors.As(err, &ended) || !strings.Contains(ended.Output, "start-window=open") {
				t.Errorf("strict must refuse the open window: %v", err)
			}
			if k.whole() {
				if _, err := start(t, programs+"responses-api-proxy", nobody, "--protection", "strict"); err != nil {
					t.Errorf("strict with a closed window: %v", err)
				}
			}
		})
	}
}
