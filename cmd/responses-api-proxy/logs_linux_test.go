package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/linelog"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/relay"
)

// asUser runs f on a thread that is uid, and that ends with it.
func asUser(t *testing.T, uid uintptr, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: nothing else may run as uid
		for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
			if _, _, errno := unix.RawSyscall(call, uid, uid, uid); errno != 0 {
				done <- errno
				return
			}
		}
		done <- f()
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("gave up waiting for what another user does")
	}
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// awaitLine waits until a file has a line that matches.
func awaitLine(t *testing.T, path, pattern string) {
	t.Helper()
	for line, deadline := regexp.MustCompile("(?m)"+pattern), time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		text, err := os.ReadFile(path)
		if err == nil && line.Match(text) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting for %s in %s: %.2000q (%v)", pattern, path, text, err)
		}
	}
}

// TestFloodOfRefusals checks that, while a user who is not admitted sends malformed heads as fast as possible, with
// names of 200 kB, log and audit stay small, count what they leave out, and have every line of the user who is admitted.
func TestFloodOfRefusals(t *testing.T) {
	proctest.NeedRoot(t, "be two users")
	const attacker, connections, each, honest = 1002, 8, 50, 40
	dir := proctest.Dir(t, 0o777)
	log, audit := filepath.Join(dir, "log"), filepath.Join(dir, "audit")
	r := launchWith(t, clockUpstream(t, 1, time.Millisecond), "--user", "nobody", "--allow-user", "0", "--log-file", log, "--audit", audit)
	at, err := url.Parse(r.url)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(at.Port())
	if err != nil {
		t.Fatal(err)
	}
	head := []byte("POST /v1/responses HTTP/1.1\r\nHost: " + at.Host + "\r\n" + strings.Repeat("n", 200_000) + ": \x01\r\n\r\n")
	var all sync.WaitGroup
	for range connections {
		all.Go(func() {
			asUser(t, attacker, func() error {
				for range each {
					if err := refusedHead(port, head); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	client := &http.Client{Transport: &http.Transport{}, Timeout: patience}
	defer client.CloseIdleConnections()
	for range honest {
		if err := r.post(client); err != nil {
			t.Error(err)
		}
	}
	all.Wait()
	awaitLine(t, log, logTime+`WARN more failed requests suppressed within a second count=\d+ uid=1002$`)
	awaitLine(t, audit, `^\{"time":"[^"]+Z","uid":1002,"suppressed":\d+\}$`)
	if err := r.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if state, err := r.cmd.Process.Wait(); err != nil || state.ExitCode() != 0 {
		t.Errorf("it ended with %v (%v)", state, err)
	}
	if n := size(t, log) + size(t, audit); n > 1_000_000/4 {
		t.Errorf("log and audit have %d bytes", n)
	}
	checkFlood(t, audit, honest, connections*each)
}

// TestUpstreamFailuresAreNotHidden checks that, where callers are not identified, many refusals do not keep failures of
// the upstream, or of a process that has taken its port, out of the log.
func TestUpstreamFailuresAreNotHidden(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	to, err := linelog.File(path, -1)
	if err != nil {
		t.Fatal(err)
	}
	l := errorLogTo(to)
	for range 1000 {
		l.request(&relay.Request{}, apierror.New(apierror.MalformedRequest, ""))
	}
	for range 1000 {
		l.request(&relay.Request{}, apierror.New(apierror.UpstreamNotTrusted, "127.0.0.1:9200 belongs to uid 1002"))
	}
	l.close()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(text, []byte("belongs to uid 1002\"\n")); n < 10 || n > 200 {
		t.Errorf("%d of 1000 lines about the upstream", n)
	}
	if n := bytes.Count(text, []byte("code=malformed_request\n")); n < 10 || n > 200 {
		t.Errorf("%d of 1000 lines about refusals", n)
	}
}

// refusedHead sends a head, and returns an error unless a short refusal is the response.
func refusedHead(port int, head []byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0) // on this thread
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "attacker")
	defer f.Close()
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	if _, err := f.Write(head); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(f), nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 400 || len(body) > 400 || !bytes.Contains(body, []byte("malformed_request")) {
		return fmt.Errorf("status %d, %d bytes: %.200q (%v)", res.StatusCode, len(body), body, err)
	}
	return nil
}

// checkFlood checks that the audit has every request of uid 0, and has or counts every refusal of uid 1002.
func checkFlood(t *testing.T, path string, honest, refused int) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var good, written, suppressed int
	for line := range bytes.Lines(text) {
		var e struct {
			UID                uint32
			Status, Suppressed int
		}
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		switch {
		case e.UID == 0 && e.Status == 200:
			good++
		case e.UID == 1002 && e.Status == 400:
			written++
		case e.UID == 1002:
			suppressed += e.Suppressed
		}
	}
	if good != honest || written+suppressed != refused || suppressed == 0 {
		t.Errorf("%d lines of the honest user, want %d; %d refusals and %d suppressed, want %d in all", good, honest, written, suppressed, refused)
	}
}

// limitFiles sets RLIMIT_FSIZE of the proxy, as prlimit(1) does, as its own user. The hard limit stays: not every root may
// raise that again.
func (r *running) limitFiles(t *testing.T, limit uint64) {
	t.Helper()
	asUser(t, nobody, func() error {
		return unix.Prlimit(r.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: limit, Max: unix.RLIM_INFINITY}, nil)
	})
}

// TestFilesLimitedFromOutside checks that, when a process of the proxy's own uid stops its audit and its log by prlimit,
// the proxy serves on, its log and its metrics show it, and the waiting records are written afterwards. Nothing in the
// proxy can prevent the limit.
func TestFilesLimitedFromOutside(t *testing.T) {
	proctest.NeedRoot(t, "be two users")
	dir := proctest.Dir(t, 0o777)
	audit, fifo := filepath.Join(dir, "audit"), filepath.Join(dir, "log")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(fifo, os.O_RDWR|unix.O_NONBLOCK, 0) // the limit does not hold for pipes
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	r := launchWith(t, clockUpstream(t, 1, time.Millisecond), "--user", "nobody", "--audit", audit, "--log-file", fifo, "--metrics", "127.0.0.1:0")
	client := &http.Client{Transport: &http.Transport{}, Timeout: patience}
	defer client.CloseIdleConnections()
	post := func() {
		t.Helper()
		if err := r.post(client); err != nil {
			t.Error(err)
		}
	}
	post()
	awaitLine(t, audit, `"status":200`)
	before := size(t, audit)
	r.limitFiles(t, 0)
	post()
	if n := r.value(t, "responses_api_proxy_audit_write_failures_total"); n == 0 {
		t.Error("no failed write was counted")
	}
	want := regexp.MustCompile(logTime + `WARN audit lines cannot be written, and are queued: file too large$`)
	log.SetReadDeadline(time.Now().Add(patience))
	if lines := bufio.NewScanner(log); !lines.Scan() || !want.MatchString(lines.Text()) {
		t.Errorf("the log: %q, %v; want %s", lines.Text(), lines.Err(), want)
	}
	post()
	if n := size(t, audit); n != before {
		t.Fatalf("the audit has %d bytes, and had %d: this tests nothing", n, before)
	}
	r.limitFiles(t, unix.RLIM_INFINITY)
	awaitLine(t, audit, `(?s)("status":200.*){3}`)
}

// TestLogLimitedFromOutside checks the same of the log, whose failure only the metrics can show.
func TestLogLimitedFromOutside(t *testing.T) {
	proctest.NeedRoot(t, "be two users")
	log := filepath.Join(proctest.Dir(t, 0o777), "log")
	r := launchWith(t, clockUpstream(t, 1, time.Millisecond), "--user", "nobody", "--log-file", log, "--metrics", "127.0.0.1:0")
	client := &http.Client{Transport: &http.Transport{}, Timeout: patience}
	defer client.CloseIdleConnections()
	refuse := func() {
		t.Helper()
		res, err := client.Get(strings.TrimSuffix(r.url, "/v1/responses"))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 403 {
			t.Errorf("status %d", res.StatusCode)
		}
	}
	refuse()
	awaitLine(t, log, `route_not_allowed`)
	r.limitFiles(t, 0)
	refuse()
	if n := r.value(t, "responses_api_proxy_log_write_failures_total"); n == 0 {
		t.Error("no failed write was counted")
	}
	if err := r.post(client); err != nil {
		t.Error(err)
	}
	r.limitFiles(t, unix.RLIM_INFINITY)
	awaitLine(t, log, logTime+`WARN log lines cannot be written, and are queued: file too large$`)
	awaitLine(t, log, logTime+`WARN the log is written again; 0 lines were dropped$`)
}

// TestCertificateForgesNoLines checks that the names in a certificate, which come from the network, unverified, cannot
// add lines to the log.
func TestCertificateForgesNoLines(t *testing.T) {
	const forged = "a.example\nresponses-api-proxy: protections: forged\r\x1b]0;title\a\x1b[2J"
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{forged}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp4", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			go func() {
				io.Copy(io.Discard, c)
				c.Close()
			}()
		}
	}()
	dir := t.TempDir()
	ca, log := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "log")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	r := launchWith(t, "https://localhost:"+portOf(l)+"/v1/responses", "--ca-file", ca, "--log-file", log)
	res, err := http.Post(r.url, "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if res.StatusCode != 502 || bytes.Contains(body, []byte("a.example")) {
		t.Errorf("status %d, %q", res.StatusCode, body)
	}
	awaitLine(t, log, logTime+`ERROR request failed code=upstream_tls_failed .*a\.example`)
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Count(text, []byte("\n")) != 1 || !bytes.Contains(text, []byte(`a.example\nresponses-api-proxy: protections: forged\r\x1b]0;title\a\x1b[2J`)) {
		t.Errorf("the log: %q", text)
	}
	for _, c := range string(text[:len(text)-1]) {
		if !unicode.IsPrint(c) {
			t.Errorf("the log has %q", c)
		}
	}
}

