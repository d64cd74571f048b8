package server

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/listen"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/metrics"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// long is far more than anything here takes on a loaded machine.
const long = 30 * time.Second

const numbers = "numbers_total 1\n"

func healthy() error { return nil }

// probes are the program's pages.
func probes(healthy, ready func() error) []Page {
	return []Page{
		{Path: "/metrics", ContentType: metrics.ContentType, Body: func() []byte { return []byte(numbers) }},
		{Path: "/healthz", Check: healthy},
		{Path: "/readyz", Check: ready},
	}
}

func newPageServer(log func(string), pages []Page) *pageServer {
	return &pageServer{pages: pages, log: log, headTimeout: 5 * time.Second, writeTimeout: 10 * time.Second}
}

// openPages opens the socket at addr.
func openPages(addr string) (net.Listener, error) {
	a, err := listen.ParseAddress(addr)
	if err != nil {
		return nil, err
	}
	return listen.Listen(a, listen.UnixConfig{})
}

// startPages serves pages at addr until the test ends, with time limits that
// change may shorten.
func startPages(t *testing.T, addr string, pages []Page, change func(*pageServer)) (s *pageServer, at string) {
	t.Helper()
	l, err := openPages(addr)
	if err != nil {
		t.Fatal(err)
	}
	s = newPageServer(func(line string) { t.Error(line) }, pages)
	if change != nil {
		change(s)
	}
	served := make(chan error, 1)
	go func() { served <- s.serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(l.Close(), <-served); err != nil {
			t.Error(err)
		}
	})
	if strings.HasPrefix(addr, "unix:") {
		return s, addr
	}
	return s, l.Addr().String()
}

// dial connects and sends text.
func dial(t *testing.T, at, text string) net.Conn {
	t.Helper()
	network := "tcp"
	if path, ok := strings.CutPrefix(at, "unix:"); ok {
		network, at = "unix", path
	}
	c, err := net.Dial(network, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(long))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return c
}

// all reads until the server closes the connection.
func all(t *testing.T, c net.Conn) string {
	t.Helper()
	text, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the connection stays open; %d bytes", len(text))
	}
	return string(text)
}

const get = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"

// request is one as the parser of heads would give it, but for its checks.
func request(method, target, host string) *http1.Request {
	r := &http1.Request{Method: []byte(method), Target: []byte(target)}
	r.Fields = []http1.Field{{Name: []byte("Host"), Value: []byte(host)}}
	return r
}

// ask has pages respond as if the request had come over TCP, or a unix socket.
func ask(t *testing.T, pages []Page, network, method, target, host string) (*http.Response, string) {
	t.Helper()
	return parsed(t, string(bytes.Join(newPageServer(nil, pages).respond(request(method, target, host), nil, network == "unix"), nil)))
}

func parsed(t *testing.T, text string) (*http.Response, string) {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(text)), nil)
	if err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// A client that sends no Host at all is taken over a unix socket, not over TCP.
func TestNoHost(t *testing.T) {
	for addr, want := range map[string]string{"127.0.0.1:0": " 403 ", proctest.UnixAddr(t): " 200 "} {
		_, at := startPages(t, addr, probes(healthy, healthy), nil)
		for _, text := range []string{"GET /healthz HTTP/1.0\r\n\r\n", "GET /healthz HTTP/1.1\r\nHost:\r\n\r\n"} {
			if got := all(t, dial(t, at, text)); !strings.Contains(got[:min(20, len(got))], want) {
				t.Errorf("%q at %s answers %q", text, at, got)
			}
		}
		if got := all(t, dial(t, at, "GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")); !strings.Contains(got, " 403 ") {
			t.Errorf("an absolute target at %s answers %q", at, got)
		}
	}
}

