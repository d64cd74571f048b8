package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/listen"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

// activated starts the program as systemd does: with listening sockets, and a
// socket for the notification that it is ready.
type activated struct {
	t       *testing.T
	program string
	names   []string
	sockets []*os.File
	args    []string
	notify  *net.UnixConn
}

func activate(t *testing.T, names []string, listeners []net.Listener, args ...string) *activated {
	t.Helper()
	dir := t.TempDir()
	if err := build(dir); err != nil {
		t.Fatal(err)
	}
	a := &activated{t: t, program: filepath.Join(dir, "responses-api-proxy"), names: names, args: args}
	for _, l := range listeners {
		f, err := l.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		a.sockets = append(a.sockets, f)
	}
	var err error
	a.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.notify.Close() })
	return a
}

// start starts the program and returns once it has reported that it is ready.
func (a *activated) start() *exec.Cmd {
	a.t.Helper()
	cmd := a.command()
	cmd.Stderr = &strings.Builder{}
	if err := cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { cmd.Process.Kill() })
	a.awaitNotification(cmd, "READY=1")
	return cmd
}

// command is a shell that becomes the program: only then is its number known.
func (a *activated) command() *exec.Cmd {
	cmd := exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, a.program}, a.args...)...)
	cmd.Env = []string{
		"LISTEN_FDS=" + fmt.Sprint(len(a.sockets)), "LISTEN_FDNAMES=" + strings.Join(a.names, ":"),
		"NOTIFY_SOCKET=" + a.notify.LocalAddr().String(),
	}
	cmd.ExtraFiles, cmd.Stdin = a.sockets, strings.NewReader(canary)
	return cmd
}

// awaitNotification waits for a notification.
func (a *activated) awaitNotification(cmd *exec.Cmd, what string) {
	a.t.Helper()
	a.notify.SetReadDeadline(time.Now().Add(patience))
	for buf := make([]byte, 4096); ; {
		n, err := a.notify.Read(buf)
		if err != nil {
			a.t.Fatalf("it does not say %s: %v\n%s", what, err, cmd.Stderr)
		}
		if strings.Contains(string(buf[:n]), what) {
			return
		}
	}
}

// stop ends the program as systemd does.
func (a *activated) stop(cmd *exec.Cmd) {
	a.t.Helper()
	cmd.Process.Signal(syscall.SIGTERM)
	a.awaitNotification(cmd, "STOPPING=1")
	if err := cmd.Wait(); err != nil {
		a.t.Errorf("it ended with %v\n%s", err, cmd.Stderr)
	}
}

