package server_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

// both runs a test over plain http and over TLS.
func both(t *testing.T, test func(t *testing.T, options ...func(*setup))) {
	t.Run("http", func(t *testing.T) { test(t) })
	t.Run("https", func(t *testing.T) { test(t, overTLS) })
}

func TestJSON(t *testing.T) {
	both(t, func(t *testing.T, options ...func(*setup)) {
		s := start(t, options...)
		for range 3 {
			res := s.post("json", `{"model":"m"}`)
			if body := read(t, res); res.StatusCode != 200 || !json.Valid([]byte(body)) {
				t.Fatalf("status %d, body %q", res.StatusCode, body)
			}
			for _, name := range []string{"X-Request-Id", "Openai-Processing-Ms", "X-Ratelimit-Limit-Requests"} {
				if res.Header.Get(name) == "" {
					t.Errorf("%s is missing", name)
				}
			}
			for _, name := range []string{"Set-Cookie", "Alt-Svc", "Strict-Transport-Security", "Connection"} {
				if res.Header.Get(name) != "" {
					t.Errorf("%s was passed on", name)
				}
			}
		}
		if n := s.up.Conns(); n != 1 {
			t.Errorf("%d upstream connections for 3 requests in a row, want 1", n)
		}
		s.clean()
		if l := s.logged(); len(l) > 0 {
			t.Errorf("logged %q", l)
		}
	})
}

// TestFirstEventBeforeTheLastIsSent proves that nothing is held back: the
// fake upstream sends the next event only after the client has seen the one before.
func TestFirstEventBeforeTheLastIsSent(t *testing.T) {
	both(t, func(t *testing.T, options ...func(*setup)) {
		s := start(t, options...)
		res := s.post("sse n=20 s=240 d=20ms", `{"stream":true}`)
		in := bufio.NewScanner(res.Body)
		first := false
		for in.Scan() {
			if strings.Contains(in.Text(), "response.output_text.delta") && !first {
				first = true
				r := s.up.Requests()[0]
				select {
				case <-r.Answered():
					t.Fatal("the first event came after the last had been sent")
				default:
				}
			}
		}
		if in.Err() != nil || !first {
			t.Fatalf("stream: %v", in.Err())
		}
	})
}

func TestHeadComesBeforeTheFirstByte(t *testing.T) {
	both(t, func(t *testing.T, options ...func(*setup)) {
		s := start(t, options...)
		res := s.post("headthensilent", `{}`) // would time out if the head were held back
		line, err := bufio.NewReader(res.Body).ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "event: response.created") {
			t.Fatalf("first event: %q, %v", line, err)
		}
		res.Body.Close()
		wait(t, s.up.Requests()[0].Gone(), "the upstream's connection to be closed")
	})
}

func wait(t testing.TB, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(soon):
		t.Fatalf("waited in vain for %s", what)
	}
}

func TestClientGoneBeforeTheFirstByte(t *testing.T) {
	both(t, func(t *testing.T, options ...func(*setup)) {
		s := start(t, options...)
		p := s.dial()
		p.send(request("X-Fake: silent", "Content-Length: 2") + "{}")
		r := must(s.up.Await(within(t, soon), 1))[0]
		left := time.Now()
		p.Close()
		wait(t, r.Gone(), "the upstream's connection to be closed")
		t.Logf("noticed after %v", time.Since(left))
	})
}

func TestClientGoneWhileAnotherRequestIsPipelined(t *testing.T) {
	s := start(t)
	p := s.dial()
	p.send(request("X-Fake: silent", "Content-Length: 2") + "{}" + request("X-Fake: json", "Content-Length: 2") + "{}")
	r := must(s.up.Await(within(t, soon), 1))[0]
	p.Close()
	wait(t, r.Gone(), "the upstream's connection to be closed")
	if n := s.up.Count(); n != 1 {
		t.Errorf("%d requests reached the upstream, want 1: nobody waits for the second", n)
	}
}

// cuts are responses that break off. None may look complete.
var cuts = []string{"cut n=3", "cut n=3 alert=0", "reset n=3", "cutcl", "badchunk"}

func TestCutAnswerNeverLooksComplete(t *testing.T) {
	both(t, func(t *testing.T, options ...func(*setup)) {
		s := start(t, options...)
		for _, scenario := range cuts {
			res := s.post(scenario, `{"stream":true}`)
			if _, err := io.ReadAll(res.Body); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: the body ends as if it were whole", scenario)
			}
		}
		if n := len(s.logged()); n != len(cuts) {
			t.Errorf("%d lines logged, want one for each cut: %q", n, s.logged())
		}
	})
}

