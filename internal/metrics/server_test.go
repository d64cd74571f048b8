package metrics

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// long is far more than anything here takes on a loaded machine.
const long = 30 * time.Second

// start serves h at addr until the test ends, with time limits that change may
// shorten.
func start(t *testing.T, addr string, h http.Handler, change func(*http.Server)) (at string) {
	t.Helper()
	l, err := Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(h)
	if change != nil {
		change(s)
	}
	served := make(chan error, 1)
	go func() { served <- serve(l, s) }()
	t.Cleanup(func() {
		if err := errors.Join(l.Close(), <-served); err != nil {
			t.Error(err)
		}
	})
	if strings.HasPrefix(addr, "unix:") {
		return addr
	}
	return l.Addr().String()
}

// dial connects and sends text.
func dial(t *testing.T, at, text string) net.Conn {
	t.Helper()
	where, err := parse(at)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial(where.network, where.name)
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

func unixAddr(t *testing.T) string {
	if runtime.GOOS == "windows" {
		t.Skip("no unix sockets here")
	}
	dir, err := os.MkdirTemp("", "metrics") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return "unix:" + filepath.Join(dir, "m")
}

func TestServeAndProbe(t *testing.T) {
	var sick atomic.Bool
	health := Health{
		Healthy: func() error { return nil },
		Ready: func() error {
			if sick.Load() {
				return errors.New("draining\x1b[31m")
			}
			return nil
		},
	}
	for _, addr := range []string{"127.0.0.1:0", "localhost:0", "[::1]:0", "unix"} {
		t.Run(addr, func(t *testing.T) {
			sick.Store(false)
			if addr == "unix" {
				addr = unixAddr(t)
			} else if l, err := net.Listen("tcp6", "[::1]:0"); err != nil && addr[0] == '[' {
				t.Skip("no IPv6 here")
			} else if err == nil {
				l.Close()
			}
			at := start(t, addr, New(example()).Handler(health), nil)
			for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
				if err := Probe(at, path); err != nil {
					t.Errorf("%s: %v", path, err)
				}
			}
			sick.Store(true)
			if err := Probe(at, "/healthz"); err != nil {
				t.Error(err)
			}
			if err := Probe(at, "/readyz"); err == nil || err.Error() != at+"/readyz answers 503: draining?[31m" {
				t.Errorf("%v", err)
			}
			if err := Probe(at, "/none"); err == nil || !strings.Contains(err.Error(), " answers 404: ") {
				t.Errorf("%v", err)
			}
		})
	}
}

// A client that sends no Host at all is taken over a unix socket, not over TCP.
func TestNoHost(t *testing.T) {
	h := New(example()).Handler(well)
	for addr, want := range map[string]string{"127.0.0.1:0": " 403 ", unixAddr(t): " 200 "} {
		at := start(t, addr, h, nil)
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
	at := start(t, "127.0.0.1:0", New(example()).Handler(well), nil)
	got := all(t, dial(t, at, get+get))
	if strings.Count(got, "HTTP/1.1 200 OK") != 1 || !strings.Contains(got, "Connection: close") {
		t.Errorf("%q", got)
	}
	if got := all(t, dial(t, at, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: "+strings.Repeat("x", 20<<10)+"\r\n\r\n")); !strings.Contains(got, " 431 ") {
		t.Errorf("a large head answers %.100q", got)
	}
	if got := all(t, dial(t, at, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")); strings.Contains(got, " 200 ") {
		t.Errorf("HTTP/2 answers %.100q", got)
	}
}

// bad are ways of keeping a server busy; no kernel buffers what /large answers.
var bad = map[string]string{
	"silent":        "",
	"half a head":   "GET /healthz HT",
	"body missing":  "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
	"does not read": "GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n",
}

func withLarge() http.Handler {
	large := make([]byte, 16<<20)
	h := http.NewServeMux()
	h.HandleFunc("/large", func(w http.ResponseWriter, _ *http.Request) { w.Write(large) })
	h.Handle("/", New(example()).Handler(well))
	return h
}

// Whoever is slow is put out after a time.
func TestBadScrapersArePutOut(t *testing.T) {
	h := withLarge()
	for what, text := range bad {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			at := start(t, "127.0.0.1:0", h, func(s *http.Server) {
				s.ReadHeaderTimeout, s.ReadTimeout, s.WriteTimeout = time.Second/2, time.Second/2, time.Second/2
			})
			all(t, dial(t, at, text))
			if err := probe(at, "/healthz", long); err != nil {
				t.Error(err)
			}
		})
	}
}

// However many are slow, those who are not are served meanwhile, and the slow
// ones never hold more than the connections that there may be.
func TestBadScrapersHoldOnlyThemselves(t *testing.T) {
	h := withLarge()
	for what, text := range bad {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			never := func(s *http.Server) {
				s.ReadHeaderTimeout, s.ReadTimeout, s.WriteTimeout = time.Hour, time.Hour, time.Hour
			}
			at := start(t, "127.0.0.1:0", h, never)
			var conns []net.Conn
			for range 3 * maxConnections {
				conns = append(conns, dial(t, at, text))
			}
			for range 3 {
				if err := probe(at, "/healthz", long); err != nil {
					t.Error(err)
				}
			}
			for _, c := range conns[:2*maxConnections] {
				all(t, c)
			}
		})
	}
}

