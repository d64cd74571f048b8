package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/upstream"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
)

// failing is an upstream to which every request fails in the same way.
type failing upstream.Kind

func (f failing) Do(context.Context, *upstream.Request) (*upstream.Response, error) {
	return nil, &upstream.Error{Kind: upstream.Kind(f), Cause: errors.New("as the test wants it")}
}

func failsWith(kind upstream.Kind) func(*testing.T, *setup) {
	return func(_ *testing.T, s *setup) { s.upstream = failing(kind) }
}

func opens(names ...string) func(*testing.T, *setup) {
	return func(_ *testing.T, s *setup) { s.routes = names }
}

// under sets the policy of cfg, with TCP.
func under(cfg policy.Config) func(*testing.T, *setup) {
	return func(t *testing.T, s *setup) {
		cfg.TCP = true
		s.server.Policy = newPolicy(t, cfg)
	}
}

// refusal is a request that the proxy refuses.
type refusal struct {
	code    apierror.Code
	with    func(*testing.T, *setup) // nil: the default
	before  string                   // a scenario that is posted first, and not read; "" for none
	request string
	partial bool // its end never comes: nothing can stand behind it
}

// simple has no body. Its framing is the same for every method.
const simple = "POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

var websocketRequest = "GET /v1/responses HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"

func named(admits string) policy.Users {
	var users policy.Users
	if err := users.AddUser(admits); err != nil {
		panic(err)
	}
	return users
}

