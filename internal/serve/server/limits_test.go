package server_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/budget"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
)

// purse is a budget in memory, of one user: us.
type purse struct{ *budget.Ledger }

func newPurse(t testing.TB, limit int64) purse {
	b := must(budget.Open(budget.Config{Limit: limit}))
	t.Cleanup(func() { b.Close() })
	return purse{b}
}

// total is what has been spent.
func (p purse) total() int64 {
	spent, ok := p.Reserve(uint32(os.Geteuid()))
	if ok {
		p.Charge(uint32(os.Geteuid()), 1, 0)
	}
	return spent
}

// spent is a budget of which nothing is left.
func spent() *budget.Ledger {
	b := must(budget.Open(budget.Config{Limit: 1}))
	b.Charge(uint32(os.Geteuid()), 0, 1)
	return b
}

// limited is a stack with a policy that does not depend on the user.
func limited(t *testing.T, cfg policy.Config) *stack {
	t.Helper()
	rules := newPolicy(t, cfg)
	return start(t, func(s *setup) { s.server.Policy = rules })
}

// wantLeft checks what a refusal reports of the limit that it has met.
func wantLeft(t *testing.T, res *http.Response, of, limit, left, reset string) {
	t.Helper()
	for name, want := range map[string]string{"limit": limit, "remaining": left, "reset": reset} {
		if got := res.Header.Get("x-ratelimit-" + name + "-" + of); got != want {
			t.Errorf("x-ratelimit-%s-%s is %q, want %q", name, of, got, want)
		}
	}
}

func TestConcurrentRequests(t *testing.T) {
	s := limited(t, policy.Config{Limits: policy.Limits{MaxConcurrent: 1}})
	first := s.post("headthensilent", `{}`)
	res := s.post("json", `{}`)
	if got := code(t, res); res.StatusCode != 429 || got != "too_many_requests" || res.Header.Get("Retry-After") != "1" {
		t.Errorf("%d %s, Retry-After %q", res.StatusCode, got, res.Header.Get("Retry-After"))
	}
	wantLeft(t, res, "requests", "1", "0", "")
	if n := s.up.Count(); n != 1 {
		t.Errorf("the refused request reached the upstream")
	}
	first.Body.Close()
	wait(t, s.up.Requests()[0].Gone(), "the first request's end")
	for status := 0; status != 200; { // its slot is free once it has released its resources
		res := s.post("json", `{}`)
		read(t, res)
		status = res.StatusCode
	}
}

func TestBodyLimit(t *testing.T) {
	s := limited(t, policy.Config{Limits: policy.Limits{MaxBody: 2 << 20}})
	for _, c := range []struct {
		framing string
		body    string
		status  int
	}{
		{"Content-Length: 2097152", strings.Repeat(" ", 2<<20), 200},
		{"Content-Length: 2097153", "", 413},
		{"Content-Length: 999999999999", "", 413},
		{"Transfer-Encoding: chunked", "1fffff\r\n" + strings.Repeat(" ", 0x1fffff) + "\r\n0\r\n\r\n", 200},
		{"Transfer-Encoding: chunked", "200001\r\n" + strings.Repeat(" ", 0x200001) + "\r\n0\r\n\r\n", 413},
	} {
		before := s.up.Count()
		p := s.dial()
		p.send(request("X-Fake: json", c.framing))
		fmt.Fprint(p, c.body) // the proxy may have hung up before the end
		res := p.answer()
		if res.StatusCode != c.status || c.status == 413 && code(t, res) != "body_too_large" {
			t.Errorf("%s: status %d, want %d", c.framing, res.StatusCode, c.status)
		}
		for _, r := range s.up.Requests()[before:] {
			wait(t, r.Done(), "the request's end")
			if _, err := r.Body(within(t, soon)); err == nil && c.status == 413 {
				t.Errorf("%s: a body over the limit arrived as complete", c.framing)
			}
		}
	}
}

