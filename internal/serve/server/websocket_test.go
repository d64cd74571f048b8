package server_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
)

// socket is a WebSocket client that sees every byte.
type socket struct{ *peer }

const sampleKey = "dGhlIHNhbXBsZSBub25jZQ==" // of RFC 6455, section 1.3

// shake is a handshake, with fields in place of or beside the usual ones.
func shake(fields ...string) string {
	usual := []string{"Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + sampleKey}
	text := "GET /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\n"
	for _, u := range usual {
		name, _, _ := strings.Cut(u, ":")
		replaced := false
		for _, f := range fields {
			replaced = replaced || strings.HasPrefix(f, name+":")
		}
		if !replaced {
			text += u + "\r\n"
		}
	}
	for _, f := range fields {
		if !strings.HasSuffix(f, ": none") {
			text += f + "\r\n"
		}
	}
	return text + "\r\n"
}

// upgrade opens a WebSocket; the upstream runs scenario.
func (s *stack) upgrade(scenario string, fields ...string) *socket {
	s.t.Helper()
	p := s.dial()
	if scenario != "" {
		fields = append(fields, "X-Fake: "+scenario)
	}
	p.send(shake(fields...))
	res := p.answer()
	if res.StatusCode != 101 || res.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" ||
		!strings.EqualFold(res.Header.Get("Upgrade"), "websocket") || !strings.EqualFold(res.Header.Get("Connection"), "upgrade") {
		s.t.Fatalf("the handshake is answered with %d %v", res.StatusCode, res.Header)
	}
	return &socket{p}
}

// frame is one with a mask, as a client's are.
func frame(op byte, text string) string {
	return string(openaitest.Frame{Op: op, Masked: true, Data: []byte(text)}.Append(nil))
}

const (
	opText  = 1
	opClose = 8
)

// goingAway is the content of the close frame that the proxy adds.
const goingAway = "\x03\xe9"

// next reads a frame, which must not have a mask: a server's have none.
func (w *socket) next() (op byte, text string, err error) {
	f, err := openaitest.ReadFrame(w.in)
	if err == nil && f.Masked {
		err = errors.New("a frame with a mask")
	}
	return f.Op, string(f.Data), err
}

// want reads a frame.
func (w *socket) want(op byte, text string) {
	w.t.Helper()
	if gotOp, got, err := w.next(); err != nil || gotOp != op || got != text {
		w.t.Fatalf("a frame %d of %d bytes %.50q, %v; want %d with %d %.50q", gotOp, len(got), got, err, op, len(text), text)
	}
}

// broken checks that the connection ends, and without a close frame.
func (w *socket) broken() {
	w.t.Helper()
	for {
		op, _, err := w.next()
		if err == nil && op != opClose {
			continue
		}
		switch {
		case err == nil:
			w.t.Error("what was cut ends with a close frame")
		case errors.Is(err, os.ErrDeadlineExceeded):
			w.t.Error("the connection stays open")
		}
		return
	}
}

// recorded waits for the record of the n-th exchange.
func (e *entries) recorded(t testing.TB, n int) audit.Entry {
	t.Helper()
	for deadline := within(t, soon); ; runtime.Gosched() {
		e.mu.Lock()
		have := len(e.all)
		e.mu.Unlock()
		if have >= n {
			return e.last()
		}
		if deadline.Err() != nil {
			t.Fatal("the exchange is not recorded")
		}
	}
}

// tunnels runs a test over plain http and TLS, with websocket open.
func tunnels(t *testing.T, test func(t *testing.T, s *stack, e *entries)) {
	both(t, func(t *testing.T, options ...func(*setup)) {
		e := &entries{}
		s := start(t, append(options, allowing("websocket"), func(s *setup) { s.server.Observe = e.add })...)
		test(t, s, e)
	})
}

// TestWebsocket checks that bytes of any number pass unchanged in both directions, that the upstream receives one
// credential, and that a close arrives as a close.
func TestWebsocket(t *testing.T) {
	tunnels(t, func(t *testing.T, s *stack, e *entries) {
		w := s.upgrade("", "Authorization: Bearer mine", "OpenAI-Beta: responses_websockets=2026-02-06", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
		sent, received := 0, 0
		for _, size := range []int{0, 1, 125, 126, 65535, 65536, 1 << 20} {
			text := strings.Repeat("x", size)
			f := frame(opText, text)
			go w.send(f)
			w.want(opText, text)
			sent += len(f)
			received += len(f) - 4
		}
		bye := frame(opClose, "\x03\xe8bye")
		w.send(bye)
		w.want(opClose, "\x03\xe8bye")
		w.ended()
		entry := e.recorded(t, 1)
		if entry.Route != "websocket" || entry.Status != 101 || entry.Code != "" || !entry.Upstream || entry.FirstByte == 0 ||
			entry.BytesIn != int64(sent+len(bye)) || entry.BytesOut != int64(received+len(bye)-4) {
			t.Errorf("the record is %+v", entry)
		}
		s.clean()
		r := s.up.Requests()[0]
		for name, want := range map[string]string{
			"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Key": sampleKey, "Sec-Websocket-Version": "13", "Content-Length": "",
			"OpenAI-Beta": "responses_websockets=2026-02-06", "Sec-Websocket-Extensions": "permessage-deflate; client_max_window_bits",
		} {
			if got := strings.Join(r.Values(name), "|"); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if err := s.up.AwaitOpen(within(t, soon), 0); err != nil {
			t.Error("the upstream's connection stays open, or is kept for others")
		}
		if l := s.logged(); len(l) > 0 {
			t.Errorf("logged %q", l)
		}
	})
}

// TestWebsocketAtOnce checks that frames that come together with the handshake, or with its response, are not lost.
func TestWebsocketAtOnce(t *testing.T) {
	tunnels(t, func(t *testing.T, s *stack, _ *entries) {
		p := s.dial()
		p.send(shake() + frame(opText, "first") + frame(opText, "second")[:4])
		p.send(frame(opText, "second")[4:])
		if res := p.answer(); res.StatusCode != 101 {
			t.Fatal(res.StatusCode)
		}
		w := &socket{p}
		w.want(opText, "first")
		w.want(opText, "second")
		s.upgrade("wsslow d=1ms").want(opText, "helloworld")
	})
}

// TestWebsocketResponses is the Responses API's use of it.
func TestWebsocketResponses(t *testing.T) {
	tunnels(t, func(t *testing.T, s *stack, _ *entries) {
		w := s.upgrade("")
		for range 3 {
			w.send(frame(opText, `{"type":"response.create","model":"m"}`))
			for last := ""; !strings.Contains(last, "response.completed"); {
				var err error
				if _, last, err = w.next(); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// TestHandshakesThatAreRefused checks the handshake by RFC 6455, section 4.2.1, and that a refused one does not reach
// the upstream.
func TestHandshakesThatAreRefused(t *testing.T) {
	s := start(t, allowing("websocket"))
	for _, c := range []struct {
		status       int
		code, fields string
	}{
		{426, "websocket_malformed", "Sec-WebSocket-Version: none"},
		{426, "websocket_malformed", "Sec-WebSocket-Version: 8"},
		{426, "websocket_malformed", "Sec-WebSocket-Version: 13, 8"},
		{426, "websocket_malformed", "Sec-WebSocket-Version: 013"},
		{426, "websocket_malformed", "Sec-WebSocket-Version: 13|Sec-WebSocket-Version: 13"},
		{400, "websocket_malformed", "Sec-WebSocket-Key: none"},
		{400, "websocket_malformed", "Sec-WebSocket-Key: x"},
		{400, "websocket_malformed", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j"},
		{400, "websocket_malformed", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR=="},
		{400, "websocket_malformed", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSEh"},
		{400, "websocket_malformed", "Sec-WebSocket-Key: " + sampleKey + "|Sec-WebSocket-Key: " + sampleKey},
		{400, "websocket_malformed", "Connection: none"},
		{400, "websocket_malformed", "Connection: close"},
		{400, "websocket_malformed", "Upgrade: websocket|Upgrade: websocket"},
		{400, "websocket_malformed", "Upgrade: websocket|Upgrade: h2c"},
		{400, "websocket_malformed", "Content-Length: 2"},
		{400, "websocket_malformed", "Transfer-Encoding: chunked"},
		{403, "route_not_allowed", "Upgrade: none"},
		{403, "route_not_allowed", "Upgrade: h2c"},
		{403, "route_not_allowed", "Upgrade: websocket, h2c"},
	} {
		p := s.dial()
		p.send(shake(strings.Split(c.fields, "|")...))
		res := p.answer()
		if got := code(t, res); res.StatusCode != c.status || got != c.code {
			t.Errorf("%s: %d %s, want %d %s", c.fields, res.StatusCode, got, c.status, c.code)
		}
		if res.StatusCode == 426 && (res.Header.Get("Sec-WebSocket-Version") != "13" || res.Header.Get("Upgrade") != "websocket") {
			t.Errorf("%s: the refusal does not name version 13: %v", c.fields, res.Header)
		}
	}
	p := s.dial()
	p.send(strings.Replace(shake(), "HTTP/1.1", "HTTP/1.0", 1))
	if res := p.answer(); res.StatusCode != 400 {
		t.Errorf("HTTP/1.0: %d", res.StatusCode)
	}
	if n := s.up.Conns(); n != 0 {
		t.Errorf("%d connections reached the upstream", n)
	}
}

// TestWebsocketIsClosedByDefault, whatever else is open: 426 makes Codex send a
// POST at once.
func TestWebsocketIsClosedByDefault(t *testing.T) {
	s := start(t, allowing("retrieve", "models"))
	p := s.dial()
	p.send(shake())
	if res := p.answer(); res.StatusCode != 426 || code(t, res) != "websocket_not_supported" {
		t.Errorf("%d, want 426 websocket_not_supported", res.StatusCode)
	}
	if n := s.up.Conns(); n != 0 {
		t.Errorf("%d connections reached the upstream", n)
	}
}

// meteredWebsockets is a stack whose users may spend limit tokens.
func meteredWebsockets(t *testing.T, limit int64) (*stack, purse, *entries) {
	t.Helper()
	p, e := newPurse(t, limit), &entries{}
	rules := newPolicy(t, policy.Config{TCP: true, Budget: p.Ledger})
	return start(t, allowing("websocket"), func(s *setup) { s.server.Policy, s.server.Observe = rules, e.add }), p, e
}

// respond makes a response, and returns what it has cost.
func (w *socket) respond() (cost int64) {
	w.t.Helper()
	w.send(frame(opText, `{"type":"response.create","model":"m"}`))
	for {
		op, text, err := w.next()
		if err != nil || op != opText {
			w.t.Fatalf("a frame %d %q in place of an event: %v", op, text, err)
		}
		if _, usage, ok := strings.Cut(text, `"total_tokens":`); ok && strings.Contains(text, `"response.completed"`) {
			if _, err := fmt.Sscanf(usage, "%d", &cost); err != nil {
				w.t.Fatal(err)
			}
			return cost
		}
	}
}

// TestWebsocketBudget checks that the costs of the responses inside a WebSocket are added up as each of them ends.
func TestWebsocketBudget(t *testing.T) {
	s, p, e := meteredWebsockets(t, 1<<40)
	w := s.upgrade("", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits", "Sec_WebSocket_Extensions: x")
	var want int64
	for range 3 {
		want += w.respond()
		if got := p.total(); got != want {
			t.Errorf("%d tokens are charged, want %d", got, want)
		}
	}
	w.Close()
	if got := e.recorded(t, 1); got.InputTokens+got.OutputTokens != want || !got.Tokens || got.Model != "m" || got.Code != "client_left" {
		t.Errorf("the record is %+v", got)
	}
	if got := p.total(); got != want || want == 0 {
		t.Errorf("%d tokens are charged at the end, want %d", got, want)
	}
	for _, name := range []string{"Sec-WebSocket-Extensions", "Sec_WebSocket_Extensions"} {
		if got := s.up.Requests()[0].Values(name); len(got) > 0 {
			t.Errorf("the upstream was offered %q", got)
		}
	}
	p2 := s.dial()
	p2.send(shake("X-Fake: ws extension=permessage-deflate", "Sec-WebSocket-Extensions: permessage-deflate"))
	if res := p2.answer(); res.StatusCode != 502 || code(t, res) != "upstream_malformed" {
		t.Errorf("an extension that was not offered: %d", res.StatusCode)
	}
}

// TestWebsocketBudgetIsSpent checks that the tunnel ends after the response that has spent the budget.
func TestWebsocketBudgetIsSpent(t *testing.T) {
	s, p, e := meteredWebsockets(t, 100)
	w := s.upgrade("")
	responses := 0
	for ; p.total() < 100; responses++ {
		w.respond()
	}
	w.want(opClose, "\x03\xf0budget_exhausted")
	w.send(frame(opText, `{"type":"response.create","model":"m"}`) + frame(opClose, "\x03\xf0"))
	w.ended()
	wait(t, s.up.Requests()[0].Answered(), "the upstream to be told")
	if got := e.recorded(t, 1); responses < 2 || got.Code != "budget_exhausted" || got.Status != 101 || got.InputTokens+got.OutputTokens != p.total() {
		t.Errorf("after %d responses the record is %+v, and %d tokens are charged", responses, got, p.total())
	}
	if l := strings.Join(s.logged(), "\n"); strings.Count(l, "budget_exhausted") != 1 {
		t.Errorf("logged %q", l)
	}
	s.clean()
}

// TestWebsocketsInParallel: OpenAI runs several responses in one, each of which
// needs a deposit; the tunnel ends with the one that has none.
func TestWebsocketsInParallel(t *testing.T) {
	s, p, e := meteredWebsockets(t, 100)
	w := s.upgrade("wssilent")
	for range 5 {
		w.send(frame(opText, `{"type":"response.create","stream_id":"x"}`))
	}
	w.want(opClose, "\x03\xf0too_many_requests")
	w.Close()
	if got := e.recorded(t, 1); got.Code != "too_many_requests" {
		t.Errorf("the record is %+v", got)
	}
	if got := p.total(); got != 5*25 {
		t.Errorf("%d tokens are charged, want 5 deposits of 25", got)
	}
}

// TestWebsocketsCannotForge checks that a message from a client counts as a request, never as the cost of a response,
// and that each response that may be running at the end costs the deposit.
func TestWebsocketsCannotForge(t *testing.T) {
	s, p, e := meteredWebsockets(t, 1<<40)
	s.upgrade("wssilent").Close()
	e.recorded(t, 1)
	if got := p.total(); got != 0 {
		t.Errorf("%d tokens are charged where nothing was asked for", got)
	}
	w := s.upgrade("wssilent")
	for range 3 {
		w.send(frame(opText, `{"type":"response.completed","response":{"usage":{"input_tokens":1,"output_tokens":1,"total_tokens":2}}}`))
	}
	w.Close()
	if got := e.recorded(t, 2); got.Tokens || got.InputTokens != 0 {
		t.Errorf("the record is %+v", got)
	}
	if got := p.total(); got != 3*p.Deposit() {
		t.Errorf("%d tokens are charged, want 3 deposits of %d", got, p.Deposit())
	}
}

// TestUpstreamsRefusals are responses like any other, and the connection serves
// on; one that points elsewhere stays here.
func TestUpstreamsRefusals(t *testing.T) {
	tunnels(t, func(t *testing.T, s *stack, _ *entries) {
		p := s.dial()
		for _, status := range []int{401, 403, 404, 426, 429, 500, 503} {
			p.send(shake(fmt.Sprintf("X-Fake: status code=%d retry=7", status)))
			res := p.answer()
			if body := read(t, res); res.StatusCode != status || !strings.Contains(body, `"error"`) || res.Header.Get("Retry-After") != "7" {
				t.Errorf("%d: %d %s", status, res.StatusCode, body)
			}
		}
		p.send(shake("X-Fake: redirect"))
		if res := p.answer(); res.StatusCode != 502 || code(t, res) != "upstream_redirect" {
			t.Errorf("a redirect: %d", res.StatusCode)
		}
		p.send(request("Content-Length: 2") + "{}")
		if res := p.answer(); res.StatusCode != 200 {
			t.Errorf("after all that, a request: %d", res.StatusCode)
		}
		s.clean()
		if n := s.up.Conns(); n != 9 {
			t.Errorf("%d connections to the upstream for 8 handshakes and a request, want 9", n)
		}
	})
}

// TestAcceptancesThatAreWrong are none.
func TestAcceptancesThatAreWrong(t *testing.T) {
	tunnels(t, func(t *testing.T, s *stack, _ *entries) {
		for _, c := range []struct{ scenario, field string }{
			{"wswrong", "A: b"},
			{"switch", "A: b"},
			{"ws extension=permessage-deflate", "A: b"},
			{"ws extension=foo", "Sec-WebSocket-Extensions: permessage-deflate"},
			{"ws protocol=realtime", "A: b"},
			{"ws protocol=Realtime", "Sec-WebSocket-Protocol: realtime"},
		} {
			p := s.dial()
			p.send(shake("X-Fake: "+c.scenario, c.field))
			if res := p.answer(); res.StatusCode != 502 || code(t, res) != "upstream_malformed" {
				t.Errorf("%s: %d", c.scenario, res.StatusCode)
			}
		}
		if err := s.up.AwaitOpen(within(t, soon), 0); err != nil {
			t.Error("the upstream's connections stay open")
		}
		s.upgrade("ws extension=permessage-deflate", "Sec-WebSocket-Extensions: foo, permessage-deflate; client_max_window_bits")
		s.upgrade("ws protocol=realtime", "Sec-WebSocket-Protocol: other, realtime")
	})
}

// TestKeysAmongProtocols checks that the key that browsers send as a subprotocol, in place of Authorization, is not
// forwarded.
func TestKeysAmongProtocols(t *testing.T) {
	s := start(t, allowing("websocket"))
	s.upgrade("ws protocol=realtime", "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.sk-mine,x")
	s.upgrade("", "Sec-WebSocket-Protocol: OpenAI-Insecure-API-Key.sk-mine")
	for i, want := range []string{"realtime, x", ""} {
		if got := s.up.Requests()[i].Get("Sec-WebSocket-Protocol"); got != want {
			t.Errorf("the upstream was offered %q, want %q", got, want)
		}
	}
	s.clean()
}

// TestCutWebsockets checks that an upstream that breaks off does not look like one that has closed.
func TestCutWebsockets(t *testing.T) {
	tunnels(t, func(t *testing.T, s *stack, e *entries) {
		for i, scenario := range []string{"ws n=1", "ws n=1 alert=0", "wstorn", "wstorn alert=0"} {
			w := s.upgrade(scenario)
			w.send(frame(opText, "hello"))
			w.broken()
			if got := e.recorded(t, i+1); got.Code != "upstream_closed" || got.Status != 101 {
				t.Errorf("%s: the record is %+v", scenario, got)
			}
		}
		if l := strings.Join(s.logged(), "\n"); strings.Count(l, "upstream_closed: the upstream ended a WebSocket") != 4 {
			t.Errorf("logged %q", l)
		}
	})
}

// TestUpstreamCloses checks that the upstream's close frame arrives, and the client's reply too.
func TestUpstreamCloses(t *testing.T) {
	tunnels(t, func(t *testing.T, s *stack, e *entries) {
		w := s.upgrade("ws n=1 code=4000")
		w.send(frame(opText, "hello"))
		w.want(opText, "hello")
		w.want(opClose, "\x0f\xa0")
		w.send(frame(opClose, "\x0f\xa0"))
		w.ended()
		if got := e.recorded(t, 1); got.Code != "" {
			t.Errorf("the record is %+v", got)
		}
		wait(t, s.up.Requests()[0].Answered(), "the upstream to get the reply")
	})
}

// TestLeavingWebsockets checks that the end of either side's connection ends the other's.
func TestLeavingWebsockets(t *testing.T) {
	tunnels(t, func(t *testing.T, s *stack, e *entries) {
		for i, leave := range []func(w *socket){
			func(w *socket) { w.Close() },
			func(w *socket) { w.Conn.(*net.TCPConn).SetLinger(0); w.Close() },
			func(w *socket) { w.Conn.(*net.TCPConn).CloseWrite() },
			func(w *socket) { w.send(frame(opText, "half")[:5]); w.Close() },
		} {
			w := s.upgrade("wssilent")
			leave(w)
			wait(t, must(s.up.Await(within(t, soon), i+1))[i].Gone(), "the upstream's connection to be closed")
			if got := e.recorded(t, i+1); got.Code != "client_left" || got.Status != 101 {
				t.Errorf("%d: the record is %+v", i, got)
			}
		}
		if l := s.logged(); len(l) > 0 {
			t.Errorf("logged %q", l)
		}
	})
}

// TestWebsocketsAreHeldUp checks that a peer that does not read stops the other: the proxy does not buffer.
func TestWebsocketsAreHeldUp(t *testing.T) {
	tunnels(t, func(t *testing.T, s *stack, e *entries) {
		w := s.upgrade("wssilent")
		w.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		f := []byte(frame(opText, strings.Repeat("x", 64<<10)))
		total := 0
		for {
			n, err := w.Write(f)
			total += n
			if err != nil {
				break
			}
			if total > 64<<20 {
				t.Fatal("64 MiB went into a peer that does not read")
			}
		}
		// While the proxy cannot pass on what is there. A close without a reset
		// would come behind all that, and TCP has no way past it.
		w.Conn.(*net.TCPConn).SetLinger(0)
		w.Close()
		if got := e.recorded(t, 1); got.Code != "client_left" {
			t.Errorf("the record is %+v", got)
		}
	})
}

// drain begins one, of which the result comes later.
func (s *stack) drain(ctx context.Context) <-chan error {
	done := make(chan error, 1)
	go func() { done <- s.server.Drain(ctx, s.listener) }()
	return done
}

// TestDrainClosesWebsockets checks that both peers receive a close frame, between frames.
func TestDrainClosesWebsockets(t *testing.T) {
	tunnels(t, func(t *testing.T, s *stack, e *entries) {
		w := s.upgrade("")
		w.send(frame(opText, "hello"))
		w.want(opText, "hello")
		done := s.drain(within(t, soon))
		w.want(opClose, goingAway)
		w.send(frame(opClose, goingAway))
		w.ended()
		w.Close()
		if err := <-done; err != nil {
			t.Errorf("drain: %v", err)
		}
		// The fake upstream answers a close frame only if it has the mask that a
		// client's must have.
		wait(t, s.up.Requests()[0].Answered(), "the upstream to be told")
		if f := s.up.Faults(); len(f) > 0 {
			t.Errorf("the upstream found faults: %q", f)
		}
		if got := e.recorded(t, 1); got.Code != "" {
			t.Errorf("the record is %+v", got)
		}
	})
}

// TestDrainLetsFramesEnd checks that no close frame is inserted into an unfinished frame, in either direction.
func TestDrainLetsFramesEnd(t *testing.T) {
	tunnels(t, func(t *testing.T, s *stack, _ *entries) {
		w := s.upgrade("wsslow d=500ms")
		f := frame(opText, "to be continued")
		w.send(f[:9])
		must(w.in.Peek(7)) // the head of the upstream's frame and "hello"
		done := s.drain(within(t, soon))
		w.want(opText, "helloworld")
		w.want(opClose, goingAway)
		w.send(f[9:])
		w.send(frame(opClose, goingAway))
		w.ended()
		w.Close()
		if err := <-done; err != nil {
			t.Errorf("drain: %v", err)
		}
		if f := s.up.Faults(); len(f) > 0 {
			t.Errorf("the upstream found faults: %q", f)
		}
	})
}

// TestDrainEndsAtItsLimit also where a frame never does.
func TestDrainEndsAtItsLimit(t *testing.T) {
	s := start(t, allowing("websocket"))
	w := s.upgrade("wsslow d=1h")
	must(w.in.Peek(7))
	ctx, cancel := context.WithCancel(context.Background())
	done := s.drain(ctx)
	cancel()
	if err := <-done; err == nil {
		t.Error("a cut WebSocket is not reported")
	}
	w.broken()
	wait(t, s.up.Requests()[0].Gone(), "the upstream's connection to be closed")
}

// TestLimitsOfWebsockets checks that each WebSocket counts as a running request.
func TestLimitsOfWebsockets(t *testing.T) {
	limitedBy := func(limits policy.Limits, expired func()) *stack {
		rules := newPolicy(t, policy.Config{TCP: true, Limits: limits, Expired: expired})
		return start(t, allowing("websocket"), func(s *setup) { s.server.Policy = rules })
	}
	s := limitedBy(policy.Limits{MaxConcurrent: 1}, nil)
	w := s.upgrade("")
	p := s.dial()
	p.send(shake())
	if res := p.answer(); res.StatusCode != 429 || code(t, res) != "too_many_requests" {
		t.Errorf("a second one: %d", res.StatusCode)
	}
	w.send(frame(opClose, ""))
	w.want(opClose, "")
	w.ended()
	for deadline := within(t, soon); ; runtime.Gosched() {
		res := s.post("json", "{}")
		read(t, res)
		if res.StatusCode == 200 {
			break
		}
		if deadline.Err() != nil {
			t.Fatal("a WebSocket that has ended still counts")
		}
	}

	over := make(chan struct{})
	s = limitedBy(policy.Limits{ExpireAfter: 300 * time.Millisecond}, func() { close(over) })
	w = s.upgrade("")
	w.want(opClose, goingAway)
	w.send(frame(opClose, goingAway))
	w.ended()
	wait(t, over, "the service to be over")
}

// TestOtherWebsocketServer is another make's of the same protocol: bytes that
// are no frames of ours.
func TestOtherWebsocketServer(t *testing.T) {
	hijacked := make(chan error, 1)
	other := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		c, in, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			hijacked <- err
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x88\x7e\x00\x01")
		_, err = io.Copy(io.Discard, bufio.NewReader(in))
		hijacked <- err
	}))
	defer other.Close()
	s := start(t, allowing("websocket"), func(s *setup) { s.url = other.URL + "/v1/responses" })
	w := s.upgrade("")
	w.broken()
	if err := <-hijacked; err != nil {
		t.Error(err)
	}
	if l := s.logged(); len(l) != 1 || !strings.HasPrefix(l[0], "upstream_malformed: ") {
		t.Errorf("logged %q", l)
	}
}