// TestCutAnswerToHTTP10 is the same for a client that has no framing but the
// connection's end.
func TestCutAnswerToHTTP10(t *testing.T) {
	s := start(t)
	p := s.dial()
	p.send("POST /v1/responses HTTP/1.0\r\nX-Fake: cut n=3\r\nContent-Length: 2\r\n\r\n{}")
	if _, err := io.ReadAll(p.answer().Body); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the body ends as if it were whole, or goes on: %v", err)
	}
}

func TestHTTP10(t *testing.T) {
	s := start(t)
	p := s.dial()
	p.send("POST /v1/responses HTTP/1.0\r\nX-Fake: sse n=3\r\nContent-Length: 2\r\n\r\n{}")
	res := p.answer()
	body := read(t, res)
	if len(res.TransferEncoding) > 0 || !strings.Contains(body, "response.completed") {
		t.Errorf("coding %q, body %q", res.TransferEncoding, body)
	}
	p.ended()
}

// TestHTTP10KeepAlive: a client of HTTP/1.0 takes a connection for persistent only if the response says so.
func TestHTTP10KeepAlive(t *testing.T) {
	s := start(t)
	p := s.dial()
	for _, want := range []string{"keep-alive", "keep-alive", "close"} {
		option := "Connection: " + want + "\r\n"
		p.send("POST /v1/responses HTTP/1.0\r\n" + option + "X-Fake: json\r\nContent-Length: 2\r\n\r\n{}")
		res := p.answer()
		read(t, res)
		got := cmp.Or(res.Header.Get("Connection"), map[bool]string{true: "close"}[res.Close]) // which net/http takes out
		if res.StatusCode != 200 || got != want {
			t.Errorf("status %d, Connection %q, want %q", res.StatusCode, got, want)
		}
	}
	p.ended()
}

func TestUpstreamThatGivesNoAnswer(t *testing.T) {
	for scenario, want := range map[string]struct {
		status int
		code   string
	}{
		"closebefore":                       {502, "upstream_closed"},
		"cuthead":                           {502, "upstream_closed"},
		"garbage":                           {502, "upstream_malformed"},
		"clte":                              {502, "upstream_malformed"},
		"clcl":                              {502, "upstream_malformed"},
		"barelf":                            {502, "upstream_malformed"},
		"switch":                            {502, "upstream_malformed"},
		"bighead s=200000":                  {502, "upstream_malformed"},
		"bighead s=1 n=257":                 {502, "upstream_malformed"},
		"redirect status=307 to=http://h/":  {502, "upstream_redirect"},
		"redirect status=308 to=/elsewhere": {502, "upstream_redirect"},
		"redirect status=301 to=/elsewhere": {502, "upstream_redirect"},
	} {
		both(t, func(t *testing.T, options ...func(*setup)) {
			s := start(t, options...)
			res := s.post(scenario, `{}`)
			if got := code(t, res); res.StatusCode != want.status || got != want.code {
				t.Errorf("%s: %d %s, want %d %s", scenario, res.StatusCode, got, want.status, want.code)
			}
			if n := s.up.Count(); n != 1 {
				t.Errorf("%s: the upstream saw %d requests, want 1: none may be repeated", scenario, n)
			}
			if l := s.logged(); len(l) != 1 || strings.Contains(l[0], "sk-") {
				t.Errorf("%s: logged %q, want one line without the key", scenario, l)
			}
		})
	}
}

func TestStatusesPass(t *testing.T) {
	s := start(t)
	for _, status := range []string{"400", "401", "403", "404", "429", "500", "503", "529"} {
		res := s.post("status code="+status+" retry=2", `{}`)
		if got := res.Status[:3]; got != status || res.Header.Get("Retry-After") != "2" || res.Header.Get("X-Request-Id") == "" {
			t.Errorf("status %s came as %s, Retry-After %q", status, res.Status, res.Header.Get("Retry-After"))
		}
		code(t, res)
	}
}

