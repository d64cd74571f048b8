package openaitest

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// timeout is for what must happen at all.
const timeout = 30 * time.Second

const canary = "sk-test-0123456789abcdefghijklmnopqrstuvwxyz"

func start(t testing.TB, o Options) *Server {
	t.Helper()
	if o.Key == "" {
		o.Key = canary
	}
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// client trusts s and shares no connection with other tests.
func client(t testing.TB, s *Server) *http.Client {
	tr := &http.Transport{MaxIdleConnsPerHost: 100}
	if s.CAPEM() != nil {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(s.CAPEM())
		tr.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	t.Cleanup(tr.CloseIdleConnections)
	noRedirect := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &http.Client{Transport: tr, CheckRedirect: noRedirect}
}

func request(t testing.TB, s *Server, scenario, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", s.URL(), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+canary)
	if scenario != "" {
		r.Header.Set("X-Fake", scenario)
	}
	return r
}

func do(t testing.TB, s *Server, scenario, body string) (*http.Response, []byte, error) {
	t.Helper()
	res, err := client(t, s).Do(request(t, s, scenario, body))
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	return res, all, err
}

func mustDo(t testing.TB, s *Server, scenario, body string) (*http.Response, []byte) {
	t.Helper()
	res, all, err := do(t, s, scenario, body)
	if err != nil {
		t.Fatalf("%s: %v", scenario, err)
	}
	return res, all
}

// dialRaw sends text on a connection of its own and returns it.
func dialRaw(t testing.TB, s *Server, text string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return c
}

func plainHead(scenario string, extra ...string) string {
	return "POST /v1/responses HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + canary + "\r\nX-Fake: " + scenario + "\r\n" +
		strings.Join(append(extra, ""), "\r\n") + "\r\n"
}

func waitFor(t testing.TB, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(timeout):
		t.Fatalf("not within %v: %s", timeout, what)
	}
}

func isOpen(c <-chan struct{}) bool {
	select {
	case <-c:
		return false
	default:
		return true
	}
}

func noFaults(t testing.TB, s *Server) {
	t.Helper()
	if f := s.Faults(); len(f) > 0 {
		t.Errorf("faults: %q", f)
	}
}

// whole are scenarios whose responses a client accepts as complete.
var whole = []struct {
	scenario string
	status   int
}{
	{"auto", 200}, {"json s=100", 200}, {"sse n=3", 200}, {"sse n=3 s=400 d=1ms", 200}, {"keepalive d=1ms", 200},
	{"failed", 200}, {"silent d=1ms", 200}, {"headthensilent d=1ms", 200}, {"early status=413", 413}, {"earlyclose", 413},
	{"earlysse n=5", 200}, {"redirect status=308 to=http://x.invalid/", 308}, {"status code=503", 503}, {"gzip", 200}, {"echo", 200},
	{"closedelim", 200}, {"http10", 200}, {"continue", 200}, {"bighead", 200}, {"trailers", 200}, {"bytes s=100000", 200},
	{"chunks s=100000", 200}, {"nocontent", 204}, {"slowread s=8 d=1ms", 200}, {"stale", 200},
	{"background", 200}, {"search", 200},
}

func TestWholeAnswers(t *testing.T) {
	for _, withTLS := range []bool{false, true} {
		s := start(t, Options{TLS: withTLS})
		for _, c := range whole {
			res, _ := mustDo(t, s, c.scenario, `{"model":"m"}`)
			if res.StatusCode != c.status {
				t.Errorf("tls=%v %s: %d, want %d", withTLS, c.scenario, res.StatusCode, c.status)
			}
		}
		noFaults(t, s)
	}
}

// TestBrokenAnswers lists the responses that no client may accept as complete.
func TestBrokenAnswers(t *testing.T) {
	for _, withTLS := range []bool{false, true} {
		s := start(t, Options{TLS: withTLS})
		for _, scenario := range []string{
			"cut n=3", "cut n=0", "cut alert=0", "reset n=3", "cutchunk", "cutcl", "closebefore", "cuthead", "garbage", "clcl", "badchunk",
		} {
			if res, body, err := do(t, s, scenario, "{}"); err == nil {
				t.Errorf("tls=%v %s: %d and %d bytes without an error", withTLS, scenario, res.StatusCode, len(body))
			}
		}
		for _, r := range s.Requests() {
			waitFor(t, "done", r.Done())
		}
	}
}

func TestEveryScenarioIsTested(t *testing.T) {
	tested := map[string]bool{"silent": true, "switch": true, "clte": true, "barelf": true}
	for _, c := range whole {
		tested[strings.Fields(c.scenario)[0]] = true
	}
	for _, n := range []string{"cut", "reset", "cutchunk", "cutcl", "closebefore", "cuthead", "garbage", "clcl", "badchunk"} {
		tested[n] = true
	}
	for _, c := range websockets {
		tested[strings.Fields(c.scenario)[0]] = true
	}
	for name := range scenarios {
		if !tested[name] {
			t.Errorf("%s is in no test", name)
		}
	}
}

// events splits a stream and checks each event's form.
func events(t *testing.T, body []byte) []map[string]any {
	t.Helper()
	var all []map[string]any
	for _, e := range strings.SplitAfter(string(body), "\n\n") {
		if e == "" {
			continue
		}
		name, data, ok := strings.Cut(strings.TrimPrefix(e, "event: "), "\ndata: ")
		var m map[string]any
		if err := json.Unmarshal([]byte(data), &m); err != nil || !ok {
			t.Fatalf("event %q: %v", e, err)
		}
		if m["type"] != name || m["sequence_number"] != float64(len(all)) {
			t.Errorf("event %d is %s, says %v, number %v", len(all), name, m["type"], m["sequence_number"])
		}
		all = append(all, m)
	}
	return all
}

func TestStream(t *testing.T) {
	s := start(t, Options{})
	res, body := mustDo(t, s, "", `{"model":"gpt-x","stream":true}`)
	if got := res.Header.Get("Content-Type"); got != "text/event-stream; charset=utf-8" {
		t.Error(got)
	}
	var names []string
	text := ""
	all := events(t, body)
	for _, e := range all {
		names = append(names, strings.TrimPrefix(e["type"].(string), "response."))
		if d, ok := e["delta"].(string); ok {
			text += d
		}
	}
	want := "created in_progress output_item.added content_part.added" + strings.Repeat(" output_text.delta", 5) +
		" output_text.done content_part.done output_item.done completed"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	last := all[len(all)-1]["response"].(map[string]any)
	out := last["output"].([]any)[0].(map[string]any)["content"].([]any)[0].(map[string]any)
	if out["text"] != text || last["model"] != "gpt-x" || last["usage"] == nil {
		t.Errorf("last event: %v", last)
	}
}

func TestDeltaSize(t *testing.T) {
	s := start(t, Options{})
	_, body := mustDo(t, s, "sse n=120 s=400", "{}")
	deltas := 0
	for _, e := range strings.SplitAfter(string(body), "\n\n") {
		if strings.HasPrefix(e, "event: response.output_text.delta") {
			deltas++
			if len(e) != 400 {
				t.Fatalf("event of %d bytes: %s", len(e), e)
			}
		}
	}
	if deltas != 120 {
		t.Errorf("%d deltas", deltas)
	}
}

func TestDeltasComeApart(t *testing.T) {
	s := start(t, Options{})
	_, body := mustDo(t, s, "sse n=3 d=20ms", "{}")
	var at []float64
	for _, e := range events(t, body) {
		if t, ok := e["t"].(float64); ok {
			at = append(at, t)
		}
	}
	if len(at) != 3 || at[1]-at[0] < 15e6 || at[2]-at[1] < 15e6 {
		t.Errorf("sent at %v", at)
	}
}

func TestJSON(t *testing.T) {
	s := start(t, Options{})
	res, body := mustDo(t, s, "", `{"model":"gpt-x"}`)
	var m struct {
		ID, Object, Status, Model string
		Usage                     struct {
			Total int `json:"total_tokens"`
		}
	}
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	if m.Object != "response" || m.Status != "completed" || m.Model != "gpt-x" || m.Usage.Total == 0 || !strings.HasPrefix(m.ID, "resp_") {
		t.Errorf("%+v", m)
	}
	for _, name := range []string{"X-Request-Id", "Set-Cookie", "Alt-Svc", "Cf-Ray", "X-Ratelimit-Limit-Tokens", "Date", "Openai-Version"} {
		if res.Header.Get(name) == "" {
			t.Errorf("no %s", name)
		}
	}
	if n := len(res.Header.Values("Set-Cookie")); n != 2 {
		t.Errorf("%d cookies", n)
	}
}

func TestErrors(t *testing.T) {
	s := start(t, Options{})
	cases := []struct {
		name   string
		change func(*http.Request)
		body   string
		status int
		code   any
	}{
		{"wrong key", func(r *http.Request) { r.Header.Set("Authorization", "Bearer sk-wrong") }, "{}", 401, "invalid_api_key"},
		{"no key", func(r *http.Request) { r.Header.Del("Authorization") }, "{}", 401, "invalid_api_key"},
		{"not JSON", func(*http.Request) {}, "{", 400, nil},
		{"route", func(r *http.Request) { r.URL.Path = "/v1/files" }, "{}", 404, nil},
		{"method", func(r *http.Request) { r.Method = "PUT" }, "{}", 405, nil},
		{"scenario", func(r *http.Request) { r.Header.Set("X-Fake", "nonsense") }, "{}", 400, nil},
		{"argument", func(r *http.Request) { r.Header.Set("X-Fake", "sse n=x") }, "{}", 400, nil},
		{"429", func(r *http.Request) { r.Header.Set("X-Fake", "status code=429 retry=2") }, "{}", 429, "rate_limit_exceeded"},
	}
	for _, c := range cases {
		r := request(t, s, "", c.body)
		c.change(r)
		res, err := client(t, s).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		var e struct{ Error map[string]any }
		if err := json.NewDecoder(res.Body).Decode(&e); err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != c.status || e.Error["code"] != c.code || e.Error["message"] == "" || len(e.Error) != 4 {
			t.Errorf("%s: %d %v", c.name, res.StatusCode, e.Error)
		}
		if c.status == 429 && res.Header.Get("Retry-After") != "2" {
			t.Error("no Retry-After")
		}
	}
	noFaults(t, s)
}

// TestOtherPath: a server at a path of any other name makes responses there, and nothing else.
func TestOtherPath(t *testing.T) {
	s := start(t, Options{Path: "/a/c?x=1"})
	for _, c := range []struct {
		method, path string
		status       int
	}{{"POST", "/a/c", 200}, {"GET", "/a/c", 405}, {"POST", "/a/c/compact", 404}, {"POST", "/a/responses", 404}, {"GET", "/a/models", 404}} {
		r := request(t, s, "", "{}")
		r.Method, r.URL.Path = c.method, c.path
		res, err := client(t, s).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != c.status {
			t.Errorf("%s %s: status %d, want %d", c.method, c.path, res.StatusCode, c.status)
		}
	}
}

func TestChoice(t *testing.T) {
	s := start(t, Options{Default: "status code=418"})
	s.Script("status code=420", "status code=421")
	status := func(scenario, body string) int {
		res, _ := mustDo(t, s, scenario, body)
		return res.StatusCode
	}
	got := []int{
		status("status code=422", `{}`),
		status("", "{}"),
		status("status code=422", `{}`),
		status("", "{}"),
	}
	if want := fmt.Sprint([]int{420, 421, 422, 418}); fmt.Sprint(got) != want {
		t.Errorf("%v, want %v", got, want)
	}
	if _, err := Start(Options{Default: "nonsense"}); err == nil {
		t.Error("started with an unknown default")
	}
}

func TestRecord(t *testing.T) {
	s := start(t, Options{TLS: true})
	body := strings.Repeat("x", maxKept+100)
	r := request(t, s, "json", body)
	r.Header["X-Twice"] = []string{"a", "b"}
	r.Header.Set("Cookie", "c=d")
	if _, err := client(t, s).Do(r); err != nil {
		t.Fatal(err)
	}
	all, err := s.Await(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	got := all[0]
	kept, err := got.Body(t.Context())
	if err != nil || len(kept) != maxKept || got.BodyLen != int64(len(body)) || got.BodySHA256 != sha256.Sum256([]byte(body)) {
		t.Errorf("body: %v, %d of %d", err, len(kept), got.BodyLen)
	}
	waitFor(t, "answered", got.Answered())
	if got.Method != "POST" || got.Target != "/v1/responses" || fmt.Sprint(got.Values("x-twice")) != "[a b]" {
		t.Errorf("%+v", got)
	}
	if c := got.Credentials(); len(c) != 2 {
		t.Errorf("credentials %q", c)
	}
	if !bytes.HasPrefix(got.Head, []byte("POST /v1/responses HTTP/1.1\r\n")) || !bytes.HasSuffix(got.Head, []byte("\r\n\r\n")) {
		t.Errorf("head %q", got.Head)
	}
	if got.TLS == nil || got.Conn != 1 || s.Count() != 1 {
		t.Error("connection not recorded")
	}
}

func TestForget(t *testing.T) {
	s := start(t, Options{Forget: true})
	mustDo(t, s, "json", "{}")
	if all, err := s.Await(t.Context(), 1); err != nil || len(all) != 0 || s.Count() != 1 {
		t.Errorf("%d kept, %v", len(all), err)
	}
}

// TestGone checks that a peer's leaving is noticed while nothing is sent.
func TestGone(t *testing.T) {
	for _, withTLS := range []bool{false, true} {
		for _, scenario := range []string{"silent", "headthensilent", "sse n=3 d=1h"} {
			s := start(t, Options{TLS: withTLS})
			ctx, leave := context.WithCancel(t.Context())
			returned := make(chan struct{})
			go func() {
				defer close(returned)
				res, err := client(t, s).Do(request(t, s, scenario, "{}").WithContext(ctx))
				if err == nil {
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			}()
			all, err := s.Await(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			all[0].Body(t.Context())
			if !isOpen(all[0].Gone()) {
				t.Errorf("%s: gone too early", scenario)
			}
			leave()
			waitFor(t, scenario+": gone", all[0].Gone())
			waitFor(t, scenario+": done", all[0].Done())
			<-returned
			if !isOpen(all[0].Answered()) {
				t.Errorf("%s: answered", scenario)
			}
			if err := s.AwaitOpen(t.Context(), 0); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestGoneAfterMore checks the same of a peer that has sent a part of its next request.
func TestGoneAfterMore(t *testing.T) {
	s := start(t, Options{})
	c := dialRaw(t, s, plainHead("silent", "Content-Length: 0")+plainHead("json", "Content-Length: 20000")+strings.Repeat("x", 20000))
	all, err := s.Await(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	all[0].Body(t.Context())
	c.Close()
	waitFor(t, "gone", all[0].Gone())
}

func TestServe(t *testing.T) {
	s := start(t, Options{Forget: true, Serve: func(c *Conn) error {
		method, all := string(c.Method), ""
		for {
			piece, err := c.Body()
			all += string(piece)
			switch err {
			case nil:
			case io.EOF:
				_, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s%s", len(method+all), method, all)
				return err
			default:
				return err
			}
		}
	}})
	c := dialRaw(t, s, plainHead("", "Content-Length: 3")+"abc"+plainHead("", "Transfer-Encoding: chunked")+"2\r\nde\r\n0\r\n\r\n"+
		plainHead("", "Expect: 100-continue", "Content-Length: 1"))
	br := bufio.NewReader(c)
	for _, want := range []string{"POSTabc", "POSTde", "", "POSTf"} {
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(res.Body); err != nil || string(got) != want || (res.StatusCode == 100) != (want == "") {
			t.Errorf("status %d, %q, %v; want %q", res.StatusCode, got, err, want)
		}
		if want == "" {
			io.WriteString(c, "f")
		}
	}
	io.WriteString(c, plainHead("", "Transfer-Encoding: chunked")+"zz\r\n")
	if rest, err := io.ReadAll(br); len(rest) > 0 || err != nil {
		t.Errorf("%q, %v after a malformed body", rest, err)
	}
}

func TestSwitch(t *testing.T) {
	s := start(t, Options{})
	c := dialRaw(t, s, plainHead("switch"))
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || res.StatusCode != 101 {
		t.Fatalf("%v %v", res, err)
	}
	c.Close()
	waitFor(t, "gone", s.Requests()[0].Gone())
}

// TestNotGone checks that a peer that leaves right after the last byte was not
// gone before it.
func TestNotGone(t *testing.T) {
	s := start(t, Options{})
	for range 300 {
		c := dialRaw(t, s, plainHead("bytes s=20000", "Content-Length: 2")+"{}")
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		c.Close()
	}
	for _, r := range s.Requests() {
		waitFor(t, "answered", r.Answered())
		if !isOpen(r.Gone()) {
			t.Fatal("gone")
		}
	}
}

func TestCloseIdle(t *testing.T) {
	s := start(t, Options{})
	cl := client(t, s)
	for i := range 20 {
		res, err := cl.Do(request(t, s, "json", "{}"))
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		s.CloseIdle()
		if err := s.AwaitOpen(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if s.Conns() != i+1 || s.Open() != 0 {
			t.Fatalf("%d connections, %d open", s.Conns(), s.Open())
		}
		cl.CloseIdleConnections()
	}
}

func TestCloseIdleSparesTheBusy(t *testing.T) {
	s := start(t, Options{})
	c := dialRaw(t, s, plainHead("silent", "Content-Length: 0"))
	all, _ := s.Await(t.Context(), 1)
	s.CloseIdle()
	if s.Open() != 1 {
		t.Error("closed")
	}
	c.Close()
	waitFor(t, "gone", all[0].Gone())
}

// TestPipeline checks that responses before the body, and bodies that are not read, leave the connection usable.
func TestPipeline(t *testing.T) {
	s := start(t, Options{})
	body := strings.Repeat("y", 200_000)
	size := fmt.Sprintf("Content-Length: %d", len(body))
	c := dialRaw(t, s, "")
	go io.WriteString(c, plainHead("early status=413", size)+body+plainHead("earlysse n=2", size)+body+
		plainHead("json", "Transfer-Encoding: chunked")+"3\r\nabc\r\n1;x=y\r\nd\r\n0\r\nT: u\r\n\r\n"+plainHead("status code=500", "Connection: close"))
	br := bufio.NewReader(c)
	for _, want := range []int{413, 200, 200, 500} {
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != want {
			t.Errorf("%d %v, want %d", res.StatusCode, err, want)
		}
	}
	if rest, err := io.ReadAll(br); err != nil || len(rest) > 0 {
		t.Errorf("%q %v", rest, err)
	}
	third := s.Requests()[2]
	if got, err := third.Body(t.Context()); string(got) != "abcd" || err != nil {
		t.Errorf("%q %v", got, err)
	}
	noFaults(t, s)
}

func TestExpect(t *testing.T) {
	s := start(t, Options{})
	c := dialRaw(t, s, plainHead("echo", "Expect: 100-continue", "Content-Length: 2"))
	br := bufio.NewReader(c)
	if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 100 {
		t.Fatalf("%v %v", res, err)
	}
	io.WriteString(c, "{}")
	if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 200 {
		t.Fatalf("%v %v", res, err)
	}
}

func TestEcho(t *testing.T) {
	s := start(t, Options{})
	_, body := mustDo(t, s, "echo", "payload")
	if !bytes.Equal(body, append(bytes.Clone(s.Requests()[0].Head), "payload"...)) || !bytes.Contains(body, []byte(canary)) {
		t.Errorf("%q", body)
	}
}

func TestGzip(t *testing.T) {
	s := start(t, Options{})
	r := request(t, s, "gzip", "{}")
	r.Header.Set("Accept-Encoding", "gzip")
	res, err := client(t, s).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	z, err := gzip.NewReader(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := io.ReadAll(z); err != nil || !json.Valid(p) {
		t.Errorf("%q %v", p, err)
	}
}

func TestPattern(t *testing.T) {
	s := start(t, Options{})
	want := make([]byte, 100_001)
	Pattern(want[:70_000], 0)
	Pattern(want[70_000:], 70_000)
	for _, scenario := range []string{"bytes s=100001", "chunks s=100001"} {
		if _, got := mustDo(t, s, scenario, ""); !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes differ", scenario, len(got))
		}
	}
}

// TestOnTheWire looks at what clients hide.
func TestOnTheWire(t *testing.T) {
	s := start(t, Options{})
	for scenario, want := range map[string][]string{
		"continue": {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n", "HTTP/1.1 200 OK\r\n"},
		"http10":   {"HTTP/1.0 200 OK\r\n"},
		"clte":     {"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"},
		"clcl":     {"Content-Length: 5\r\nContent-Length: 6\r\n"},
		"barelf":   {"HTTP/1.1 200 OK\nDate: ", "\n\n{"},
		"trailers": {"\r\n0\r\nX-Checksum: fake\r\n\r\n"},
	} {
		c := dialRaw(t, s, plainHead(scenario, "Connection: close", "Content-Length: 2")+"{}")
		got, err := io.ReadAll(c)
		if err != nil {
			t.Errorf("%s: %v", scenario, err)
		}
		for _, w := range want {
			if !bytes.Contains(got, []byte(w)) {
				t.Errorf("%s: no %q in %.300q", scenario, w, got)
			}
		}
	}
}

func TestFaults(t *testing.T) {
	good := plainHead("json")
	for _, c := range []struct{ text, fault string }{
		{strings.Replace(good, "\r\nHost", "\nHost", 1), "bare line feed"},
		{strings.Replace(good, "Host: x\r\n", "", 1), "Host"},
		{plainHead("json", "Host: y"), "Host"},
		{plainHead("json", "authorization: Bearer z"), "Authorization"},
		{plainHead("json", "Content-Length: 1", "Content-Length: 1"), "Content-Length"},
		{plainHead("json", "Content-Length: 1", "Transfer-Encoding: chunked"), "Transfer-Encoding"},
		{plainHead("json", "Content-Length: +1"), "Content-Length"},
		{plainHead("json", "Transfer-Encoding: gzip"), "chunked"},
		{plainHead("json", "A: b", " folded"), "folded"},
		{plainHead("json", "A : b"), "name"},
		{plainHead("json", "A: b\x00"), "control"},
		{strings.Replace(good, "HTTP/1.1", "HTTP/1.0", 1), "version"},
		{strings.Replace(good, "POST ", "POST  ", 1), "request target"},
		{plainHead("json", "Transfer-Encoding: chunked") + "2\r\nabc\r\n0\r\n\r\n", "chunk"},
		{plainHead("json", "Transfer-Encoding: chunked") + "3\nabc\r\n0\r\n\r\n", "chunk"},
		{plainHead("json", "Transfer-Encoding: chunked") + "-3\r\nabc\r\n0\r\n\r\n", "chunk"},
		{"\r\n" + good, "request line"},
		{strings.Replace(good, "/v1/responses", "/%zz", 1), "net/http refuses"},
	} {
		s := start(t, Options{})
		conn := dialRaw(t, s, c.text)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || res.StatusCode != 400 {
			t.Errorf("%q: %v %v", c.text, res, err)
		}
		if got := strings.Join(s.Faults(), "; "); !strings.Contains(got, c.fault) {
			t.Errorf("%q: faults %q, want one about %s", c.text, got, c.fault)
		}
		for _, f := range s.Faults() {
			if strings.Contains(f, canary) {
				t.Errorf("fault shows the key: %s", f)
			}
		}
	}
}

func TestBrokenBody(t *testing.T) {
	s := start(t, Options{})
	dialRaw(t, s, plainHead("json", "Content-Length: 10")+"abc").Close()
	all, err := s.Await(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := all[0].Body(t.Context()); string(got) != "abc" || err == nil {
		t.Errorf("%q %v", got, err)
	}
	waitFor(t, "gone", all[0].Gone())
}

func TestCloseEndsEverything(t *testing.T) {
	s := start(t, Options{TLS: true})
	var wg sync.WaitGroup
	for _, scenario := range []string{"silent", "sse n=2 d=1h", "slowread d=1h"} {
		wg.Go(func() { do(t, s, scenario, "{}") })
	}
	wg.Go(func() { net.Dial("tcp", s.Addr()) }) // never shakes hands
	s.Await(t.Context(), 3)
	s.Close()
	wg.Wait()
	s.Close()
}

func TestALPN(t *testing.T) {
	s := start(t, Options{TLS: true, TLSMax: tls.VersionTLS12})
	mustDo(t, s, "json", "{}")
	r := s.Requests()[0]
	if r.TLS.Version != tls.VersionTLS12 || r.TLS.NegotiatedProtocol == "h2" {
		t.Errorf("%x %q, offered %q", r.TLS.Version, r.TLS.NegotiatedProtocol, r.ALPN)
	}
}

// TestManyStreams runs as many streams as a load test of a proxy needs from its upstream.
func TestManyStreams(t *testing.T) {
	n := 12_000
	if testing.Short() {
		n = 500
	}
	s := start(t, Options{Forget: true})
	cl := client(t, s)
	work := make(chan struct{})
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range work {
				res, err := cl.Do(request(t, s, "", `{"stream":true}`))
				if err != nil {
					t.Error(err)
					continue
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || !bytes.Contains(body, []byte("response.completed")) {
					t.Errorf("%v after %d bytes", err, len(body))
				}
			}
		})
	}
	for range n {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
	noFaults(t, s)
}

// FuzzRequest asserts that whatever is sent, the server answers or closes, and
// that it serves the next one.
func FuzzRequest(f *testing.F) {
	s := start(f, Options{Forget: true})
	f.Add([]byte(plainHead("json", "Content-Length: 2") + "{}"))
	f.Add([]byte(plainHead("echo", "Transfer-Encoding: chunked") + "1\r\na\r\n0\r\n\r\n"))
	f.Add([]byte("\r\n\r\n"))
	f.Add([]byte("POST /v1/responses HTTP/1.1\r\n: \r\n\r\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		c := dialRaw(t, s, string(p))
		c.(*net.TCPConn).CloseWrite()
		c.SetDeadline(time.Now().Add(timeout))
		if _, err := io.ReadAll(c); err != nil {
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				t.Fatal(err)
			}
		}
	})
}