// TestBodyLimitBehindTheHead checks that a body that turns out to be too large while its response is passed on is
// recorded as such.
func TestBodyLimitBehindTheHead(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		responds := http.NewResponseController(w)
		if err := errors.Join(responds.EnableFullDuplex(), responds.Flush()); err != nil {
			t.Error(err)
		}
		io.Copy(io.Discard, r.Body)
	}))
	defer up.Close()
	rules := newPolicy(t, policy.Config{Limits: policy.Limits{MaxBody: 2 << 20}})
	e := &entries{}
	s := start(t, func(s *setup) { s.url, s.server.Policy, s.server.Observe = up.URL+"/v1/responses", rules, e.add })
	p := s.dial()
	p.send(request("Transfer-Encoding: chunked") + "200000\r\n" + strings.Repeat(" ", 2<<20) + "\r\n")
	if res := p.answer(); res.StatusCode != 200 {
		t.Errorf("status %d", res.StatusCode)
	}
	p.send("1\r\n \r\n")
	if got := e.recorded(t, 1); got.Status != 200 || got.Code != "body_too_large" {
		t.Errorf("the record is %+v", got)
	}
}

func TestMaxRequestsEndsTheService(t *testing.T) {
	ended := make(chan struct{})
	s := limited(t, policy.Config{Limits: policy.Limits{MaxRequests: 2}, Expired: func() { close(ended) }})
	read(t, s.post("json", `{}`))
	res := s.post("headthensilent", `{}`)
	late := s.post("json", `{}`)
	if got := code(t, late); late.StatusCode != 403 || got != "expired" {
		t.Errorf("%d %s", late.StatusCode, got)
	}
	select {
	case <-ended:
		t.Error("the service ends while a request runs")
	default:
	}
	res.Body.Close()
	wait(t, ended, "the service's end")
}

// TestPanicUnderABudget checks that a request that may have reached the upstream when the proxy failed is charged the
// deposit.
func TestPanicUnderABudget(t *testing.T) {
	p := newPurse(t, 1000)
	rules := newPolicy(t, policy.Config{TCP: true, Budget: p.Ledger})
	s := start(t, func(s *setup) { s.server.Policy, s.upstream = rules, panicking{} })
	if res := s.post("json", `{}`); code(t, res) != "internal_error" {
		t.Errorf("status %d", res.StatusCode)
	}
	if got := p.total(); got != 250 {
		t.Errorf("%d tokens are charged, want the deposit of 250", got)
	}
}

// TestBudget checks that the reported costs of responses are added up, that the next request of a user who has spent
// the budget is refused, and that running requests are never cut.
func TestBudget(t *testing.T) {
	for _, scenario := range []string{"json", "sse n=5", "keepalive n=2 d=1ms", "trailers", "gzip"} {
		p := newPurse(t, 4)
		s := limited(t, policy.Config{TCP: true, Budget: p.Ledger})
		if body := read(t, s.post(scenario, `{"stream":true}`)); body == "" {
			t.Errorf("%s: no answer", scenario)
		}
		r := s.up.Requests()[0]
		if got := r.Get("Accept-Encoding"); got != "identity" {
			t.Errorf("%s: the upstream was asked for the coding %q", scenario, got)
		}
		if p.total() < 4 {
			t.Errorf("%s: only %d tokens were counted", scenario, p.total())
		}
		res := s.post("json", `{}`)
		if got := code(t, res); res.StatusCode != 429 || got != "budget_exhausted" || res.Header.Get("Retry-After") != "" || res.Header.Get("X-Should-Retry") != "false" {
			t.Errorf("%s: then %d %s, %v", scenario, res.StatusCode, got, res.Header)
		}
		wantLeft(t, res, "tokens", "4", "0", "")
		if n := s.up.Count(); n != 1 {
			t.Errorf("%s: the upstream saw %d requests", scenario, n)
		}
	}
}

func TestRefusalsOfTheUpstreamCostNothing(t *testing.T) {
	p := newPurse(t, 1)
	s := limited(t, policy.Config{TCP: true, Budget: p.Ledger})
	for _, scenario := range []string{"status code=429", "status code=500", "closebefore", "redirect status=307 to=/x"} {
		read(t, s.post(scenario, `{}`))
	}
	if p.total() != 0 {
		t.Errorf("%d tokens were counted", p.total())
	}
}

