package upstream

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

const canary = "sk-canary-0123456789abcdefghijklmnopqrstuvwxyz"

const soon = 30 * time.Second

func keyOf(t testing.TB, text string) *secret.Key { return keyWith(t, text, secret.Config{}) }

func keyWith(t testing.TB, text string, cfg secret.Config) *secret.Key {
	t.Helper()
	key, err := secret.Read(int(proctest.Input(t, text+"\n").Fd()), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(key.Wipe)
	return key
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// serve starts a fake upstream and a client for it.
func serve(t testing.TB, opts openaitest.Options) (*openaitest.Server, *Client) {
	t.Helper()
	opts.Key = canary
	up := must(openaitest.Start(opts))
	t.Cleanup(up.Close)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(up.CAPEM())
	c := must(New(Config{Target: must(ParseTarget(up.URL(), false)), Key: keyOf(t, canary), Roots: roots}))
	t.Cleanup(c.Close)
	return up, c
}

var within = proctest.Within

func post(scenario string, body string) *Request {
	return &Request{
		Fields: []http1.Field{{Name: []byte("X-Fake"), Value: []byte(scenario)}},
		Start:  []byte(body), Length: int64(len(body)),
	}
}

// finish reads a response to its end and returns its body.
func finish(t testing.TB, res *Response, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer res.Close()
	var b strings.Builder
	for {
		piece, err := res.Next()
		b.Write(piece)
		if err == io.EOF {
			return b.String()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func do(t testing.TB, c *Client, r *Request) string {
	t.Helper()
	res, err := c.Do(within(t, soon), r)
	return finish(t, res, err)
}

func TestConnectionsAreReused(t *testing.T) {
	for _, tls := range []bool{false, true} {
		up, c := serve(t, openaitest.Options{TLS: tls})
		for range 5 {
			do(t, c, post("json", "{}"))
			do(t, c, post("sse n=2", "{}"))
		}
		if n := up.Conns(); n != 1 {
			t.Errorf("tls %v: %d connections for requests in a row, want 1", tls, n)
		}
	}
}

// TestNoResponseIsMissed: a response may begin while the request is still being sent.
func TestNoResponseIsMissed(t *testing.T) {
	for _, tls := range []bool{false, true} {
		up, c := serve(t, openaitest.Options{TLS: tls, Forget: true})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 300 {
					res, err := c.Do(within(t, soon), post("json", "{}"))
					if err != nil {
						t.Errorf("tls %v: %v", tls, err)
						return
					}
					finish(t, res, nil)
				}
			})
		}
		wg.Wait()
		if n := up.Conns(); n > 8 {
			t.Errorf("tls %v: %d connections for 8 requests at a time", tls, n)
		}
	}
}

// TestNotReused: responses after which a connection is not reused.
func TestNotReused(t *testing.T) {
	for _, scenario := range []string{"closedelim n=1", "http10", "earlyclose status=413"} {
		up, c := serve(t, openaitest.Options{})
		do(t, c, post(scenario, "{}"))
		do(t, c, post("json", "{}"))
		if n := up.Conns(); n != 2 {
			t.Errorf("%s: %d connections, want 2", scenario, n)
		}
	}
}

// TestNeverSentTwice: the upstream has received the request and does not respond. On a kept-alive connection the client
// could be tempted to send it again.
func TestNeverSentTwice(t *testing.T) {
	for _, tls := range []bool{false, true} {
		for _, scenario := range []string{"closebefore", "cuthead", "garbage"} {
			up, c := serve(t, openaitest.Options{TLS: tls})
			do(t, c, post("json", "{}"))
			_, err := c.Do(within(t, soon), post(scenario, "{}"))
			var e *Error
			if !errors.As(err, &e) || e.Kind != Closed && e.Kind != Malformed {
				t.Errorf("%s: error %v", scenario, err)
			}
			if errors.Is(err, io.EOF) {
				t.Errorf("%s: the error is that of a complete body: %v", scenario, err)
			}
			if e != nil && !e.Reused {
				t.Errorf("%s: it does not say that the connection had served before", scenario)
			}
			if n := up.Count(); n != 2 {
				t.Errorf("%s: the upstream saw %d requests, want 2", scenario, n)
			}
		}
	}
}

// TestDeadPooledConnection: if the upstream has closed the connection, the request is sent on another one, once.
func TestDeadPooledConnection(t *testing.T) {
	for _, tls := range []bool{false, true} {
		up, c := serve(t, openaitest.Options{TLS: tls})
		for range 3 {
			do(t, c, post("json", "{}"))
			up.CloseIdle()
			if err := up.AwaitOpen(within(t, soon), 0); err != nil {
				t.Fatal(err)
			}
		}
		if n := up.Count(); n != 3 {
			t.Errorf("tls %v: the upstream saw %d requests, want 3", tls, n)
		}
	}
}

// TestConnectionThatDiesUnwritten: a write that fails before the kernel has accepted a byte, which the check of the
// pool cannot detect, is also repeated.
func TestConnectionThatDiesUnwritten(t *testing.T) {
	for _, tls := range []bool{false, true} {
		up, c := serve(t, openaitest.Options{TLS: tls})
		do(t, c, post("json", "{}"))
		c.pool.conns[0].TCPConn.CloseWrite() // every write fails from now on; nothing can be read
		do(t, c, post("json", "{}"))
		if n := up.Count(); n != 2 {
			t.Errorf("tls %v: the upstream saw %d requests, want 2", tls, n)
		}
	}
}

// laterBody is a body that arrives while it is being sent.
type laterBody struct{ io.Reader }

func (laterBody) Interrupt() {}

// TestDeadPooledConnectionTakesNoBody: a request whose body arrives later is sent on another connection too, with all
// of the body.
func TestDeadPooledConnectionTakesNoBody(t *testing.T) {
	up, c := serve(t, openaitest.Options{TLS: true})
	for _, die := range []func(){
		func() {
			up.CloseIdle()
			if err := up.AwaitOpen(within(t, soon), 0); err != nil {
				t.Fatal(err)
			}
		},
		func() { c.pool.conns[0].TCPConn.CloseWrite() },
	} {
		do(t, c, post("json", "{}"))
		die()
		r := post("json", "12")
		r.Rest, r.Length = laterBody{strings.NewReader("34")}, 4
		do(t, c, r)
		all := up.Requests()
		if body := must(all[len(all)-1].Body(within(t, soon))); string(body) != "1234" {
			t.Errorf("body %q", body)
		}
	}
	if n := up.Count(); n != 4 {
		t.Errorf("the upstream saw %d requests, want 4", n)
	}
}

func TestPoolForgetsTheDead(t *testing.T) {
	up, c := serve(t, openaitest.Options{})
	do(t, c, post("json", "{}"))
	up.CloseIdle()
	if err := up.AwaitOpen(within(t, soon), 0); err != nil {
		t.Fatal(err)
	}
	c.pool.sweep()
	if len(c.pool.conns) != 0 {
		t.Error("a connection that the upstream has closed is kept")
	}
	do(t, c, post("json", "{}"))
	c.pool.conns[0].idle = time.Now().Add(-idleLimit)
	c.pool.sweep()
	if len(c.pool.conns) != 0 {
		t.Error("a connection that was idle for too long is kept")
	}
	if err := up.AwaitOpen(within(t, soon), 0); err != nil {
		t.Errorf("the connection was not closed: %v", err)
	}
}

func TestClosedPoolKeepsNothing(t *testing.T) {
	up, c := serve(t, openaitest.Options{TLS: true})
	c.Close()
	do(t, c, post("json", "{}"))
	if err := up.AwaitOpen(within(t, soon), 0); err != nil {
		t.Error(err)
	}
}

// TestClosedClientSendsNothingInClear: without its netlink socket, a client does not send the key.
func TestClosedClientSendsNothingInClear(t *testing.T) {
	up, c := serve(t, openaitest.Options{})
	do(t, c, post("json", "{}"))
	c.Close()
	if _, err := c.Do(within(t, soon), post("json", "{}")); err == nil || up.Count() != 1 {
		t.Errorf("error %v, %d requests", err, up.Count())
	}
}

func TestCancel(t *testing.T) {
	for _, tls := range []bool{false, true} {
		up, c := serve(t, openaitest.Options{TLS: tls})
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() {
			_, err := c.Do(ctx, post("silent", "{}"))
			failed <- err
		}()
		r := must(up.Await(within(t, soon), 1))[0]
		cancel()
		<-r.Gone()
		var e *Error
		if err := <-failed; !errors.As(err, &e) || e.Kind != Cancelled {
			t.Errorf("error %v", err)
		}
		if _, err := c.Do(ctx, post("json", "{}")); err == nil || up.Count() != 1 {
			t.Error("a request was sent for nobody")
		}
	}
}

func TestWipedKeySendsNothing(t *testing.T) {
	for _, tls := range []bool{false, true} {
		up, c := serve(t, openaitest.Options{TLS: tls})
		c.key.Wipe()
		_, err := c.Do(within(t, soon), post("json", "{}"))
		var e *Error
		if !errors.As(err, &e) || e.Kind != Internal || up.Count() != 0 {
			t.Errorf("error %v, %d requests", err, up.Count())
		}
	}
}

// TestLegacyTLS: the versions are never mixed.
func TestLegacyTLS(t *testing.T) {
	const tls12, tls13 = 0x0303, 0x0304
	up := must(openaitest.Start(openaitest.Options{Key: canary, TLS: true, TLSMax: tls12}))
	defer up.Close()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(up.CAPEM())
	cfg := Config{Target: must(ParseTarget(up.URL(), false)), Key: keyOf(t, canary), Roots: roots}
	modern := must(New(cfg))
	var e *Error
	if _, err := modern.Do(within(t, soon), post("json", "{}")); !errors.As(err, &e) || e.Kind != TLSFailed {
		t.Errorf("TLS 1.2 was accepted unasked: %v", err)
	}
	cfg.LegacyTLS = true
	legacy := must(New(cfg))
	defer legacy.Close()
	do(t, legacy, post("json", strings.Repeat("x", 100<<10)))
	r := up.Requests()[0]
	if r.TLS.Version != tls12 {
		t.Errorf("version %x", r.TLS.Version)
	}
	if d := legacy.tls; d.MaxVersion != tls12 || modern.tls.MinVersion != tls13 {
		t.Error("a range of versions is offered")
	}
}

// TestSessionsAreResumed: with both versions a later connection resumes a session. crypto/tls keeps the tickets of TLS
// 1.3 in a goroutine of its own, so the second connection may still come too early.
func TestSessionsAreResumed(t *testing.T) {
	for _, version := range []uint16{0x0303, 0x0304} {
		up := must(openaitest.Start(openaitest.Options{Key: canary, TLS: true, TLSMax: version}))
		defer up.Close()
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(up.CAPEM())
		legacy := version == 0x0303
		c := must(New(Config{Target: must(ParseTarget(up.URL(), false)), Key: keyOf(t, canary), Roots: roots, LegacyTLS: legacy}))
		defer c.Close()
		do(t, c, post("json", "{}"))
		if r := up.Requests()[0]; r.TLS.DidResume || len(r.ALPN) != 1 || r.ALPN[0] != "http/1.1" {
			t.Errorf("%x: first connection: resumed %t, ALPN %q", version, r.TLS.DidResume, r.ALPN)
		}
		for until, resumed := time.Now().Add(soon), false; !resumed; resumed = up.Requests()[len(up.Requests())-1].TLS.DidResume {
			if time.Now().After(until) {
				t.Fatalf("%x: waited for a connection that resumes the session", version)
			}
			up.CloseIdle()
			do(t, c, post("json", "{}"))
		}
	}
}