func TestAnswersPassAsTheyAre(t *testing.T) {
	both(t, func(t *testing.T, options ...func(*setup)) {
		s := start(t, options...)
		for _, scenario := range []string{"bytes s=3000000", "chunks s=3000000", "bytes s=0", "bytes s=1"} {
			res := s.post(scenario, `{}`)
			got := read(t, res)
			want := make([]byte, len(got))
			openaitest.Pattern(want, 0)
			if got != string(want) {
				t.Errorf("%s: %d bytes, and not those that were sent", scenario, len(got))
			}
		}
		for _, scenario := range []string{"gzip", "closedelim n=3", "http10", "continue", "trailers", "nocontent", "bighead s=60000", "keepalive n=2 d=1ms"} {
			res := s.post(scenario, `{}`)
			if body := read(t, res); res.StatusCode/100 != 2 || scenario == "gzip" && !strings.HasPrefix(body, "\x1f\x8b") {
				t.Errorf("%s: status %d", scenario, res.StatusCode)
			}
		}
	})
}

func TestBodiesPassAsTheyAre(t *testing.T) {
	both(t, func(t *testing.T, options ...func(*setup)) {
		s := start(t, options...)
		for _, size := range []int{0, 1, 1000, 4000, 8192, 16 << 10, 65 << 10, 1<<20 - 1, 1 << 20, 1<<20 + 1, 5 << 20} {
			body := make([]byte, size)
			openaitest.Pattern(body, int64(size))
			s.upload(t, "json", bytes.NewReader(body), body)                            // Content-Length
			s.upload(t, "json", io.MultiReader(bytes.NewReader(body)), body)            // chunked
			s.upload(t, "json", io.MultiReader(halves(body)[0], halves(body)[1]), body) // in two pieces
		}
		s.clean()
	})
}

// TestBackPressure has the upstream read slowly through a small window.
func TestBackPressure(t *testing.T) {
	both(t, func(t *testing.T, options ...func(*setup)) {
		s := start(t, options...)
		body := make([]byte, 150<<10)
		openaitest.Pattern(body, 7)
		s.upload(t, "slowread s=4096 d=1ms", bytes.NewReader(body), body)
		s.clean()
	})
}

func halves(b []byte) [2]io.Reader {
	return [2]io.Reader{bytes.NewReader(b[:len(b)/2]), bytes.NewReader(b[len(b)/2:])}
}

func (s *stack) upload(t *testing.T, scenario string, from io.Reader, body []byte) {
	t.Helper()
	before := s.up.Count()
	res, err := s.do(within(t, soon), scenario, from)
	if err != nil {
		t.Fatalf("%d bytes: %v", len(body), err)
	}
	read(t, res)
	r := s.up.Requests()[before]
	wait(t, r.Done(), "the request's end")
	if r.BodySHA256 != sha256.Sum256(body) || r.BodyLen != int64(len(body)) {
		t.Errorf("%d bytes arrived as %d others", len(body), r.BodyLen)
	}
}

func TestContentEncodingIsLeftAlone(t *testing.T) {
	s := start(t)
	for _, coding := range []string{"zstd", "gzip"} {
		p := s.dial()
		p.send(request("Content-Encoding: "+coding, "Content-Length: 4", "X-Fake: json") + "\x28\xb5\x2f\xfd")
		read(t, p.answer())
		r := s.up.Requests()[s.up.Count()-1]
		if b := must(r.Body(within(t, soon))); r.Get("Content-Encoding") != coding || string(b) != "\x28\xb5\x2f\xfd" || r.Get("Accept-Encoding") != "" {
			t.Errorf("%s: body %x, Accept-Encoding %q", coding, b, r.Get("Accept-Encoding"))
		}
	}
}

// TestEarlyAnswerToALargeBody has the upstream refuse without reading the body.
func TestEarlyAnswerToALargeBody(t *testing.T) {
	both(t, func(t *testing.T, options ...func(*setup)) {
		s := start(t, options...)
		for range 10 {
			p := s.dial()
			p.send(request("X-Fake: early status=413", "Content-Length: 8000000"))
			res := p.answer() // before a single byte of the body
			if code(t, res); res.StatusCode != 413 {
				t.Errorf("status %d", res.StatusCode)
			}
			if !res.Close {
				t.Error("the connection is to go on, in the middle of a body")
			}
			p.Close()
		}
		if l := s.logged(); len(l) > 0 {
			t.Errorf("logged %q", l)
		}
	})
}