// TestBrowsers checks that a page cannot use the proxy, neither by rebinding its name nor across sites, and never
// receives CORS fields.
func TestBrowsers(t *testing.T) {
	s := start(t, func(s *setup) {
		s.shutdown = true
		s.server.Policy = must(policy.New(policy.Config{Origin: policy.NewOrigin(8080, nil)}))
	})
	send := func(want int, head string) {
		t.Helper()
		p := s.dial()
		p.send(head + "\r\n")
		res := p.answer()
		if res.StatusCode != want || res.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%q: status %d, want %d", head, res.StatusCode, want)
		}
	}
	const ours = "Host: 127.0.0.1:8080\r\n"
	send(200, "POST /v1/responses HTTP/1.1\r\n"+ours+"X-Fake: sse n=1\r\n")
	send(403, "POST /v1/responses HTTP/1.1\r\nHost: rebound.evil.example:8080\r\n")
	send(403, "POST /v1/responses HTTP/1.1\r\n"+ours+"Origin: https://evil.example\r\nContent-Type: text/plain\r\n")
	send(403, "POST /v1/responses HTTP/1.1\r\n"+ours+"Sec-Fetch-Site: cross-site\r\n")
	send(403, "OPTIONS /v1/responses HTTP/1.1\r\n"+ours+"Origin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n")
	send(403, "GET /shutdown HTTP/1.1\r\n"+ours+"Referer: https://evil.example/\r\nSec-Fetch-Site: cross-site\r\n")
	send(403, "GET /shutdown HTTP/1.1\r\nHost: rebound.evil.example:8080\r\n")
	select {
	case <-s.stopped:
		t.Error("a page has stopped the proxy")
	default:
	}
	if n := s.up.Count(); n != 1 {
		t.Errorf("%d requests reached the upstream, want 1", n)
	}
}

// costOf finds the total in a stream's last event, by the same words that the
// fake upstream writes.
func costOf(t *testing.T, stream string) (n int64) {
	t.Helper()
	_, usage, ok := strings.Cut(stream[strings.LastIndex(stream, "event: response.completed"):], `"total_tokens":`)
	if _, err := fmt.Sscanf(usage, "%d", &n); !ok || err != nil {
		t.Errorf("a stream without usage: %v", err)
	}
	return n
}

// TestModels checks that a request that names another model, or that another reader may take to name one, does not
// reach the upstream as complete, and that an allowed one arrives byte by byte.
func TestModels(t *testing.T) {
	both(t, func(t *testing.T, options ...func(*setup)) {
		s := start(t, append(options, allowing("compact", "input-tokens", "search", "models"), func(s *setup) { s.models = []string{"gpt-5", "o4-*"} })...)
		for _, route := range []string{"responses", "responses/compact", "responses/input_tokens", "alpha/search"} {
			s.want(200, "", "POST "+route, `{"input":"x", "model":"gpt-5" }`)
			before := s.up.Count()
			s.want(403, "model_not_allowed", "POST "+route, `{"model":"gpt-5-pro"}`)
			s.want(400, "model_not_readable", "POST "+route, `{"model":"gpt-5","model":"gpt-5-pro"}`)
			s.want(400, "model_not_readable", "POST "+route, `{"model":"gpt-5"}`, "Content-Encoding: gzip")
			s.want(400, "model_not_readable", "POST "+route, "")
			if s.up.Count() != before {
				t.Errorf("a refused request on %s reached the upstream", route)
			}
		}
		s.want(200, "", "GET models", "")

		long := strings.Repeat("x", 3<<20)
		for _, c := range []struct {
			status int
			body   string
		}{
			{200, `{"model":"o4-mini","input":"` + long + `"}`},
			{400, `{"model":"o4-mini","input":"` + long + `","model":"gpt-5-pro"}`},
			{400, `{"input":"` + long + `","model":"o4-mini"}`},
			{403, `{"model":"gpt-5-pro","input":"` + long + `"}`},
			{400, `{"model":"gpt-5","input":"` + long + `"}}`},
		} {
			for _, chunked := range []bool{false, true} {
				before := s.up.Count()
				framing, sent := fmt.Sprint("Content-Length: ", len(c.body)), c.body
				if chunked {
					framing, sent = "Transfer-Encoding: chunked", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(c.body), c.body)
				}
				p := s.dial()
				p.send(request("X-Fake: json", framing))
				fmt.Fprint(p, sent) // the proxy may have hung up before the end
				if res := p.answer(); res.StatusCode != c.status {
					t.Errorf("%.30s…%s, chunked %t: %d, want %d", c.body, c.body[len(c.body)-25:], chunked, res.StatusCode, c.status)
				}
				for _, r := range s.up.Requests()[before:] {
					wait(t, r.Done(), "the request's end")
					got, err := r.Body(within(t, soon))
					if complete := err == nil; complete != (c.status == 200) || complete && r.BodySHA256 != sha256.Sum256([]byte(c.body)) {
						t.Errorf("%.30s…, chunked %t: %d bytes arrived, %v", c.body, chunked, len(got), err)
					}
				}
			}
		}
	})
}
