package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/listen"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/upstream"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/relay"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/server"
)

// TestRoutes checks that all but one method and one target are refused and do not reach the upstream.
func TestRoutes(t *testing.T) {
	s := start(t)
	refused := func(status int, want, line string, fields ...string) {
		t.Helper()
		p := s.dial()
		p.send(line + " HTTP/1.1\r\nHost: 127.0.0.1\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n")
		res := p.answer()
		if got := code(t, res); res.StatusCode != status || got != want {
			t.Errorf("%s: %d %s, want %d %s", line, res.StatusCode, got, status, want)
		}
		if res.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: CORS was granted", line)
		}
	}
	for _, target := range []string{
		"/v1/responses?x=1", "/v1/responses?", "/v1/responses/", "//v1/responses", "/v1//responses", "/v1/./responses",
		"/v1/x/../responses", "/v1/%72esponses", "/v1%2Fresponses", "/V1/Responses", "v1/responses", "/v1/responses;a=b",
		"/v1/responses%20", "/v1/responses/compact", "/v1/models", "/v1/chat/completions", "/responses", "/", "*",
		"/v1/responses#f", "http://127.0.0.1/v1/responses", "https://api.openai.com/v1/responses", "/shutdown", "/" + strings.Repeat("a", 70000),
	} {
		refused(403, "route_not_allowed", "POST "+target)
	}
	for _, method := range []string{"GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "post", "Post", "BREW"} {
		refused(403, "route_not_allowed", method+" /v1/responses")
	}
	refused(403, "route_not_allowed", "OPTIONS /v1/responses", "Origin: https://evil.example", "Access-Control-Request-Method: POST")
	refused(403, "route_not_allowed", "GET /shutdown")
	refused(426, "websocket_not_supported", "GET /v1/responses", "Connection: Upgrade", "Upgrade: websocket")
	refused(403, "route_not_allowed", "GET /v1/responses", "Connection: Upgrade", "Upgrade: h2c")
	if n := s.up.Conns(); n != 0 {
		t.Errorf("%d connections reached the upstream", n)
	}
}

