package attack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// withFakeUpstream returns a command for verify --test-instance, with a directory for temporary files that must be empty
// at the end.
func withFakeUpstream(t *testing.T, program string, more ...string) *exec.Cmd {
	t.Helper()
	dir := publicDir(t)
	cmd := exec.Command("/proc/self/exe", append([]string{"verify", "--test-instance", "--proxy", program}, more...)...)
	cmd.Env = []string{"TMPDIR=" + dir, "PATH=" + os.Getenv("PATH"), "OPENAI_API_KEY=" + canary, "HTTP_PROXY=http://127.0.0.1:1", "all_proxy=http://127.0.0.1:1"}
	t.Cleanup(func() {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v (%v)", left, err)
		}
	})
	return cmd
}

// publicDir returns a directory that other users can search.
func publicDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// awaitGone waits until process pid has ended, or is a zombie that init has not reaped.
func awaitGone(t *testing.T, pid int) {
	t.Helper()
	for limit := time.Now().Add(longEnough); ; time.Sleep(time.Millisecond) {
		state := readStatus(pid)["State"]
		if state == "" || strings.HasPrefix(state, "Z") {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("process %d is still there: %s", pid, state)
		}
	}
}

// TestInstance: no behaviour of the upstream makes the proxy fail an attempt, and nothing of either remains.
func TestInstance(t *testing.T) {
	cmd := withFakeUpstream(t, program(t, "responses-api-proxy"), "--json")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, _ := cmd.Output()
	d := &document{}
	if err := json.Unmarshal(out, d); err != nil {
		t.Fatalf("%v in %s; %s", err, out, &stderr)
	}
	d.check(t, cmd.ProcessState.ExitCode())
	want := []string(nil)
	if os.Geteuid() != 0 && strings.HasPrefix(d.detail(t, raceName), string(fail)) {
		want = []string{raceName} // the program belongs to the user, who can read it
	}
	if !slices.Equal(d.list(fail), want) || stderr.Len() > 0 {
		t.Errorf("failed: %q; %s", d.list(fail), &stderr)
	}
	d.expect(t, pass, "301 elsewhere", "307 elsewhere", "308 elsewhere", "307 to another name", "307 in a chain", "echo in headers",
		"cut while chunked", "cut, last request", "cut before its length", "client leaves, waiting", "client leaves, reading",
		"server-info file", "its directory", "other routes")
	if os.Geteuid() == 0 {
		d.expect(t, pass, raceName)
	}
	for name, want := range map[string]string{"echo in the body": "info: passed", "well-formed request": "info: forwarded; the response is 400"} {
		if got := d.detail(t, name); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s", name, got)
		}
	}
	awaitGone(t, d.PID)
}

// TestInstanceAlone: verify finds the proxy beside it.
func TestInstanceAlone(t *testing.T) {
	dir := publicDir(t)
	cmd := exec.Command(program(t, "responses-api-proxy"), "verify", "--test-instance", "--disruptive")
	cmd.Env = []string{"TMPDIR=" + dir}
	out, err := cmd.CombinedOutput()
	if onlyRace := "failed:\n  " + raceName + "\n"; err != nil && (os.Geteuid() == 0 || !strings.HasSuffix(string(out), onlyRace)) {
		t.Errorf("%v: %s", err, out)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestInstanceEnds: any end of verify ends the proxy too, a launcher's child included, and the proxy does not inherit
// verify's environment.
func TestInstanceEnds(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT} {
		t.Run(sig.String(), func(t *testing.T) {
			dir := t.TempDir()
			script := "#!/bin/sh\nenv > " + dir + "/env\nsleep 1000 &\necho $$ $! > " + dir + "/tmp\nmv " + dir + "/tmp " + dir + "/pids\nwait\n"
			if err := os.WriteFile(dir+"/launcher", []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			cmd := withFakeUpstream(t, dir+"/launcher")
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			pids := awaitFile(t, filepath.Join(dir, "pids"))
			cmd.Process.Signal(sig)
			cmd.Wait()
			if cmd.ProcessState.ExitCode() != 2 || stdout.Len() > 0 || !strings.Contains(stderr.String(), "interrupted") {
				t.Errorf("%v: %q, %q", cmd.ProcessState, &stdout, &stderr)
			}
			for _, pid := range strings.Fields(pids) {
				n, err := strconv.Atoi(pid)
				if err != nil {
					t.Fatal(err)
				}
				awaitGone(t, n)
			}
			if env := awaitFile(t, filepath.Join(dir, "env")); strings.Contains(env, canary) || strings.Contains(strings.ToLower(env), "_proxy") {
				t.Errorf("environment: %s", env)
			}
		})
	}
}

func awaitFile(t *testing.T, path string) string {
	t.Helper()
	for limit := time.Now().Add(longEnough); ; time.Sleep(time.Millisecond) {
		if text, err := os.ReadFile(path); err == nil {
			return string(text)
		}
		if time.Now().After(limit) {
			t.Fatal("there is no ", path)
		}
	}
}

// TestInstanceFails: for a proxy that does not start, no table is printed.
func TestInstanceFails(t *testing.T) {
	cmd := withFakeUpstream(t, program(t, "responses-api-proxy")+" --bogus")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "the proxy ended: responses-api-proxy: ") || strings.Contains(string(out), "An attacker") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestHostileUpstreamWorks: a proxy of ten lines fails all of these attempts.
func TestHostileUpstreamWorks(t *testing.T) {
	key := []byte(canary)
	up, err := startFakeUpstream(key)
	if err != nil {
		t.Fatal(err)
	}
	defer up.close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		req, _ := http.NewRequestWithContext(ctx, r.Method, "http://"+up.address()+r.URL.Path, bytes.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+canary)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			w.WriteHeader(500)
			return
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		for name := range res.Header {
			if name != "Content-Length" {
				w.Header().Set(name, res.Header.Get(name))
			}
		}
		w.WriteHeader(res.StatusCode)
		w.Write(text)
	}))
	defer front.Close()
	defer cancel() // or its handlers wait for the fake upstream
	tgt := &target{options: &options{port: front.Listener.Addr().(*net.TCPAddr).Port}, key: key, up: up}
	results := map[string]string{}
	for _, a := range append(hostileUpstreamAttempts(tgt), echoAttempts(tgt)...) {
		r, text := a.try()
		results[a.name] = string(r) + ": " + text
		if strings.Contains(text, canary[:shown+1]) {
			t.Errorf("%s prints the key: %s", a.name, text)
		}
	}
	for name, want := range map[string]string{
		"301 elsewhere":          "fail: followed with the key: GET to the second server",
		"307 elsewhere":          "fail: followed with the key and the body: POST ",
		"308 elsewhere":          "fail: followed with the key and the body: POST ",
		"307 to another name":    "fail: followed with the body: POST /elsewhere",
		"307 in a chain":         "fail: followed with the key and the body: POST /hop and 1 more",
		"cut while chunked":      "fail: appears complete: 200 and 8 bytes",
		"cut, last request":      "fail: appears complete: 200 and 8 bytes",
		"cut before its length":  "fail: appears complete: 200 and 500 bytes",
		"client leaves, waiting": "fail: upstream request still open after 2s",
		"client leaves, reading": "fail: upstream request still open after 2s; nothing was passed on",
		"echo in headers":        "fail: the key is in the response's Authorization and Set-Cookie",
		"echo in the body":       "info: passed",
	} {
		if !strings.HasPrefix(results[name], want) {
			t.Errorf("%s: %q, want %q", name, results[name], want)
		}
	}
}
