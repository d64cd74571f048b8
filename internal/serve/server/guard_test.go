package server_test

import (
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/listen"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/relay"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/server"
)

// treacherous is a listener whose connections panic when they are read from.
type treacherous struct{ net.Listener }

func (l treacherous) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return bomb{c}, err
}

type bomb struct{ net.Conn }

func (bomb) Read([]byte) (int, error) { panic("a value with a secret: " + canary) }

// TestPanicOutsideOfARequest costs the connection on which it happens: not the
// process, and not the drain, which waits for all connections.
func TestPanicOutsideOfARequest(t *testing.T) {
	s := &stack{t: t}
	s.server = must(server.New(server.Config{Relay: must(relay.New(relay.Config{Upstream: panicking{}, Log: s.logOf})), Policy: must(policy.New(policy.Config{})), Log: s.log}))
	s.listener = must(listen.TCP(listen.Loopback(0)))
	go s.server.Serve(treacherous{s.listener})
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