func TestOneRequestPerConnection(t *testing.T) {
	_, at := startPages(t, "127.0.0.1:0", probes(healthy, healthy), nil)
	got := all(t, dial(t, at, get+get))
	if strings.Count(got, "HTTP/1.1 200 OK") != 1 || !strings.Contains(got, "Connection: close") {
		t.Errorf("%q", got)
	}
	if got := all(t, dial(t, at, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: "+strings.Repeat("x", 20<<10)+"\r\n\r\n")); !strings.Contains(got, " 431 ") {
		t.Errorf("a large head answers %.100q", got)
	}
	if got := all(t, dial(t, at, "HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")); !strings.Contains(got, " 405 ") || !strings.HasSuffix(got, "\r\n\r\n") {
		t.Errorf("HEAD answers %q", got)
	}
	if got := all(t, dial(t, at, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")); strings.Contains(got, " 200 ") {
		t.Errorf("HTTP/2 answers %.100q", got)
	}
}

func TestWhatIsAnswered(t *testing.T) {
	pages := probes(healthy, healthy)
	for _, c := range []struct {
		method, target string
		status         int
	}{
		{"GET", "/metrics", 200}, {"GET", "/healthz", 200}, {"GET", "/readyz", 200}, {"GET", "/metrics?name=x", 200},
		{"POST", "/metrics", 405}, {"HEAD", "/metrics", 405}, {"PUT", "/healthz", 405}, {"OPTIONS", "/readyz", 405}, {"TRACE", "/metrics", 405}, {"get", "/metrics", 405},
		{"GET", "/", 404}, {"GET", "/metrics/", 404}, {"GET", "//metrics", 404}, {"GET", "/Metrics", 404}, {"GET", "/debug/pprof/", 404},
		{"GET", "/v1/responses", 404}, {"POST", "/v1/responses", 404}, {"GET", "/metrics/../healthz", 404}, {"POST", "/shutdown", 404},
	} {
		res, body := ask(t, pages, "tcp", c.method, c.target, "localhost")
		if res.StatusCode != c.status || (res.Header.Get("Allow") == "GET") != (c.status == 405) {
			t.Errorf("%s %s: %d, want %d; Allow %q", c.method, c.target, res.StatusCode, c.status, res.Header.Get("Allow"))
		}
		if strings.Contains(body, numbers) != (c.status == 200 && strings.HasPrefix(c.target, "/metrics")) {
			t.Errorf("%s %s answers %q", c.method, c.target, body)
		}
		if res.Header.Get("Content-Length") != strconv.Itoa(len(body)) || res.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s %s: %v", c.method, c.target, res.Header)
		}
	}
}

func TestContentType(t *testing.T) {
	for target, want := range map[string]string{"/metrics": "text/plain; version=0.0.4; charset=utf-8", "/healthz": "text/plain; charset=utf-8", "/": "text/plain; charset=utf-8"} {
		res, _ := ask(t, probes(healthy, healthy), "tcp", "GET", target, "127.0.0.1:9464")
		if got := res.Header.Get("Content-Type"); got != want || res.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %q", target, got)
		}
	}
}

func TestHosts(t *testing.T) {
	pages := probes(healthy, healthy)
	allow := func(network string, hosts ...string) {
		for _, host := range hosts {
			if res, _ := ask(t, pages, network, "GET", "/healthz", host); res.StatusCode != 200 {
				t.Errorf("Host %q over %s: %d", host, network, res.StatusCode)
			}
		}
	}
	deny := func(network string, hosts ...string) {
		for _, host := range hosts {
			for _, target := range []string{"/metrics", "/healthz", "/readyz", "/none"} {
				if res, body := ask(t, pages, network, "GET", target, host); res.StatusCode != 403 || strings.Contains(body, numbers) {
					t.Errorf("%s with Host %q over %s: %d", target, host, network, res.StatusCode)
				}
			}
		}
	}
	names := []string{"localhost", "LocalHost", "localhost:9464", "localhost:1", "127.0.0.1", "127.0.0.1:80", "127.1.2.3:5", "[::1]", "[::1]:9464", "[::ffff:127.0.0.1]:1"}
	others := []string{
		"evil.example", "evil.example:9464", "localhost.evil.example", "localhost.", "127.0.0.1.evil.example", "127.0.0.1.nip.io:9464", "10.0.0.1", "0.0.0.0:9464", "[::]:9464", "[::1%lo]:9464", "[fe80::1]:9464",
		"127.1", "2130706433", "0x7f000001", "localhost@evil.example", "evil.example:localhost", ":9464", "[localhost", " localhost", "xn--localhost",
	}
	allow("tcp", names...)
	allow("unix", names...)
	allow("unix", "")
	deny("tcp", others...)
	deny("unix", others...)
	deny("tcp", "")
}

func FuzzHost(f *testing.F) {
	f.Add("localhost:1")
	f.Add("[::1]:2")
	f.Add("127.0.0.1.evil")
	f.Fuzz(func(t *testing.T, host string) {
		if !hostAllowed(request("GET", "/", host), false) {
			return
		}
		name := host
		if n, _, err := net.SplitHostPort(host); err == nil {
			name = n
		}
		name = strings.Trim(name, "[]")
		if ip := net.ParseIP(name); !strings.EqualFold(name, "localhost") && (ip == nil || !ip.IsLoopback()) {
			t.Fatalf("%q is allowed", host)
		}
	})
}

