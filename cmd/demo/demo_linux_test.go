package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// proxies are the proxies that this test binary becomes by its name, with the real one's flags.
var proxies = map[string]newProxy{"leaky": naiveProxy, "stuck": stuckProxy}

// stuckProxy passes the first piece of a response and then nothing.
func stuckProxy(target *url.URL, key string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		naiveProxy(target, key).ServeHTTP(&stuckWriter{w, r.Context()}, r)
	})
}

type stuckWriter struct {
	http.ResponseWriter
	ctx context.Context
}

func (w *stuckWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *stuckWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	if bytes.Contains(p, []byte("quick brown fox")) {
		http.NewResponseController(w).Flush()
		<-w.ctx.Done()
	}
	return n, err
}

func TestMain(m *testing.M) {
	if proxy := proxies[filepath.Base(os.Args[0])]; proxy != nil && len(os.Args) > 4 && os.Args[1] == "--upstream-url" && os.Args[3] == "--server-info" {
		fmt.Println(naive(os.Args[2], os.Args[4], proxy))
		os.Exit(1)
	}
	proctest.Main(m, nil)
}

// A show is one run of the demo.
type show struct {
	*exec.Cmd
	tmp  string
	errs bytes.Buffer
}

// prepare returns the demo ready to run, with a temporary directory of its own that uid may write to.
func prepare(t *testing.T, uid int, args ...string) *show {
	t.Helper()
	demo := proctest.Program(t, "../demo")
	tmp, err := os.MkdirTemp(filepath.Dir(demo), "tmp-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	s := &show{Cmd: exec.Command(demo, args...), tmp: tmp}
	s.Env = append(os.Environ(), "TMPDIR="+tmp, "OPENAI_API_KEY=of-somebody-else",
		"HTTP_PROXY=http://127.0.0.1:1", "HTTPS_PROXY=http://127.0.0.1:1", "NO_PROXY=")
	s.Stderr = &s.errs
	if uid != os.Getuid() {
		if err := os.Chown(tmp, uid, uid); err != nil {
			t.Fatal(err)
		}
		s.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	return s
}

// finish waits for the demo and returns standard output and exit code.
func (s *show) finish(t *testing.T) (string, int) {
	t.Helper()
	out, err := s.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	s.checkGone(t)
	return string(out), s.ProcessState.ExitCode()
}

// checkGone fails if the demo left a file or a process.
func (s *show) checkGone(t *testing.T) {
	t.Helper()
	left, err := os.ReadDir(s.tmp)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("the demo left %s", e.Name())
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(lines) == 0 {
		t.Fatal("cannot list processes: ", err)
	}
	for _, path := range lines {
		if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, []byte(s.tmp)) {
			t.Errorf("the demo left the process %s: %q", path, text)
		}
	}
}

// checkShow is for a demo that succeeds.
func checkShow(t *testing.T, s *show, want ...string) string {
	t.Helper()
	out, code := s.finish(t)
	if code != 0 || s.errs.Len() > 0 {
		t.Errorf("exit %d: %s", code, s.errs.String())
	}
	checkScreen(t, out)
	checkContains(t, out, want...)
	if n := strings.Count(out, "the quick brown fox jumps over the lazy dog"); n != deltas {
		t.Errorf("%d pieces of text", n)
	}
	return out
}

// mayTrace reports whether this process has CAP_SYS_PTRACE, as root has outside of containers.
func mayTrace(t *testing.T) bool {
	t.Helper()
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		t.Fatal(err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_PTRACE) != 0
}

func hasSecretMemory() bool {
	fd, err := unix.MemfdSecret(unix.O_CLOEXEC)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}

// TestDemo is go run ./cmd/demo.
func TestDemo(t *testing.T) {
	strong := mayTrace(t)
	if strong && !hasSecretMemory() {
		proctest.Cannot(t, "no secret memory: root finds the key, and the demo fails")
	}
	out := checkShow(t, prepare(t, os.Getuid()), "Building the proxy", "responses-api-proxy")
	if !strong {
		proctest.Cannot(t, "no CAP_SYS_PTRACE: memory was not searched")
	}
	checkContains(t, out, "/proc/PID/mem      ✓ no key ", "✗ ", "(root)", " pages denied")
}

// TestDemoAsNobody runs the demo without privileges.
func TestDemoAsNobody(t *testing.T) {
	if os.Getuid() != 0 {
		proctest.Cannot(t, "only root can become another user")
	}
	out := checkShow(t, prepare(t, 65534, "-proxy", proctest.Program(t, command)), "denied by the kernel", "an attacker (uid 65534)")
	if strings.Contains(out, "Building") {
		t.Error("a proxy was built although one was given")
	}
	if yama() < 2 && !regexp.MustCompile(`✓ denied by the kernel +✗ [1-9][0-9]* cop`).MatchString(out) {
		t.Errorf("no copies in the ReverseProxy:\n%s", out)
	}
}

// instead prepares a demo of one of proxies in place of the real one.
func instead(t *testing.T, proxy string) *show {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), proxy)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	return prepare(t, os.Getuid(), "-proxy", link)
}