// TestComponents checks that needs are collected and components started in the order in which they were opened, that
// they are closed in the reverse order, and that none is started after one that fails.
func TestComponents(t *testing.T) {
	var all components
	var got []string
	note := func(what string, i int) { got = append(got, fmt.Sprint(what, i)) }
	for i := range 3 {
		all.needs.Ports = append(all.needs.Ports, uint16(i))
		all.onStart(func() error { note("start", i); return nil })
		all.onHangup(func() { note("hangup", i) })
		all.onClose(func() { note("close", i) })
	}
	if !slices.Equal(all.needs.Ports, []uint16{0, 1, 2}) {
		t.Errorf("the policy has ports %v", all.needs.Ports)
	}
	failure := errors.New("no")
	all.onStart(func() error { return failure })
	all.onStart(func() error { note("start", 4); return nil })
	if err := all.start(); err != failure {
		t.Errorf("starting returns %v", err)
	}
	for _, hangup := range all.hangups {
		hangup()
	}
	all.close()
	all.close()
	want := []string{"start0", "start1", "start2", "hangup0", "hangup1", "hangup2", "close2", "close1", "close0"}
	if !slices.Equal(got, want) {
		t.Errorf("called %v, want %v", got, want)
	}
}

// TestFailedStartClosesAll checks that a start that fails closes everything that it has opened: sockets, files, the
// notifier.
func TestFailedStartClosesAll(t *testing.T) {
	dir := t.TempDir()
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary)
	cmd.Args, cmd.Dir = []string{"failed-start"}, dir
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(dir, "notify"))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := string(out); got != "cannot write --server-info\n" {
		t.Errorf("left open: %s", got)
	}
	for _, gone := range []string{"s"} {
		if _, err := os.Lstat(filepath.Join(dir, gone)); err == nil {
			t.Errorf("%s is still there", gone)
		}
	}
}