func freeListener(t *testing.T) net.Listener {
	t.Helper()
	l, err := listen.TCP(listen.Loopback(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestRestartLosesNothing checks that, while the socket stays open, no client
// loses a request by a restart: neither one that makes a connection for each, nor
// one that keeps them and makes a new one when the old is closed.
func TestRestartLosesNothing(t *testing.T) {
	t.Parallel()
	const workers, each = 8, 1250 // over 1,000 restarts cost nothing either, but take a minute
	up, err := openaitest.Start(openaitest.Options{Key: canary, Forget: true})
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	l := freeListener(t)
	a := activate(t, []string{"responses"}, []net.Listener{l}, "--upstream-url", up.URL(), "--protection=strict", "--user", "nobody")
	cmd := a.start()
	url := "http://" + l.Addr().String() + "/v1/responses"
	var failed, done atomic.Int64
	var clients sync.WaitGroup
	for i := range workers {
		transport := &http.Transport{DisableKeepAlives: i%2 == 0}
		defer transport.CloseIdleConnections()
		clients.Go(func() {
			for n := range each {
				if err := tenth(transport, url, n); err != nil {
					failed.Add(1)
					t.Log(err)
				}
				done.Add(1)
			}
		})
	}
	restarts := 0
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for next := int64(100); next < workers*each; <-tick.C {
		if done.Load() >= next {
			a.stop(cmd)
			cmd = a.start()
			restarts++
			next = done.Load() + 300
		}
	}
	clients.Wait()
	a.stop(cmd)
	if n := up.Count(); failed.Load() > 0 || n != workers*each {
		t.Errorf("%d of %d requests failed over %d restarts; the upstream saw %d", failed.Load(), workers*each, restarts, n)
	}
	if restarts < 10 {
		t.Errorf("only %d restarts", restarts)
	}
	t.Logf("%d requests, %d restarts", workers*each, restarts)
}

// tenth sends a request, of which every tenth is answered by a stream of some
// length.
func tenth(transport *http.Transport, url string, n int) error {
	req, err := http.NewRequest("POST", url, strings.NewReader(`{"input":"hi"}`))
	if err != nil {
		return err
	}
	req.Header.Set("Idempotency-Key", "k") // for net/http's client: it may try again on a new connection
	if n%10 == 0 {
		req.Header.Set("X-Fake", "sse n=5 d=5ms")
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && (res.StatusCode != 200 || n%10 == 0 && !strings.Contains(string(body), "response.completed")) {
		err = fmt.Errorf("status %d, %d bytes", res.StatusCode, len(body))
	}
	return err
}

// TestActivation checks which sockets are taken, and which are refused.
func TestActivation(t *testing.T) {
	up, err := openaitest.Start(openaitest.Options{Key: canary})
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	unixListener := func(name string) net.Listener {
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		t.Cleanup(func() { l.Close() })
		return l
	}
	tcp, unix, metrics := freeListener(t), unixListener("proxy.sock"), freeListener(t)
	a := activate(t, []string{"responses", "responses", "metrics"}, []net.Listener{tcp, unix, metrics}, "--upstream-url", up.URL())
	cmd := a.start()
	over := func(l net.Listener) *http.Transport {
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, l.Addr().Network(), l.Addr().String())
		}
		return &http.Transport{DisableKeepAlives: true, ResponseHeaderTimeout: patience, DialContext: dial}
	}
	for _, l := range []net.Listener{tcp, unix} {
		if err := tenth(over(l), "http://"+tcp.Addr().String()+"/v1/responses", 1); err != nil {
			t.Errorf("over %s: %v", l.Addr().Network(), err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ready, err := http.NewRequestWithContext(ctx, "GET", "http://"+metrics.Addr().String()+"/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := over(metrics).RoundTrip(ready); err != nil || res.StatusCode != 200 {
		t.Errorf("readyz: %v %v", res, err)
	}
	a.stop(cmd)
	if _, err := os.Lstat(unix.Addr().String()); err != nil {
		t.Errorf("systemd's socket is gone: %v", err)
	}
	for _, c := range []struct {
		what, want string
		names      []string
		sockets    []net.Listener
		args       []string
	}{
		{"the default name", "FileDescriptorName=", []string{"responses-api-proxy.socket"}, []net.Listener{tcp}, nil},
		{"two ports", "two TCP sockets", []string{"responses", "responses"}, []net.Listener{tcp, metrics}, nil},
		{"a port besides", "leave --port and --listen out", []string{"responses"}, []net.Listener{tcp}, []string{"--port", "0"}},
		{"metrics twice", "leave one out", []string{"metrics"}, []net.Listener{metrics}, []string{"--metrics", "127.0.0.1:0"}},
		{"server-info without a port", "leave it out", []string{"responses"}, []net.Listener{unix}, []string{"--server-info", "info"}},
	} {
		a := activate(t, c.names, c.sockets, append(c.args, "--upstream-url", up.URL())...)
		if text := a.refused(); !strings.Contains(text, c.want) {
			t.Errorf("%s: %q, want %q", c.what, text, c.want)
		}
	}
}

// refused returns why the program does not start.
func (a *activated) refused() string {
	cmd := a.command()
	cmd.Dir = a.t.TempDir()
	late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer late.Stop()
	out, err := cmd.CombinedOutput()
	if err == nil {
		return "it started"
	}
	return string(out)
}