// TestMalformedHeads checks that heads that RFC 9112 lets a server refuse are refused with a reason, and that the
// connection ends.
func TestMalformedHeads(t *testing.T) {
	s := start(t)
	for _, c := range []struct {
		status int
		head   string
	}{
		{400, request("Content-Length: 2", "Content-Length: 2")},
		{400, request("Content-Length: 2", "Content-Length: 7")},
		{400, request("Content-Length: 2, 2")},
		{400, request("Content-Length: +2")},
		{400, request("Content-Length: 0x2")},
		{400, request("Content-Length: -1")},
		{400, request("Content-Length: ")},
		{400, request("Content-Length: 9999999999999999999999")},
		{400, request("Content-Length: 2", "Transfer-Encoding: chunked")},
		{400, request("Transfer-Encoding: chunked", "Content-Length: 2")},
		{400, request("Transfer-Encoding: chunked", "Transfer-Encoding: chunked")},
		{501, request("Transfer-Encoding: identity")},
		{501, request("Transfer-Encoding: xchunked")},
		{501, request("Transfer-Encoding: gzip, chunked")},
		{501, request("Transfer-Encoding: chunked, identity")},
		{400, "POST /v1/responses HTTP/1.1\nHost: h\n\n"},
		{400, "POST /v1/responses HTTP/1.1\r\nHost: h\nX: y\r\n\r\n"},
		{400, request("X: a\r\n b")},
		{400, request("X: a\x00b")},
		{400, request("X: a\rb")},
		{400, request("X : a")},
		{400, request("X")},
		{400, request(": a")},
		{400, request("Host: other")},
		{400, "POST /v1/responses HTTP/1.1\r\n\r\n"},
		{400, "POST  /v1/responses HTTP/1.1\r\nHost: h\r\n\r\n"},
		{400, "POST\t/v1/responses\tHTTP/1.1\r\nHost: h\r\n\r\n"},
		{400, "POST /v1/responses\r\nHost: h\r\n\r\n"},
		{400, "POST /v1/respon\xc3\xa9s HTTP/1.1\r\nHost: h\r\n\r\n"},
		{400, "POST /v1/responses HTTX/1.1\r\nHost: h\r\n\r\n"},
		{505, "POST /v1/responses HTTP/1.2\r\nHost: h\r\n\r\n"},
		{505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
		{400, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"},
		{417, request("Expect: 200-ok", "Content-Length: 2")},
		{431, request("X: " + strings.Repeat("a", 300<<10))},
	} {
		p := s.dial()
		fmt.Fprint(p, c.head) // the proxy may have hung up before the end
		res := p.answer()
		if got := code(t, res); res.StatusCode != c.status || got == "" || !res.Close {
			t.Errorf("%.60q: %d %s, close %v; want %d", c.head, res.StatusCode, got, res.Close, c.status)
		}
		p.ended()
	}
	if n := s.up.Conns(); n != 0 {
		t.Errorf("%d connections reached the upstream", n)
	}
}

// TestRequestFields checks that the permitted fields pass in their order, and no others.
func TestRequestFields(t *testing.T) {
	s := start(t, overTLS)
	pass := []string{"Content-Type: application/json", "Originator: codex_exec", "X-Codex-Turn-Metadata: {\"a\":1}", "X-Dup: 1", "X-Dup: 2", "X-Empty: ",
		"OpenAI-Organization: o", "Accept: text/event-stream", "User-Agent: t", "Origin: https://a.example", "X-New: caf\xc3\xa9"}
	drop := []string{"Authorization: Bearer stolen", "AUTHORIZATION: x", "Proxy-Authorization: x", "Cookie: a=b", "cookie: c", "api-key: x", "X-API-Key: x",
		"x-goog-api-key: x", "Connection: keep-alive, X-Nominated", "X-Nominated: x", "Keep-Alive: timeout=5", "TE: trailers", "Trailer: X", "Proxy-Connection: x",
		"Upgrade: h2c", "HTTP2-Settings: x", "Forwarded: for=x", "Via: 1.1 x", "X-Forwarded-For: x", "X-Forwarded-Anything: x", "X-Real-IP: x"}
	p := s.dial()
	p.send(request(append(append([]string{"Content-Length: 2"}, drop...), pass...)...) + "{}")
	if res := p.answer(); res.StatusCode != 200 {
		t.Fatalf("status %d", res.StatusCode)
	}
	r := s.up.Requests()[0]
	var got []string
	for _, f := range r.Fields {
		got = append(got, f.Name+": "+f.Value)
	}
	want := append(append([]string{"host: " + s.up.Addr(), "authorization: Bearer " + canary}, pass...), "content-length: 2")
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the upstream got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	s.clean()
}

func TestHalfSentHeadEnds(t *testing.T) {
	s := start(t, func(s *setup) { s.server.HeadTimeout = 50 * time.Millisecond })
	p := s.dial()
	p.send("POST /v1/resp")
	res := p.answer()
	if read(t, res); res.StatusCode != 408 {
		t.Errorf("status %d", res.StatusCode)
	}
	p.ended()
	silent := s.dial()
	silent.ended()
}

func TestStalledBodyEnds(t *testing.T) {
	s := start(t, func(s *setup) { s.server.BodyTimeout = 50 * time.Millisecond })
	for _, length := range []string{"Content-Length: 100", "Content-Length: 3000000", "Transfer-Encoding: chunked"} {
		p := s.dial()
		p.send(request(length, "X-Fake: json") + "1")
		res := p.answer()
		if got := code(t, res); got != "request_timeout" {
			t.Errorf("%s: %d %s", length, res.StatusCode, got)
		}
		p.ended()
	}
	for _, r := range s.up.Requests() {
		wait(t, r.Done(), "the request's end")
		if _, err := r.Body(within(t, soon)); err == nil {
			t.Error("the body arrived as complete")
		}
	}
}

func TestIdleConnectionEnds(t *testing.T) {
	s := start(t, func(s *setup) { s.server.IdleTimeout = 50 * time.Millisecond })
	p := s.dial()
	p.send(request("X-Fake: json", "Content-Length: 2") + "{}")
	read(t, p.answer())
	p.ended()
}

func TestShutdownRoute(t *testing.T) {
	s := start(t, func(s *setup) { s.shutdown = true })
	for _, line := range []string{"POST /shutdown", "HEAD /shutdown", "GET /shutdown?", "GET /shutdown/", "GET //shutdown", "GET /SHUTDOWN", "GET /%73hutdown", "GET http://h/shutdown"} {
		p := s.dial()
		p.send(line + " HTTP/1.1\r\nHost: h\r\n\r\n")
		if res := p.answer(); res.StatusCode != 403 {
			t.Errorf("%s: status %d", line, res.StatusCode)
		}
	}
	select {
	case <-s.stopped:
		t.Fatal("it was stopped by what is not GET /shutdown")
	default:
	}
	p := s.dial()
	p.send("GET /shutdown HTTP/1.1\r\nHost: h\r\n\r\n")
	if res := p.answer(); res.StatusCode != 200 || res.ContentLength != 0 {
		t.Errorf("status %d", res.StatusCode)
	}
	wait(t, s.stopped, "the stop")
}

// TestDrain checks that running requests complete, idle connections are closed, and no new request begins.
func TestDrain(t *testing.T) {
	s := start(t)
	idle, half, stalled := s.dial(), s.dial(), s.dial()
	idle.send(request("X-Fake: json", "Content-Length: 2") + "{}")
	read(t, idle.answer())
	half.send("POST /v1")
	stalled.send("POST /v1/models HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{") // refused, and the body's rest does not come
	read(t, stalled.answer())
	running := s.dial()
	running.send(request("X-Fake: sse n=20 d=100ms", "Content-Length: 2") + "{}")
	res := running.answer()
	drained := make(chan error, 1)
	go func() { drained <- s.server.Drain(within(t, soon), s.listener) }()
	idle.ended()
	half.ended()
	stalled.ended()
	if c, err := net.Dial("tcp", s.listener.Addr().String()); err == nil {
		c.Close()
		t.Error("a new connection was accepted")
	}
	select {
	case err := <-drained:
		t.Fatalf("drained while a stream runs: %v", err)
	default:
	}
	if body := read(t, res); !strings.Contains(body, "response.completed") {
		t.Errorf("the stream ended with %q", body[max(0, len(body)-100):])
	}
	running.ended()
	if err := <-drained; err != nil {
		t.Errorf("Drain: %v", err)
	}
}

// TestDrainServesWhoHasJustConnected checks that a request on a connection made just before the drain is answered, with
// a response that closes the connection.
func TestDrainServesWhoHasJustConnected(t *testing.T) {
	s := start(t)
	early := s.dial()
	for s.server.Connections() == 0 { // until it has been accepted
		runtime.Gosched()
	}
	drained := make(chan error, 1)
	go func() { drained <- s.server.Drain(within(t, soon), s.listener) }()
	for { // until the drain has begun
		c, err := net.Dial("tcp", s.listener.Addr().String())
		if err != nil {
			break
		}
		c.Close()
	}
	early.send(request("X-Fake: json", "Content-Length: 2") + "{}")
	res := early.answer()
	if res.StatusCode != 200 || !res.Close {
		t.Errorf("status %d, closes %v", res.StatusCode, res.Close)
	}
	read(t, res)
	early.ended()
	if err := <-drained; err != nil {
		t.Errorf("Drain: %v", err)
	}
}

// TestDrainCuts checks that streams that do not end in time are cut, and that clients can see it.
func TestDrainCuts(t *testing.T) {
	for _, version := range []string{"1.0", "1.1"} { // 1.0 has no framing but the connection's end
		s := start(t)
		p := s.dial()
		p.send("POST /v1/responses HTTP/" + version + "\r\nHost: h\r\nX-Fake: headthensilent\r\nContent-Length: 2\r\n\r\n{}")
		res := p.answer()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := s.server.Drain(ctx, s.listener); err != context.Canceled {
			t.Errorf("HTTP/%s: Drain: %v", version, err)
		}
		if _, err := io.ReadAll(res.Body); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("HTTP/%s: the cut stream looks complete, or goes on: %v", version, err)
		}
		wait(t, s.up.Requests()[0].Gone(), "the upstream's connection to be closed")
	}
}

// panicking is an upstream that fails in the worst way.
type panicking struct{}

func (panicking) Do(context.Context, *upstream.Request) (*upstream.Response, error) {
	panic("a value with a secret: " + canary)
}

// TestPanic costs the request in which it happens, and prints nothing of it.
func TestPanic(t *testing.T) {
	s := &stack{t: t}
	s.server = must(server.New(server.Config{Relay: must(relay.New(relay.Config{Upstream: panicking{}, Log: s.logOf})), Policy: must(policy.New(policy.Config{})), Log: s.log}))
	s.listener = must(listen.TCP(listen.Loopback(0)))
	go s.server.Serve(s.listener)
	defer func() {
		if err := s.server.Drain(within(t, soon), s.listener); err != nil {
			t.Error(err)
		}
	}()
	for range 2 {
		p := s.dial()
		p.send(request("Content-Length: 2") + "{}")
		res := p.answer()
		if got := code(t, res); res.StatusCode != http.StatusInternalServerError || got != "internal_error" {
			t.Errorf("status %d, code %q", res.StatusCode, got)
		}
		p.Close()
	}
	l := strings.Join(s.logged(), "\n")
	if !strings.Contains(l, "panicking") || strings.Contains(l, "secret") || strings.Contains(l, canary) {
		t.Errorf("logged %q", l)
	}
}
