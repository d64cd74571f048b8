package metrics

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/listen"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/server"
)

// long is far more than anything here takes on a loaded machine.
const long = 30 * time.Second

// start serves m at addr until the test ends.
func start(t *testing.T, addr string, m *Metrics, ready func() error) (at string) {
	t.Helper()
	l, err := open(addr)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.ServePages(l, func(line string) { t.Error(line) }, pages(m, ready)...) }()
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

// open opens the socket at addr.
func open(addr string) (net.Listener, error) {
	a, err := listen.ParseAddress(addr)
	if err != nil {
		return nil, err
	}
	return listen.Listen(a, listen.UnixConfig{})
}

func well() error { return nil }

// pages are the program's.
func pages(m *Metrics, ready func() error) []server.Page {
	return []server.Page{{Path: "/metrics", ContentType: ContentType, Body: m.Text}, {Path: "/healthz", Check: well}, {Path: "/readyz", Check: ready}}
}

// Probe returns why a page is not served.
func Probe(addr, path string) error {
	_, err := Fetch(addr, path)
	return err
}

func TestServeAndProbe(t *testing.T) {
	var sick atomic.Bool
	ready := func() error {
		if sick.Load() {
			return errors.New("draining\x1b[31m")
		}
		return nil
	}
	for _, addr := range []string{"127.0.0.1:0", "localhost:0", "[::1]:0", "unix"} {
		t.Run(addr, func(t *testing.T) {
			sick.Store(false)
			if addr == "unix" {
				addr = proctest.UnixAddr(t)
			} else if l, err := net.Listen("tcp6", "[::1]:0"); err != nil && addr[0] == '[' {
				t.Skip("no IPv6 here")
			} else if err == nil {
				l.Close()
			}
			at := start(t, addr, New(example()), ready)
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

// TestAddressesRefused: listen.ParseAddress, which has more cases of its own, reads the address.
func TestAddressesRefused(t *testing.T) {
	for addr, want := range map[string]string{
		"10.1.2.3:9464": "no loopback address",
		"9464":          "no address with a port",
		"unix:":         "the path is empty",
	} {
		if err := Probe(addr, "/healthz"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("probe of %q: %v", addr, err)
		}
	}
}

func TestProbeOfNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := l.Addr().String()
	if _, err := fetch(at, "/healthz", time.Second/5); err == nil || !strings.Contains(err.Error(), "has not answered in 200ms") {
		t.Errorf("a listener that does not answer: %v", err)
	}
	l.Close()
	for _, addr := range []string{at, proctest.UnixAddr(t)} {
		if err := Probe(addr, "/healthz"); err == nil || !strings.Contains(err.Error(), "; see whether the proxy runs with --metrics "+addr) || strings.Count(err.Error(), "dial") > 0 {
			t.Errorf("nobody there: %v", err)
		}
	}
}

// TestProbeOfOthers: a probe accepts nothing but 200 over HTTP, makes no other connection, and prints nothing that
// controls a terminal.
func TestProbeOfOthers(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	var asked atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Location", "/healthz")
		w.WriteHeader(map[string]int{"/moved": 302, "/empty": 204, "/long": 500, "/text": 200}[r.URL.Path])
		if r.URL.Path == "/long" {
			io.WriteString(w, strings.Repeat("\x07", 100<<10))
		}
		if r.URL.Path == "/text" {
			io.WriteString(w, "\n{\"state\": \"\x1b\u009b2J\u202e\\u001b\x7f\"}\n")
		}
	}))
	defer other.Close()
	at := other.Listener.Addr().String()
	for path, want := range map[string]string{"/moved": "answers 302: ", "/empty": "answers 204: ", "/long": "answers 500: ????"} {
		if err := Probe(at, path); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 1000 || strings.Contains(err.Error(), "\x07") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if asked.Load() != 3 {
		t.Errorf("asked %d times", asked.Load())
	}
	if body, err := Fetch(at, "/text"); err != nil || string(body) != "\n{\"state\": \"??2J?\\u001b?\"}\n" {
		t.Errorf("%q, %v", body, err)
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