// TestUnfinishedBodyIsNeverForwardedAsComplete has the client leave in the middle of its body.
func TestUnfinishedBodyIsNeverForwardedAsComplete(t *testing.T) {
	both(t, func(t *testing.T, options ...func(*setup)) {
		s := start(t, options...)
		for _, body := range []string{
			"Content-Length: 100\r\n\r\nhalf",
			"Content-Length: 3000000\r\n\r\nhalf",
			"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
			"Transfer-Encoding: chunked\r\n\r\n8\r\nhalf",
			"Transfer-Encoding: chunked\r\n\r\n200000\r\n" + strings.Repeat("x", 0x200000) + "\r\n",
		} {
			p := s.dial()
			p.send("POST /v1/responses HTTP/1.1\r\nHost: h\r\nX-Fake: json\r\n" + body)
			p.Close()
		}
		// The server is done with all of them when it is drained.
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		s.server.Drain(ctx, s.listener)
		for _, r := range s.up.Requests() {
			wait(t, r.Done(), "the request's end")
			if _, err := r.Body(ctx); err == nil {
				t.Errorf("a body of %d bytes arrived as complete", r.BodyLen)
			}
			select {
			case <-r.Answered():
				t.Error("a request that nobody finished was answered")
			default:
			}
		}
	})
}

func TestMalformedChunksInALargeBody(t *testing.T) {
	s := start(t)
	p := s.dial()
	p.send(request("X-Fake: json", "Transfer-Encoding: chunked") + "200000\r\n" + strings.Repeat("x", 0x200000) + "\r\nZZ\r\n")
	res := p.answer()
	if got := code(t, res); res.StatusCode != 400 || got != "incomplete_body" {
		t.Errorf("status %d, code %q", res.StatusCode, got)
	}
	for _, r := range s.up.Requests() {
		wait(t, r.Done(), "the request's end")
		if _, err := r.Body(within(t, soon)); err == nil {
			t.Error("the body arrived as complete")
		}
	}
}

// TestManyShortStreams is the trap that httputil.ReverseProxy falls into: an
// upstream that responds before it has read the body.
func TestManyShortStreams(t *testing.T) {
	n := 12000
	if testing.Short() || raceEnabled {
		n = 1500
	}
	for _, body := range []string{`{"stream":true}`, strings.Repeat("x", 100<<10)} {
		both(t, func(t *testing.T, options ...func(*setup)) {
			s := start(t, append(options, func(s *setup) { s.fake.Forget = true })...)
			s.manyStreams(t, n/2, body)
		})
	}
}

func (s *stack) manyStreams(t *testing.T, n int, body string) {
	var left, broken atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				res, err := s.do(context.Background(), "earlysse n=3", strings.NewReader(body))
				if err != nil {
					broken.Add(1)
					continue
				}
				b, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || !bytes.Contains(b, []byte("event: response.completed")) {
					broken.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if broken.Load() > 0 {
		t.Errorf("%d of %d streams are broken", broken.Load(), n)
	}
}

// TestStaleConnections checks that clients do not notice when the upstream closes idle kept-alive connections.
func TestStaleConnections(t *testing.T) {
	both(t, func(t *testing.T, options ...func(*setup)) {
		s := start(t, options...)
		for i := range 50 {
			if res := s.post("json", `{}`); res.StatusCode != 200 {
				t.Fatalf("request %d: status %d", i, res.StatusCode)
			} else {
				read(t, res)
			}
			s.up.CloseIdle()
			if err := s.up.AwaitOpen(within(t, soon), 0); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.up.Count(); n != 50 {
			t.Errorf("the upstream saw %d requests, want 50", n)
		}
	})
}

// TestFlatMemory checks that bodies of 64 MB pass in both directions through a few buffers. The upstream is net/http's
// server here, which keeps no body.
func TestFlatMemory(t *testing.T) {
	const size = 64 << 20
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		io.CopyN(w, zeros{}, n)
	}))
	defer sink.Close()
	s := start(t, func(s *setup) { s.url = sink.URL + "/v1/responses" })
	for _, known := range []bool{true, false} {
		s.transfer(t, 4<<20, known) // grows what is kept
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		s.transfer(t, size, known)
		runtime.ReadMemStats(&after)
		if grown := int64(after.TotalAlloc) - int64(before.TotalAlloc); grown > 8<<20 {
			t.Errorf("%d MiB were allocated for a body of %d", grown>>20, size>>20)
		}
	}
}