// failedStart is a program: it opens a service that fails at its last step, closes it, and prints which descriptors are
// left.
func failedStart() {
	must(os.WriteFile("file", nil, 0o600))
	opts, err := parseFlags([]string{"--port", "0", "--listen", "unix:s", "--log-file", "log", "--dump-dir", "dumps", "--audit", "audit", "--metrics", "127.0.0.1:0",
		"--max-tokens-per-user", "1", "--budget-file", "budget", "--allow-user", "self", "--upstream-url", "http://127.0.0.1:1/v1/responses", "--server-info", "file/info"})
	must(err)
	k, err := key.Open(-1, key.Config{Exchange: &key.Exchange{TokenFile: "none"}}) // reads nothing
	must(err)
	out, err := unix.Dup(1) // the log's descriptors are given back
	must(err)
	l, err := net.Listen("tcp4", "127.0.0.1:0") // Go's poller stays open
	must(err)
	l.Close()
	before := descriptors()
	to, err := linelog.Standard(2)
	must(err)
	errs := errorLogTo(to)
	s := newService(opts, errs, k)
	failure := s.open()
	s.components.close()
	errs.close()
	report, _, _ := strings.Cut(fmt.Sprint(failure), ":")
	for fd, name := range descriptors() {
		if _, known := before[fd]; !known {
			report += fmt.Sprintf("\n%s is %s", fd, name)
		}
	}
	unix.Write(out, []byte(report+"\n"))
}

// descriptors are the open ones of this process, and what they are.
func descriptors() map[string]string {
	all := map[string]string{}
	dirs, err := os.ReadDir("/proc/self/fd")
	must(err)
	for _, d := range dirs {
		if name, err := os.Readlink("/proc/self/fd/" + d.Name()); err == nil { // but for the one that reads the directory
			all[d.Name()] = name
		}
	}
	return all
}
