package upstream

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

func fields(lines ...string) (all []http1.Field) {
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		all = append(all, http1.Field{Name: []byte(name), Value: []byte(value)})
	}
	return all
}

// upgrade returns a request for a WebSocket.
func upgrade(scenario string) *Request {
	return &Request{Method: "GET", Target: []byte("/v1/responses"), Upgrade: true,
		Fields: fields("X-Fake: "+scenario, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")}
}

// hello is a text frame with a mask of zeros, echo the fake upstream's response to it.
const (
	hello = "\x81\x85\x00\x00\x00\x00hello"
	echo  = "\x81\x05hello"
)

// TestRequestLines: each request has its own method and target, one credential, and the framing that its method needs;
// the usual one is unchanged.
func TestRequestLines(t *testing.T) {
	for _, opts := range []openaitest.Options{{}, {TLS: true}} {
		up, c := serve(t, opts)
		for _, r := range []*Request{
			{Method: "GET", Target: []byte("/v1/models")},
			{Method: "GET", Target: []byte("/v1/responses/resp_1?stream=true")},
			{Method: "DELETE", Target: []byte("/v1/responses/resp_1")},
			{Method: "POST", Target: []byte("/v1/responses/compact"), Start: []byte("{}"), Length: 2},
			{Method: "POST", Target: []byte("/v1/responses/resp_1/cancel")},
			{Start: []byte("{}"), Length: 2},
		} {
			res, err := c.Do(within(t, soon), r)
			finish(t, res, err)
			all := up.Requests()
			got, want := all[len(all)-1], r.Method+" "+string(r.Target)
			if r.Target == nil {
				want = "POST /v1/responses"
			}
			if line := got.Method + " " + got.Target; line != want {
				t.Errorf("%s, want %s", line, want)
			}
			if n := len(got.Values("Content-Length")); (n == 1) != (got.Method == "POST") {
				t.Errorf("%s has %d times Content-Length", want, n)
			}
			if cred := got.Credentials(); len(cred) != 1 || cred[0] != "Bearer "+canary {
				t.Errorf("%s has %d credentials", want, len(cred))
			}
			if got.Fields[0].Name != "host" || !strings.EqualFold(got.Fields[1].Name, "authorization") {
				t.Errorf("%s begins with %v", want, got.Fields[0].Name)
			}
		}
		if up.Conns() != 1 || len(up.Faults()) > 0 {
			t.Errorf("%d connections, faults %q", up.Conns(), up.Faults())
		}
	}
}

// TestLineThatDoesNotFit: a request line that is too long is refused before a byte of it is sent.
func TestLineThatDoesNotFit(t *testing.T) {
	up, c := serve(t, openaitest.Options{TLS: true})
	target := func(more int) []byte { return []byte("/" + strings.Repeat("a", len(c.Path())-1+more)) }
	res, err := c.Do(within(t, soon), &Request{Method: "POST", Target: target(c.Room())})
	finish(t, res, err)
	_, err = c.Do(within(t, soon), &Request{Method: "POST", Target: target(c.Room() + 1)})
	if !isKind(err, Internal) {
		t.Errorf("one byte too many: %v", err)
	}
	if n := up.Count(); n != 1 {
		t.Errorf("%d requests reached the upstream, want 1", n)
	}
}

func TestSwitch(t *testing.T) {
	for name, opts := range map[string]openaitest.Options{"http": {}, "TLS 1.3": {TLS: true}} {
		t.Run(name, func(t *testing.T) {
			up, c := serve(t, opts)
			res, err := c.Do(within(t, soon), post("json", "{}")) // so that the pool has a connection
			finish(t, res, err)
			res, err = c.Do(within(t, soon), upgrade("ws"))
			if err != nil || res.Head.Status != 101 || res.Reused {
				t.Fatalf("%+v, %v", res, err)
			}
			s := must(res.Hijack())
			for range 100 {
				must(s.Write([]byte(hello)))
				got := make([]byte, len(echo))
				if _, err := io.ReadFull(s, got); err != nil || string(got) != echo {
					t.Fatalf("%q, %v", got, err)
				}
			}
			must(s.Write([]byte("\x88\x80\x00\x00\x00\x00")))
			if rest, err := io.ReadAll(s); err != nil || string(rest) != "\x88\x00" {
				t.Errorf("%q, %v", rest, err)
			}
			res.Close()
			if err := up.AwaitOpen(within(t, soon), 1); err != nil {
				t.Errorf("%d connections are open: it was kept for another request", up.Open())
			}
			r := up.Requests()[1]
			if r.Get("Connection") != "Upgrade" || r.Get("Upgrade") != "websocket" || r.Get("Content-Length") != "" || len(up.Faults()) > 0 {
				t.Errorf("%q, %q", r.Fields, up.Faults())
			}
		})
	}
}

// TestSwitchOnlyIfAsked: an unrequested 101 is an error, and no other status switches protocols; the connection of a
// refused handshake is not reused.
func TestSwitchOnlyIfAsked(t *testing.T) {
	up, c := serve(t, openaitest.Options{})
	if _, err := c.Do(within(t, soon), post("switch", "{}")); !isKind(err, Malformed) {
		t.Errorf("a switch that nobody asked for: %v", err)
	}
	res, err := c.Do(within(t, soon), upgrade("status code=403"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := res.Hijack(); !errors.Is(err, errNotSwitched) {
		t.Errorf("a refusal is switched to: %v", err)
	}
	finish(t, res, nil)
	if err := up.AwaitOpen(within(t, soon), 0); err != nil {
		t.Errorf("%d connections are open", up.Open())
	}
}

// TestInterruptedStream ends a blocked read.
func TestInterruptedStream(t *testing.T) {
	up, c := serve(t, openaitest.Options{TLS: true})
	res, err := c.Do(within(t, soon), upgrade("wssilent"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Close()
	s := must(res.Hijack())
	failed := make(chan error, 1)
	go func() {
		_, err := s.Read(make([]byte, 1))
		failed <- err
	}()
	s.Interrupt()
	if err := <-failed; err == nil || err == io.EOF {
		t.Errorf("the read ends with %v", err)
	}
	if err := up.AwaitOpen(within(t, soon), 0); err != nil {
		t.Error("the connection stays open")
	}
}

// TestHalfClosedStream: the upstream sees the end of the client's side.
func TestHalfClosedStream(t *testing.T) {
	for _, withTLS := range []bool{false, true} {
		up, c := serve(t, openaitest.Options{TLS: withTLS})
		res, err := c.Do(within(t, soon), upgrade("wssilent"))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Close()
		s := must(res.Hijack())
		if err := s.CloseWrite(); err != nil {
			t.Error(err)
		}
		select {
		case <-up.Requests()[0].Gone():
		case <-within(t, soon).Done():
			t.Errorf("TLS %t: the upstream is not told", withTLS)
		}
	}
}

// TestSwitchThroughAProxy: CONNECT, then TLS, then the handshake, of which the proxy sees nothing.
func TestSwitchThroughAProxy(t *testing.T) {
	address, roots := named(t, "api.example")
	p := startForwardProxy(t, address, "HTTP/1.1 200 OK\r\n\r\n")
	t.Setenv("HTTPS_PROXY", "http://"+p.Addr().String())
	c := must(New(Config{Target: must(ParseTarget("https://api.example/v1/responses", false)), Key: keyOf(t, canary), Roots: roots}))
	t.Cleanup(c.Close)
	res, err := c.Do(within(t, soon), upgrade("ws"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Close()
	s := must(res.Hijack())
	must(s.Write([]byte(hello)))
	got := make([]byte, len(echo))
	if _, err := io.ReadFull(s, got); err != nil || string(got) != echo {
		t.Errorf("%q, %v", got, err)
	}
	if text := p.text(); !strings.HasPrefix(text, "CONNECT api.example:443 ") || strings.Contains(text, canary) || strings.Contains(text, "Upgrade") {
		t.Errorf("the proxy saw %.200q", text)
	}
}