// transfer sends size bytes, of a length that is announced or not, and gets as
// many back.
func (s *stack) transfer(t *testing.T, size int64, known bool) {
	t.Helper()
	req := must(http.NewRequestWithContext(within(t, 2*time.Minute), "POST", s.url, io.LimitReader(zeros{}, size)))
	if known {
		req.ContentLength = size
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil {
		t.Fatalf("%d bytes came back: %v", n, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func itoa(n int64) string { b, _ := json.Marshal(n); return string(b) }

func TestHundredsOfStreams(t *testing.T) {
	const n = 300
	s := start(t, overTLS)
	var wg sync.WaitGroup
	errs := make(chan error, n)
	starting := make(chan struct{}, 32) // on a loaded machine 300 handshakes at once take longer than one may
	for range n {
		wg.Go(func() {
			starting <- struct{}{}
			res, err := s.do(within(t, time.Minute), "sse n=20 d=100ms", strings.NewReader(`{"stream":true}`))
			<-starting
			if err != nil {
				errs <- err
				return
			}
			defer res.Body.Close()
			b, err := io.ReadAll(res.Body)
			if n := bytes.Count(b, []byte("event: response.output_text.delta")); err == nil && n != 20 {
				err = fmt.Errorf("status %d with %d events of 20: %.200q", res.StatusCode, n, b)
			}
			if err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	s.clean()
}

func TestExpectContinue(t *testing.T) {
	s := start(t)
	for _, length := range []int{2, 3 << 20} { // read first; streamed
		p := s.dial()
		p.send(request("X-Fake: json", "Expect: 100-continue", "Content-Length: "+itoa(int64(length))))
		if res := p.answer(); res.StatusCode != 100 {
			t.Fatalf("%d bytes: status %d in place of 100", length, res.StatusCode)
		}
		p.send(strings.Repeat("x", length))
		if res := p.answer(); res.StatusCode != 200 {
			t.Errorf("%d bytes: status %d", length, res.StatusCode)
		}
		r := s.up.Requests()[s.up.Count()-1]
		if r.Get("Expect") != "" {
			t.Error("the expectation was passed on")
		}
	}
}

// TestExpectContinueRefused checks that a client that waits for 100 Continue is refused at once, without it.
func TestExpectContinueRefused(t *testing.T) {
	s := start(t)
	p := s.dial()
	p.send("POST /v1/models HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if res := p.answer(); res.StatusCode != 403 || !res.Close {
		t.Errorf("status %d, close %v", res.StatusCode, res.Close)
	}
}

func TestKeepAliveAndPipelining(t *testing.T) {
	s := start(t)
	p := s.dial()
	p.send(request("X-Fake: json", "Content-Length: 2") + "{}" + "\r\n" +
		"GET / HTTP/1.1\r\nHost: h\r\n\r\n" + request("X-Fake: sse n=2", "Transfer-Encoding: chunked") + "2\r\n{}\r\n0\r\n\r\n")
	var statuses []int
	for range 3 {
		res := p.answer()
		read(t, res)
		statuses = append(statuses, res.StatusCode)
	}
	if !slices.Equal(statuses, []int{200, 403, 200}) {
		t.Errorf("statuses %v", statuses)
	}
	p.send(request("X-Fake: json", "Connection: close", "Content-Length: 0"))
	res := p.answer()
	if read(t, res); res.StatusCode != 200 || !res.Close {
		t.Errorf("status %d, close %v", res.StatusCode, res.Close)
	}
	p.ended()
}

func TestRefusedBodyIsReadForTheNextRequest(t *testing.T) {
	s := start(t)
	p := s.dial()
	p.send("POST /v1/models HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100000) + request("X-Fake: json", "Content-Length: 2") + "{}")
	if res := p.answer(); res.StatusCode != 403 {
		t.Fatalf("status %d", res.StatusCode)
	} else {
		read(t, res)
	}
	if res := p.answer(); res.StatusCode != 200 {
		t.Errorf("status %d for the request behind", res.StatusCode)
	}
}

func TestUpstreamUnreachable(t *testing.T) {
	s := start(t, func(s *setup) { s.url = "http://127.0.0.1:9/v1/responses" })
	res := s.post("json", `{}`)
	if got := code(t, res); res.StatusCode != 502 || got != "upstream_unreachable" {
		t.Errorf("status %d, code %q", res.StatusCode, got)
	}
	if l := s.logged(); len(l) != 1 || !strings.Contains(l[0], "refused") {
		t.Errorf("logged %q", l)
	}
}

func TestUntrustedUpstream(t *testing.T) {
	other := must(openaitest.Start(openaitest.Options{TLS: true, Key: canary}))
	defer other.Close()
	s := start(t, overTLS, func(s *setup) { s.url = other.URL() })
	res := s.post("json", `{}`)
	if got := code(t, res); res.StatusCode != 502 || got != "upstream_tls_failed" {
		t.Errorf("status %d, code %q", res.StatusCode, got)
	}
	if n := other.Count(); n != 0 {
		t.Errorf("%d requests reached an upstream that is not trusted", n)
	}
}