func TestHealth(t *testing.T) {
	draining, full := errors.New("draining"), errors.New("expired")
	for _, c := range []struct {
		healthy, ready error
		status         map[string]int
	}{
		{nil, nil, map[string]int{"/healthz": 200, "/readyz": 200, "/metrics": 200}},
		{nil, full, map[string]int{"/healthz": 200, "/readyz": 503, "/metrics": 200}},
		{draining, draining, map[string]int{"/healthz": 503, "/readyz": 503, "/metrics": 200}},
	} {
		pages := probes(func() error { return c.healthy }, func() error { return c.ready })
		for target, status := range c.status {
			res, body := ask(t, pages, "tcp", "GET", target, "localhost")
			reason := map[string]error{"/healthz": c.healthy, "/readyz": c.ready}[target]
			want := "ok\n"
			if reason != nil {
				want = reason.Error() + "\n"
			}
			if res.StatusCode != status || target != "/metrics" && body != want {
				t.Errorf("%s: %d %q, want %d %q", target, res.StatusCode, body, status, want)
			}
		}
	}
}

// bad are ways of keeping a server busy; the response of /large exceeds the buffers of the kernel.
var bad = map[string]string{
	"silent":        "",
	"half a head":   "GET /healthz HT",
	"body missing":  "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
	"does not read": "GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n",
}

func withLarge() []Page {
	large := make([]byte, 16<<20)
	return append(probes(healthy, healthy), Page{Path: "/large", Body: func() []byte { return large }})
}

// TestBadScrapersArePutOut checks that the connection of a slow client is closed after the time limit.
func TestBadScrapersArePutOut(t *testing.T) {
	pages := withLarge()
	for what, text := range bad {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			_, at := startPages(t, "127.0.0.1:0", pages, func(s *pageServer) {
				s.headTimeout, s.writeTimeout = time.Second/2, time.Second/2
			})
			all(t, dial(t, at, text))
			if got := all(t, dial(t, at, get)); !strings.Contains(got, " 200 ") {
				t.Errorf("%q", got)
			}
		})
	}
}

// However many are slow, those who are not are served meanwhile, and the slow
// ones never hold more than the connections that there may be.
func TestBadScrapersHoldOnlyThemselves(t *testing.T) {
	pages := withLarge()
	for what, text := range bad {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			never := func(s *pageServer) { s.headTimeout, s.writeTimeout = time.Hour, time.Hour }
			_, at := startPages(t, "127.0.0.1:0", pages, never)
			var conns []net.Conn
			for range 3 * maxPageConns {
				conns = append(conns, dial(t, at, text))
			}
			for range 3 {
				if got := all(t, dial(t, at, get)); !strings.Contains(got, " 200 ") {
					t.Errorf("%q", got)
				}
			}
			for _, c := range conns[:2*maxPageConns] {
				all(t, c)
			}
		})
	}
}

func TestNoMoreThanSixteen(t *testing.T) {
	s := newPageServer(func(line string) { t.Error(line) }, probes(healthy, healthy))
	s.headTimeout = time.Hour
	count := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.open)
	}
	var clients []net.Conn
	for i := range 3 * maxPageConns {
		client, served := net.Pipe()
		client.SetDeadline(time.Now().Add(long))
		clients = append(clients, client)
		s.admit(served)
		if n, want := count(), min(i+1, maxPageConns); n != want {
			t.Fatalf("%d are open after %d", n, i+1)
		}
	}
	for _, c := range clients[:2*maxPageConns] {
		all(t, c)
	}
	for _, c := range clients[2*maxPageConns:] {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Errorf("one of the youngest is closed: %v", err)
		}
	}
	for _, c := range clients { // some for the second time
		c.Close()
	}
	for end := time.Now().Add(long); count() != 0; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d are counted after the end", count())
		}
	}
}

// Closing the listener ends Serve while every place is taken.
func TestClose(t *testing.T) {
	addr := proctest.UnixAddr(t)
	l, err := openPages(addr)
	if err != nil {
		t.Fatal(err)
	}
	entered, release := make(chan struct{}, maxPageConns), make(chan struct{})
	defer close(release)
	served := make(chan error, 1)
	go func() {
		served <- ServePages(l, nil, Page{Path: "/healthz", Body: func() []byte { entered <- struct{}{}; <-release; return nil }})
	}()
	var conns []net.Conn
	for range maxPageConns {
		conns = append(conns, dial(t, addr, get))
	}
	for range maxPageConns {
		<-entered
	}
	if err := errors.Join(l.Close(), <-served); err != nil {
		t.Error(err)
	}
	for _, c := range conns {
		if got := all(t, c); got != "" {
			t.Errorf("%q", got)
		}
	}
	if _, err := os.Lstat(strings.TrimPrefix(addr, "unix:")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	if err := ServePages(l, nil); err != nil {
		t.Errorf("closed before it served: %v", err)
	}
}

// broken is a listener that fails.
type broken struct{ net.Listener }

var errBroken = errors.New("broken")

func (broken) Accept() (net.Conn, error) { return nil, errBroken }
func (broken) Close() error              { return nil }

func TestServeSaysWhyItEnded(t *testing.T) {
	if err := ServePages(broken{}, nil); !errors.Is(err, errBroken) {
		t.Error(err)
	}
}