// refusals has every code that the proxy sends to clients, more than once where the response is framed in more than one
// way.
var refusals = []refusal{
	{code: apierror.RouteNotAllowed, request: "POST /v1/models HTTP/1.1\r\nHost: h\r\n\r\n"},
	{code: apierror.RouteNotAllowed, request: "POST /v1/models HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"},
	{code: apierror.RouteNotAllowed, request: "POST /v1/models HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"},
	{code: apierror.RouteNotAllowed, request: "POST /v1/models HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"},
	{code: apierror.RouteNotAllowed, request: "POST /v1/models HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}"},
	{code: apierror.RouteNotAllowed, request: "POST /v1/models HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n{}"},
	{code: apierror.RouteNotAllowed, request: "POST /v1/models HTTP/1.0\r\n\r\n"},
	{code: apierror.RouteNotAllowed, request: "POST /v1/models HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"},
	{code: apierror.RouteNotAllowed, request: "GET /shutdown HTTP/1.1\r\nHost: h\r\n\r\n"},
	{code: apierror.ResponseNotFound, with: opens("retrieve"), request: "GET /v1/responses/resp_1 HTTP/1.1\r\nHost: h\r\n\r\n"},
	{code: apierror.WebsocketNotSupported, request: websocketRequest + "\r\n"},
	{code: apierror.WebsocketMalformed, with: opens("websocket"), request: websocketRequest + "\r\n"},
	{code: apierror.WebsocketMalformed, with: opens("websocket"), request: websocketRequest + "Sec-WebSocket-Version: 12\r\n\r\n"},
	{code: apierror.MalformedRequest, with: opens("models"), request: "GET /v1/models HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"},
	{code: apierror.MalformedRequest, request: "POST /v1/responses HTTP/1.1\r\n\r\n"},
	{code: apierror.MalformedRequest, request: "POST /v1/responses HTTP/1.1\nHost: h\n\n"},
	{code: apierror.MalformedRequest, request: "POST /v1/responses HTTP/1.1\r\nHost: h\r\nExpect: x\r\n\r\n"},
	{code: apierror.MalformedRequest, request: "POST /v1/responses HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n"},
	{code: apierror.HeadTooLarge, request: "POST /v1/responses HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("a", 300<<10) + "\r\n\r\n"},
	{code: apierror.HeadTooLarge, request: "POST /v1/responses HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("a:\r\n", 256) + "\r\n"},
	{code: apierror.RequestTimeout, with: hurried, request: "POST /v1/responses HTTP/1.1\r\nHos", partial: true},
	{code: apierror.RequestTimeout, with: hurried, request: "POST /v1/responses HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n{}", partial: true},
	{code: apierror.IncompleteBody, request: "POST /v1/responses HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n", partial: true},
	{code: apierror.UpstreamUnreachable, with: failsWith(upstream.Unreachable), request: simple},
	{code: apierror.UpstreamNotTrusted, with: failsWith(upstream.Untrusted), request: simple},
	{code: apierror.UpstreamTLS, with: failsWith(upstream.TLSFailed), request: simple},
	{code: apierror.UpstreamTimeout, with: failsWith(upstream.Timeout), request: simple},
	{code: apierror.UpstreamClosed, with: failsWith(upstream.Closed), request: simple},
	{code: apierror.UpstreamMalformed, with: failsWith(upstream.Malformed), request: simple},
	{code: apierror.UpstreamRedirect, request: "POST /v1/responses HTTP/1.1\r\nHost: h\r\nX-Fake: redirect status=307 to=/x\r\n\r\n"},
	{code: apierror.InternalError, with: failsWith(upstream.Internal), request: simple},
	{code: apierror.InternalError, with: func(_ *testing.T, s *setup) { s.upstream = panicking{} }, request: simple},
	{code: apierror.UserNotAllowed, with: under(policy.Config{Users: named("4711")}), request: simple},
	{code: apierror.HostNotAllowed, with: under(policy.Config{Origin: policy.NewOrigin(80, nil)}), request: "POST /v1/responses HTTP/1.1\r\nHost: evil.example\r\n\r\n"},
	{code: apierror.BrowserNotAllowed, with: under(policy.Config{Origin: policy.NewOrigin(80, nil)}), request: "POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: https://evil.example\r\n\r\n"},
	{code: apierror.ModelNotAllowed, with: models, request: "POST /v1/responses HTTP/1.1\r\nHost: h\r\nContent-Length: 13\r\n\r\n{\"model\":\"x\"}"},
	{code: apierror.ModelNotReadable, with: models, request: "POST /v1/responses HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"},
	{code: apierror.ModelNotReadable, with: models, request: "POST /v1/responses HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"},
	{code: apierror.ModelNotReadable, with: models, request: simple},
	{code: apierror.BodyTooLarge, with: under(policy.Config{Limits: policy.Limits{MaxBody: 1}}), request: "POST /v1/responses HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"},
	{code: apierror.BodyTooLarge, with: under(policy.Config{Limits: policy.Limits{MaxBody: 1}}), request: "POST /v1/responses HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"},
	{code: apierror.TooManyConnections, with: under(policy.Config{Limits: policy.Limits{MaxConnections: 2}}), before: "headthensilent", request: simple},
	{code: apierror.TooManyRequests, with: under(policy.Config{Limits: policy.Limits{MaxConcurrent: 1}}), before: "headthensilent", request: simple},
	{code: apierror.RateLimited, with: under(policy.Config{Limits: policy.Limits{Rate: 1e-6, Burst: 1}}), before: "json", request: simple},
	{code: apierror.Expired, with: under(policy.Config{Limits: policy.Limits{MaxRequests: 1}}), before: "json", request: simple},
	{code: apierror.BudgetExhausted, with: under(policy.Config{Budget: spent()}), request: simple},
}

func models(_ *testing.T, s *setup) { s.models = []string{"gpt-5"} }

func hurried(_ *testing.T, s *setup) {
	s.server.HeadTimeout, s.server.BodyTimeout = 50*time.Millisecond, 50*time.Millisecond
}

// TestRefusalsAreFramed checks that each refusal, whatever its method, is followed by the response to the next request,
// or by the connection's end where the refusal announces it, and by nothing else: a client that reads by RFC 9112 would
// take that for the next response.
func TestRefusalsAreFramed(t *testing.T) {
	missing := map[apierror.Code]bool{}
	apierror.Codes(func(code apierror.Code, _ int) { missing[code] = true })
	for _, r := range refusals {
		delete(missing, r.code)
		own, rest, _ := strings.Cut(r.request, " ")
		s := start(t, func(s *setup) {
			if r.with != nil {
				r.with(t, s)
			}
		})
		if r.before != "" {
			s.post(r.before, `{}`)
		}
		for _, method := range []string{own, "POST", "GET", "HEAD"} {
			behind, want := unmistakable, apierror.Code("")
			if r.partial {
				behind = ""
			}
			if method == own {
				want = r.code
			}
			s.refusedThenNext(method, method+" "+rest, behind, want)
		}
	}
	for code := range missing {
		t.Errorf("no refusal with the code %s", code)
	}
}

// unmistakable is refused in a way that no other request here is.
const unmistakable = "GET /next HTTP/9.9\r\n\r\n"

// refusedThenNext sends request and behind, and reads the responses to both.
func (s *stack) refusedThenNext(method, request, behind string, want apierror.Code) {
	s.t.Helper()
	p := s.dial()
	io.WriteString(p, request+behind) // the proxy may have hung up before the end
	res := p.refused(method, request, want)
	if !res.Close && behind != "" {
		if res = p.refused("GET", behind, apierror.MalformedRequest); res.StatusCode != 505 || !res.Close {
			s.t.Errorf("%.80q: behind it comes a response with the status %d", request, res.StatusCode)
		}
	}
	p.ended()
}

// refused reads the response to a request that must be refused.
func (p *peer) refused(method, request string, want apierror.Code) *http.Response {
	p.t.Helper()
	res, err := http.ReadResponse(p.in, &http.Request{Method: method})
	for err == nil && res.StatusCode == 100 {
		res, err = http.ReadResponse(p.in, &http.Request{Method: method})
	}
	switch {
	case err != nil:
		p.t.Fatalf("%.80q: no response: %v", request, err)
	case res.StatusCode < 400 || res.ContentLength <= 0:
		p.t.Errorf("%.80q: status %d with %d bytes of body; want a refusal", request, res.StatusCode, res.ContentLength)
	}
	var got apierror.Code
	if method != "HEAD" {
		got = apierror.Code(code(p.t, res))
		io.Copy(io.Discard, res.Body)
	}
	if want != "" && got != want {
		p.t.Errorf("%.80q: status %d, code %q; want %q", request, res.StatusCode, got, want)
	}
	return res
}

// TestBytesBehindTheLastRequest checks that bytes that nobody reads, such as the line end that old clients send behind
// a body, do not cut the last response of a connection: the kernel resets a connection that is closed with unread
// bytes, and drops what the client has not read yet. A response that ends with the connection is not reset either.
func TestBytesBehindTheLastRequest(t *testing.T) {
	const size = 1_000_000 // more than the client's kernel takes at once
	for version, scenario := range map[string]string{"1.1": "bytes", "1.0": "chunks"} {
		s := start(t)
		p := s.dial()
		p.send(fmt.Sprintf("POST /v1/responses HTTP/%s\r\nHost: h\r\nX-Fake: %s s=%d\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", version, scenario, size))
		must(s.up.Await(within(t, soon), 1))
		p.send("\r\n")
		proctest.Eventually(t, "the connection is closed", func() bool { return s.server.Connections() == 0 })
		if n, err := io.Copy(io.Discard, p.answer().Body); n != size || err != nil {
			t.Errorf("HTTP/%s: %d bytes of %d, %v", version, n, size, err)
		}
	}
}