func TestNoMoreThanSixteen(t *testing.T) {
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &few{Listener: l}
	defer f.Close()
	var clients, served []net.Conn
	for i := range 3 * maxConnections {
		clients = append(clients, dial(t, l.Addr().String(), ""))
		c, err := f.Accept()
		if err != nil {
			t.Fatal(err)
		}
		served = append(served, c)
		if want := min(i+1, maxConnections); len(f.open) != want {
			t.Fatalf("%d are open after %d", len(f.open), i+1)
		}
	}
	for _, c := range clients[:2*maxConnections] {
		all(t, c)
	}
	for _, c := range served[2*maxConnections:] {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Errorf("one of the youngest is closed: %v", err)
		}
	}
	for _, c := range served { // some for the second time
		c.Close()
	}
	if len(f.open) != 0 {
		t.Errorf("%d are counted after the end", len(f.open))
	}
}

// Closing the listener ends Serve while every place is taken.
func TestClose(t *testing.T) {
	addr := unixAddr(t)
	l, err := Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	entered, release := make(chan struct{}, maxConnections), make(chan struct{})
	defer close(release)
	served := make(chan error, 1)
	go func() {
		served <- Serve(l, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { entered <- struct{}{}; <-release }))
	}()
	var conns []net.Conn
	for range maxConnections {
		conns = append(conns, dial(t, addr, get))
	}
	for range maxConnections {
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
	if err := Serve(l, nil); err != nil {
		t.Errorf("closed before it served: %v", err)
	}
}

// broken is a listener that fails.
type broken struct{ net.Listener }

var errBroken = errors.New("broken")

func (broken) Accept() (net.Conn, error) { return nil, errBroken }
func (broken) Close() error              { return nil }

func TestServeSaysWhyItEnded(t *testing.T) {
	if err := Serve(broken{}, nil); !errors.Is(err, errBroken) {
		t.Error(err)
	}
}

func TestAddressesRefused(t *testing.T) {
	for addr, want := range map[string]string{
		"0.0.0.0:9464":        "no loopback address",
		":9464":               "no loopback address",
		"[::]:9464":           "no loopback address",
		"10.1.2.3:9464":       "no loopback address",
		"example.com:9464":    "no loopback address",
		"localhost.evil:1":    "no loopback address",
		"[::1%lo]:9464":       "no loopback address",
		"127.1:9464":          "no loopback address",
		"9464":                "no address with a port",
		"127.0.0.1":           "no address with a port",
		"127.0.0.1:":          "no address with a port",
		"127.0.0.1:http":      "no address with a port",
		"127.0.0.1:70000":     "no address with a port",
		"127.0.0.1:-1":        "no address with a port",
		"":                    "no address with a port",
		"/run/m.sock":         "no address with a port",
		"http://127.0.0.1:80": "no address with a port",
		"unix:":               "the path is empty",
	} {
		l, err := Listen(addr)
		if err == nil {
			l.Close()
		}
		if err == nil || !strings.HasPrefix(err.Error(), "cannot listen on --metrics "+addr+": ") || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "; ") {
			t.Errorf("%q: %v", addr, err)
		}
		if err := Probe(addr, "/healthz"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("probe of %q: %v", addr, err)
		}
	}
}

func TestAddressInUse(t *testing.T) {
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(l.Addr().String()); err == nil || !strings.Contains(err.Error(), "; choose another port") {
		t.Error(err)
	}
}

func TestUnixSocket(t *testing.T) {
	addr := unixAddr(t)
	path := strings.TrimPrefix(addr, "unix:")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l, err := Listen(addr)
	if err != nil {
		t.Fatalf("a dead socket is not replaced: %v", err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if again, err := Listen(addr); err == nil || !strings.Contains(err.Error(), "another process listens on it") || strings.Contains(err.Error(), "--socket") || !strings.HasPrefix(err.Error(), "--metrics: cannot listen on the socket "+path+": ") {
		t.Errorf("%v, %v", again, err)
	}
	l.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(addr); err == nil {
		t.Error("a file is replaced")
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "precious" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestProbeOfNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := l.Addr().String()
	if err := probe(at, "/healthz", time.Second/5); err == nil || !strings.Contains(err.Error(), "has not answered in 200ms") {
		t.Errorf("a listener that does not answer: %v", err)
	}
	l.Close()
	for _, addr := range []string{at, unixAddr(t)} {
		if err := Probe(addr, "/healthz"); err == nil || !strings.Contains(err.Error(), "; see whether the proxy runs with --metrics "+addr) || strings.Count(err.Error(), "dial") > 0 {
			t.Errorf("nobody there: %v", err)
		}
	}
}

// A probe believes nothing but 200 over HTTP, goes nowhere else, and prints
// nothing that steers a terminal.
func TestProbeOfOthers(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	var asked atomic.Int64
	at := start(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Location", "/healthz")
		w.WriteHeader(map[string]int{"/moved": 302, "/empty": 204, "/long": 500}[r.URL.Path])
		if r.URL.Path == "/long" {
			io.WriteString(w, strings.Repeat("\x07", 100<<10))
		}
	}), nil)
	for path, want := range map[string]string{"/moved": "answers 302: ", "/empty": "answers 204: ", "/long": "answers 500: ????"} {
		if err := Probe(at, path); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 1000 || strings.Contains(err.Error(), "\x07") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if asked.Load() != 3 {
		t.Errorf("asked %d times", asked.Load())
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err == nil {
			io.WriteString(c, "SSH-2.0-x\r\n")
			c.Close()
		}
	}()
	if err := Probe(l.Addr().String(), "/healthz"); err == nil {
		t.Error("SSH is healthy")
	}
}
