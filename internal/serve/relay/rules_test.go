package relay

import (
	"context"
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/upstream"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

func head(t testing.TB, line string, fields ...string) *http1.Request {
	t.Helper()
	var r http1.Request
	if err := r.Parse([]byte(line + " HTTP/1.1\r\nHost: h\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n")); err != nil {
		t.Fatal(err)
	}
	return &r
}

// names lists the fields that pass.
func names(fields []http1.Field) string {
	var all []string
	for _, f := range fields {
		all = append(all, string(f.Name))
	}
	return strings.Join(all, " ")
}

// longest returns a name one byte longer than all in s.
func longest(s nameSet) string { return strings.Repeat("n", len(s)) }

func TestFieldsThatPass(t *testing.T) {
	r := head(t, "POST /v1/responses",
		"A: 1", "AUTHORIZATION: x", "Proxy-Authorization: x", "Cookie: x", "Api-Key: x", "X-Api-Key: x", "X-Goog-Api-Key: x", "Connection: close, B, authorization, D",
		"B: nominated", "D: nominated", "Prefer: Cookies", "Cookie2: x", "HTTP2-Settings: x", "X-HTTP-Method: GET", "X-Method-Override: GET", longest(dropFromRequest)+": passes",
		"Keep-Alive: x", "TE: x", "Trailer: x", "Upgrade: x", "Proxy-Connection: x", "Forwarded: x", "Via: x", "X-Forwarded-For: x", "X-Forwarded-Whatever: x",
		"X-Real-IP: x", "X-Original-URL: /x", "X-Rewrite-Url: /x", "X-HTTP-Method-Override: GET", "Expect: 100-continue", "Content-Length: 0", "X-Forwarded: passes", "Cookies: passes", "a: again", "OpenAI-Project: p")
	if got, want := names(requestFields(nil, r.Fields)), "A Prefer "+longest(dropFromRequest)+" X-Forwarded Cookies a OpenAI-Project"; got != want {
		t.Errorf("to the upstream pass %q, want %q", got, want)
	}
	r = head(t, "POST /v1/responses",
		"session_id: passes", "X_Api_Key: x", "x_api-key: x", "API_KEY: x", "Authorization: x", "Proxy_Authorization: x", "Transfer_Encoding: chunked", "Content_Length: 7", "content.length: 7",
		"Keep_Alive: x", "X_Forwarded_For: x", "X-Forwarded_Host: x", "X_Real_IP: x", "X_HTTP_Method_Override: GET", "X.Original.URL: /x", "CF-Connecting-IP: x", "Cf_Connecting_Ip: x",
		"True-Client-IP: x", "True_Client_IP: x", "X-Client-IP: x", "X-Cluster-Client-IP: x", "X_Cluster_Client_IP: x", "X-Host: x", "X_Host: x", "X_Host_: passes", "conversation_id: passes")
	if got, want := names(requestFields(nil, r.Fields)), "session_id X_Host_ conversation_id"; got != want {
		t.Errorf("to the upstream pass %q, want %q", got, want)
	}
	a := head(t, "GET /", "Set-Cookie: x", "Alt-Svc: x", "Strict-Transport-Security: x", "Proxy-Authenticate: x", "Authorization: x", "api-key: x", "X-API-Key: x", "Connection: X-Hop", "X-Hop: x",
		"Keep-Alive: x", "Proxy-Connection: x", "TE: x", "Trailer: x", "Transfer_Encoding: x", "Upgrade: x", "Proxy-Authentication-Info: x", "Content-Length: 0", "Set-Cookie2: x", "X-Goog-Api-Key: x",
		longest(dropFromResponse)+": passes", "Retry-After: 2", "X-Request-Id: r", "Server: s", "X-Ratelimit-Remaining-Tokens: 5", "Www-Authenticate: w")
	if got, want := names(responseFields(nil, a.Fields)), "Host "+longest(dropFromResponse)+" Retry-After X-Request-Id Server X-Ratelimit-Remaining-Tokens Www-Authenticate"; got != want {
		t.Errorf("to the client pass %q, want %q", got, want)
	}
}

// TestVariantsOfControlledNames checks that where the proxy replaces a field, or removes a part of it, variants that a
// server could take for that field do not pass.
func TestVariantsOfControlledNames(t *testing.T) {
	r := head(t, "POST /v1/responses", "Accept_Encoding: gzip", "ACCEPT-ENCODING: gzip", "Accept: x")
	everyone, err := policy.New(policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	lease, _ := everyone.Connect(nil).Admit(r, policy.Spend)
	if x := (&exchange{lease: lease, route: &routes[0], relay: &Relay{owners: newOwners(1)}}); !x.mustInspect() {
		t.Error("a response whose owner must be known is not inspected")
	}
	if got, want := names(requestIdentity(requestFields(nil, r.Fields))), "Accept accept-encoding"; got != want {
		t.Errorf("of a response that is read pass %q, want %q", got, want)
	}
	r = head(t, "GET /v1/responses", "Sec_WebSocket_Protocol: openai-insecure-api-key.sk-mine", "A: b,,c",
		"Sec-WebSocket-Protocol: realtime, OpenAI-Insecure-API-Key.sk-mine, a-protocol-with-a-name-that-is-long")
	passed := withoutTokens(requestFields(nil, r.Fields))
	if got, want := names(passed), "A Sec-WebSocket-Protocol"; got != want {
		t.Fatalf("of a handshake pass %q, want %q", got, want)
	}
	if a, protocols := string(passed[0].Value), string(passed[1].Value); a != "b,,c" || protocols != "realtime, a-protocol-with-a-name-that-is-long" {
		t.Errorf("of a handshake pass %q and the protocols %q", a, protocols)
	}
}

// BenchmarkOptions is the head that costs most: many fields, and many names in
// Connection, up to http1.MaxFields.
func BenchmarkOptions(b *testing.B) {
	lines := []string{"Connection: " + strings.TrimSuffix(strings.Repeat("a,", http1.MaxFields), ",")}
	for range http1.MaxFields - 2 {
		lines = append(lines, "b:")
	}
	r := head(b, "POST /v1/responses", lines...)
	for b.Loop() {
		requestFields(nil, r.Fields)
	}
}

// asCGI is the variable that a CGI-like server makes of a header name.
func asCGI(name []byte) string { return notInCGI.ReplaceAllString(strings.ToUpper(string(name)), "_") }

var notInCGI = regexp.MustCompile("[^A-Z0-9]")

// FuzzFields checks that fields that a server could take for one on the list, or that Connection names, do not pass,
// and that all others do, in their order.
func FuzzFields(f *testing.F) {
	f.Add("X: y\r\nConnection: x, z\r\nZ: 1\r\nAuthorization: a")
	f.Add("Cookie: a\r\nX-Forwarded-: b\r\nx-forwarded-q: c")
	f.Add("Transfer_Encoding: chunked\r\nX_Forwarded_For: b\r\nsession_id: c\r\nX.Api~Key: d\r\nConnection: session_id")
	dropped := map[string]bool{}
	for _, names := range dropFromRequest {
		for _, n := range names {
			dropped[asCGI([]byte(n))] = true
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		var r http1.Request
		bytes := []byte("POST / HTTP/1.1\r\nHost: h\r\n" + text + "\r\n\r\n")
		end, err := http1.HeadEnd(bytes, 0)
		if err != nil || r.Parse(bytes[:end]) != nil {
			return
		}
		passed := requestFields(nil, r.Fields)
		i := 0
		for _, field := range r.Fields {
			name := asCGI(field.Name)
			forwarded, isForwarded := strings.CutPrefix(name, "X_FORWARDED_")
			drop := dropped[name] || isForwarded && forwarded != "" || nominated(r.Fields, dropFromRequest.has)[strings.ToLower(string(field.Name))]
			if drop {
				continue
			}
			if i >= len(passed) || string(passed[i].Name) != string(field.Name) || string(passed[i].Value) != string(field.Value) {
				t.Fatalf("%q does not pass where it should", field.Name)
			}
			i++
		}
		if i != len(passed) {
			t.Fatalf("%q passes", passed[i].Name)
		}
	})
}

// answer records the response.
type answer struct {
	status int
	fields []http1.Field
	length int64
	body   []byte
}

func (a *answer) Head(status int, fields []http1.Field, length int64) {
	a.status, a.fields, a.length = status, fields, length
}
func (a *answer) Write(p []byte) error { a.body = append(a.body, p...); return nil }
func (a *answer) Flush() error         { return nil }
func (a *answer) Leave()               {}
func (a *answer) Hijack([]http1.Field) (UpgradedConn, <-chan struct{}, error) {
	return nil, nil, errors.New("there is no connection")
}

// TestEveryKindHasItsCode checks that each kind of error has a code, and that its cause, which is for the operator, is
// not in the response.
func TestEveryKindHasItsCode(t *testing.T) {
	for kind := upstream.Unreachable; kind <= upstream.Internal; kind++ {
		e := ofUpstream(&upstream.Error{Kind: kind, Cause: errors.New("detail")})
		switch {
		case (e.Code == apierror.ClientLeft) != (kind == upstream.Cancelled):
			t.Errorf("kind %d has the error %+v", kind, e)
		case kind != upstream.Cancelled && (e.Status < 400 || e.Message == "" || strings.Contains(e.Message, "detail") || !strings.Contains(e.Detail, "detail")):
			t.Errorf("kind %d has the error %+v", kind, e)
		}
	}
	if e := ofUpstream(errors.New("detail")); e.Code != apierror.InternalError || strings.Contains(e.Message, "detail") {
		t.Errorf("an error of an unknown kind is %+v", e)
	}
}

func TestRespond(t *testing.T) {
	a := &answer{}
	p, err := New(Config{Upstream: unreached{}})
	if err != nil {
		t.Fatal(err)
	}
	e := apierror.New(apierror.UpstreamClosed, "detail")
	if err := p.Refuse(&Request{}, a, e); err != nil || a.status != e.Status || a.length != int64(len(a.body)) || string(a.body) != string(e.Body()) {
		t.Errorf("status %d, %d bytes of %s: %v", a.status, a.length, a.body, err)
	}
}

// part is a body in pieces, with an error at its end.
type part struct {
	pieces []string
	end    error
}

func (p *part) Read(b []byte) (int, error) {
	if len(p.pieces) == 0 {
		return 0, p.end
	}
	n := copy(b, p.pieces[0])
	p.pieces[0] = p.pieces[0][n:]
	if p.pieces[0] == "" {
		p.pieces = p.pieces[1:]
	}
	return n, nil
}

func (p *part) Interrupt() {}

func TestReadStart(t *testing.T) {
	long := strings.Repeat("x", maxMemory)
	for _, c := range []struct {
		what   string
		length int64
		body   *part
		hold   bool
		start  int   // bytes in memory
		rest   bool  // more to come
		sent   int64 // the length that goes up
		err    error
	}{
		{"none", 0, &part{end: io.EOF}, false, 0, false, 0, nil},
		{"short", 5, &part{[]string{"he", "llo"}, io.EOF}, false, 5, false, 5, nil},
		{"at the limit", maxMemory, &part{[]string{long}, io.EOF}, false, maxMemory, false, maxMemory, nil},
		{"over it", maxMemory + 1, &part{[]string{long, "x"}, io.EOF}, false, 0, true, maxMemory + 1, nil},
		{"over it, held", maxMemory + 1, &part{[]string{long, "x"}, io.EOF}, true, maxMemory, true, maxMemory + 1, nil},
		{"over it, held and ended early", maxMemory + 1, &part{[]string{long}, io.EOF}, true, maxMemory, true, maxMemory + 1, nil},
		{"at the limit, held", maxMemory, &part{[]string{long}, io.EOF}, true, maxMemory, false, maxMemory, nil},
		{"short, held", 5, &part{[]string{"he", "llo"}, io.EOF}, true, 5, false, 5, nil},
		{"chunked, over the limit, held", http1.Chunked, &part{[]string{long, "x"}, io.EOF}, true, maxMemory, true, http1.Chunked, nil},
		{"over it, held and broken off", maxMemory + 1, &part{[]string{"hello"}, io.ErrUnexpectedEOF}, true, 5, false, maxMemory + 1, io.ErrUnexpectedEOF},
		{"chunked, short", http1.Chunked, &part{[]string{"hello"}, io.EOF}, false, 5, false, 5, nil},
		{"chunked, empty", http1.Chunked, &part{end: io.EOF}, false, 0, false, 0, nil},
		{"chunked, over the limit", http1.Chunked, &part{[]string{long, "x"}, io.EOF}, false, maxMemory, true, http1.Chunked, nil},
		{"broken off", 10, &part{[]string{"hello"}, io.ErrUnexpectedEOF}, false, 5, false, 10, io.ErrUnexpectedEOF},
		{"ended early", 10, &part{[]string{"hello"}, io.EOF}, false, 5, false, 10, io.ErrUnexpectedEOF},
		{"chunked, broken off", http1.Chunked, &part{[]string{"hello"}, io.ErrUnexpectedEOF}, false, 5, false, http1.Chunked, io.ErrUnexpectedEOF},
		{"stalled", 10, &part{[]string{"hello"}, os.ErrDeadlineExceeded}, false, 5, false, 10, os.ErrDeadlineExceeded},
	} {
		out := &upstream.Request{Length: c.length}
		buf, err := readStart(out, c.body, c.hold)
		if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) || len(out.Start) != c.start || (out.Rest != nil) != c.rest || out.Length != c.sent {
			t.Errorf("%s: %d bytes, rest %v, length %d, %v", c.what, len(out.Start), out.Rest != nil, out.Length, err)
		}
		if c.length == http1.Chunked && c.start < 1000 && len(buf.bytes) > 16<<10 {
			t.Errorf("%s: %d bytes take %d", c.what, c.start, len(buf.bytes))
		}
		buf.giveBack()
	}
}

// unreached is an upstream that no request must reach.
type unreached struct{}

func (unreached) Do(context.Context, *upstream.Request) (*upstream.Response, error) {
	panic("a request reached the upstream")
}

// headBuffer counts how often its head is released.
type headBuffer struct{ released int }

func (b *headBuffer) ReleaseHead() { b.released++ }

// TestNoSession checks that a missing session refuses the request, and that the head is released once.
func TestNoSession(t *testing.T) {
	if p, err := New(Config{}); p != nil || err == nil {
		t.Error("a relay without an upstream was made")
	}
	p, err := New(Config{Upstream: unreached{}, Shutdown: func() { t.Error("shut down") }})
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"POST /v1/responses", "GET /shutdown", "POST /other"} {
		b, a := &headBuffer{}, &answer{}
		r := &Request{Head: head(t, line), Buffer: b, Body: &part{end: io.EOF}}
		if err := p.Serve(t.Context(), r, a); err != nil || a.status != 500 || r.Entry.Code != string(apierror.InternalError) || r.Entry.Upstream {
			t.Errorf("%s: status %d, %v, %+v", line, a.status, err, r.Entry)
		}
		if r.Release(); b.released != 1 || r.Head != nil {
			t.Errorf("%s: the head was released %d times, and is %v", line, b.released, r.Head)
		}
	}
}
