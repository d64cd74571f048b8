package server_test

import (
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/listen"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/relay"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/server"
)

// treacherous is a listener whose connections panic when they are read from, or only when they are written to.
type treacherous struct {
	net.Listener
	written bool
}

func (l treacherous) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return bomb{c, l.written}, err
}

type bomb struct {
	net.Conn
	written bool
}

func (b bomb) Read(p []byte) (int, error) {
	if b.written {
		return b.Conn.Read(p)
	}
	panic("a value with a secret: " + canary)
}

func (bomb) Write([]byte) (int, error) { panic("a value with a secret: " + canary) }

// TestPanicOutsideOfARequest costs the connection on which it happens: not the
// process, and not the drain, which waits for all connections.
func TestPanicOutsideOfARequest(t *testing.T) {
	s := &stack{t: t}
	s.server = must(server.New(server.Config{Relay: must(relay.New(relay.Config{Upstream: panicking{}, Log: s.logOf})), Policy: must(policy.New(policy.Config{})), Log: s.log}))
	s.listener = must(listen.TCP(listen.Loopback(0)))
	go s.server.Serve(treacherous{s.listener, false})
	for range 2 {
		s.dial().ended()
	}
	if err := s.server.Drain(within(t, soon), s.listener); err != nil {
		t.Error(err)
	}
	// The line comes once the connection has been released.
	for ctx := within(t, soon); len(s.logged()) < 2 && ctx.Err() == nil; {
		runtime.Gosched()
	}
	l := strings.Join(s.logged(), "\n")
	if strings.Count(l, "internal_error: panic at") != 2 || strings.Contains(l, canary) {
		t.Errorf("logged %q", l)
	}
}

// TestPanicInAResponse checks that a request whose response cannot be written without a panic does not count as running
// for ever, and that its record is handed over once.
func TestPanicInAResponse(t *testing.T) {
	for what, text := range map[string]string{
		"a malformed head":        "GET / HTTP/2.0\r\n\r\n",
		"a refused route":         "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
		"a request that panicked": request("Content-Length: 2") + "{}",
	} {
		s := &stack{t: t}
		var records []int64 // how many requests ran then
		s.server = must(server.New(server.Config{
			Relay: must(relay.New(relay.Config{Upstream: panicking{}, Log: s.logOf})), Policy: must(policy.New(policy.Config{})), Log: s.log,
			Observe: func(*audit.Entry) { records = append(records, s.server.Running.Load()) },
		}))
		s.listener = must(listen.TCP(listen.Loopback(0)))
		go s.server.Serve(treacherous{s.listener, true})
		p := s.dial()
		p.send(text)
		p.ended()
		if err := s.server.Drain(within(t, soon), s.listener); err != nil { // and so the connection has ended
			t.Errorf("%s: %v", what, err)
		}
		if n := s.server.Running.Load(); n != 0 || !slices.Equal(records, []int64{0}) {
			t.Errorf("%s: %d requests run, %d at the records; want none and one record", what, n, records)
		}
		if l := strings.Join(s.logged(), "\n"); strings.Contains(l, canary) {
			t.Errorf("%s: logged %q", what, l)
		}
	}
}