// TestLeakyProxy shows a proxy that keeps the key as the naive one does.
func TestLeakyProxy(t *testing.T) {
	s := instead(t, "leaky")
	out, code := s.finish(t)
	if code != 1 {
		t.Errorf("exit %d", code)
	}
	checkScreen(t, out+s.errs.String())
	checkContains(t, s.errs.String(), "demo: failed: the key was read from the proxy's memory\n")
	if strings.Contains(out, "nowhere to be found") {
		t.Errorf("the demo reports success:\n%s", out)
	}
}

func TestFailures(t *testing.T) {
	elsewhere := t.TempDir()
	for _, c := range []struct {
		name   string
		args   []string
		set    func(*show)
		code   int
		errors string
	}{
		{"proxy that ends", []string{"-proxy", "/bin/false"}, nil, 1, "demo: failed: the proxy ended during start-up (exit status 1)"},
		{"no proxy", []string{"-proxy", "/none"}, nil, 1, "demo: failed: cannot start the proxy: "},
		{"no go", nil, func(s *show) { s.Env = append(s.Env, "PATH=/none") }, 1, "demo: failed: no go command in PATH"},
		{"no module", nil, func(s *show) { s.Dir = elsewhere }, 1, "run the demo in a checkout"},
		{"unknown flag", []string{"-x"}, nil, 2, "run it with -h"},
		{"argument", []string{"x"}, nil, 2, `unexpected argument "x"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := prepare(t, os.Getuid(), c.args...)
			if c.set != nil {
				c.set(s)
			}
			if out, code := s.finish(t); code != c.code || strings.Contains(out, "✓") {
				t.Errorf("exit %d: %s", code, out)
			}
			checkContains(t, s.errs.String(), c.errors)
		})
	}
}

func TestHelp(t *testing.T) {
	s := prepare(t, os.Getuid(), "-h")
	if out, code := s.finish(t); code != 0 || out != usage || s.errs.Len() > 0 {
		t.Errorf("exit %d: %s%s", code, out, s.errs.String())
	}
	checkScreen(t, usage)
}

// TestStopped stops the demo in the middle of a response.
func TestStopped(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			s := instead(t, "stuck")
			out, err := s.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Start(); err != nil {
				t.Fatal(err)
			}
			awaitText(t, out)
			s.Process.Signal(sig)
			io.Copy(io.Discard, out)
			s.Wait()
			if got := s.errs.String(); s.ProcessState.ExitCode() != 1 || got != "\ndemo: failed: interrupted\n" {
				t.Errorf("%v: %q", s.ProcessState, got)
			}
			s.checkGone(t)
		})
	}
}

// TestBrokenPipe: a broken pipe leaves no child behind.
func TestBrokenPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r.Close()
	s := prepare(t, os.Getuid(), "-proxy", proctest.Program(t, command))
	s.Stdout = w
	s.Run()
	if s.ProcessState.ExitCode() != 1 {
		t.Error(s.ProcessState)
	}
	s.checkGone(t)
}

// awaitText returns once the first piece of the response has arrived.
func awaitText(t *testing.T, out io.Reader) {
	t.Helper()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "quick brown fox") {
			return
		}
	}
	t.Fatal("no response")
}
