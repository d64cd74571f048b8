package server_test

import (
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMaxConnections checks that a connection above the limit is reset at once, does not wait, and does not affect the
// others. When one ends, another is accepted.
func TestMaxConnections(t *testing.T) {
	const most = 3
	s := start(t, func(s *setup) { s.server.MaxConnections = most })
	served := []*peer{s.dial(), s.dial(), s.dial()}
	for _, p := range served {
		p.send(request("X-Fake: json", "Content-Length: 2") + "{}")
		read(t, p.answer())
	}
	for range 10 {
		c, err := net.Dial("tcp", s.listener.Addr().String())
		if err != nil {
			continue // it was reset before it was even connected
		}
		c.SetDeadline(time.Now().Add(soon))
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || err.(net.Error).Timeout() {
			t.Errorf("one connection too many: %d bytes, %v", n, err)
		}
		c.Close()
	}
	if n := s.server.Resets.Load(); n != 10 {
		t.Errorf("%d connections were reset, want 10", n)
	}
	for _, p := range served {
		p.send(request("X-Fake: json", "Content-Length: 2") + "{}")
		read(t, p.answer())
	}
	served[0].Close()
	for ctx := within(t, soon); s.server.Connections() == most; runtime.Gosched() {
		if ctx.Err() != nil {
			t.Fatal("a closed connection still counts")
		}
	}
	p := s.dial()
	p.send(request("X-Fake: json", "Content-Length: 2") + "{}")
	read(t, p.answer())
	if l := s.logged(); len(l) != 1 || !strings.HasPrefix(l[0], "too many connections: ") {
		t.Errorf("logged %q, want one line", l)
	}
	if n := s.server.AcceptFailures.Load(); n != 0 {
		t.Errorf("accepting failed %d times", n)
	}
}
