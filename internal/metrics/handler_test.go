package metrics

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

var well = Health{Healthy: func() error { return nil }, Ready: func() error { return nil }}

// ask has the handler answer as if the request had come over TCP, or a unix
// socket.
func ask(h http.Handler, network, method, target, host string) *httptest.ResponseRecorder {
	var local net.Addr = &net.TCPAddr{}
	if network == "unix" {
		local = &net.UnixAddr{Net: "unix"}
	}
	r := httptest.NewRequest(method, target, nil)
	r.Host = host
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestWhatIsAnswered(t *testing.T) {
	h := New(example()).Handler(well)
	for _, c := range []struct {
		method, target string
		status         int
	}{
		{"GET", "/metrics", 200}, {"GET", "/healthz", 200}, {"GET", "/readyz", 200}, {"GET", "/metrics?name=x", 200},
		{"POST", "/metrics", 405}, {"HEAD", "/metrics", 405}, {"PUT", "/healthz", 405}, {"OPTIONS", "/readyz", 405}, {"TRACE", "/metrics", 405}, {"get", "/metrics", 405},
		{"GET", "/", 404}, {"GET", "/metrics/", 404}, {"GET", "//metrics", 404}, {"GET", "/Metrics", 404}, {"GET", "/debug/pprof/", 404},
		{"GET", "/v1/responses", 404}, {"POST", "/v1/responses", 404}, {"GET", "/metrics/../healthz", 404}, {"POST", "/shutdown", 404},
	} {
		w := ask(h, "tcp", c.method, c.target, "localhost")
		if w.Code != c.status || (w.Header().Get("Allow") == "GET") != (c.status == 405) {
			t.Errorf("%s %s: %d, want %d; Allow %q", c.method, c.target, w.Code, c.status, w.Header().Get("Allow"))
		}
		if strings.Contains(w.Body.String(), prefix) != (c.status == 200 && strings.HasPrefix(c.target, "/metrics")) {
			t.Errorf("%s %s answers %q", c.method, c.target, w.Body)
		}
		if w.Header().Get("Content-Length") != strconv.Itoa(w.Body.Len()) || w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s %s: %v", c.method, c.target, w.Header())
		}
	}
}

func TestMetricsPage(t *testing.T) {
	w := ask(New(example()).Handler(well), "tcp", "GET", "/metrics", "127.0.0.1:9464")
	if got := w.Header().Get("Content-Type"); got != "text/plain; version=0.0.4; charset=utf-8" {
		t.Error(got)
	}
	if _, err := parseText(w.Body.String()); err != nil {
		t.Error(err)
	}
}

func TestHosts(t *testing.T) {
	h := New(example()).Handler(well)
	allow := func(network string, hosts ...string) {
		for _, host := range hosts {
			if w := ask(h, network, "GET", "/healthz", host); w.Code != 200 {
				t.Errorf("Host %q over %s: %d", host, network, w.Code)
			}
		}
	}
	deny := func(network string, hosts ...string) {
		for _, host := range hosts {
			for _, target := range []string{"/metrics", "/healthz", "/readyz", "/none"} {
				if w := ask(h, network, "GET", target, host); w.Code != 403 || strings.Contains(w.Body.String(), prefix) {
					t.Errorf("%s with Host %q over %s: %d", target, host, network, w.Code)
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
		if !hostAllowed(host, false) {
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
		h := New(example()).Handler(Health{Healthy: func() error { return c.healthy }, Ready: func() error { return c.ready }})
		for target, status := range c.status {
			w := ask(h, "tcp", "GET", target, "localhost")
			reason := map[string]error{"/healthz": c.healthy, "/readyz": c.ready}[target]
			want := "ok\n"
			if reason != nil {
				want = reason.Error() + "\n"
			}
			if w.Code != status || target != "/metrics" && w.Body.String() != want {
				t.Errorf("%s: %d %q, want %d %q", target, w.Code, w.Body, status, want)
			}
		}
	}
}
