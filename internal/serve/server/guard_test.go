package server_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
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

// cut is a listener whose connections cannot be written to.
type cut struct{ net.Listener }

func (l cut) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return cutConn{c}, err
}

type cutConn struct{ net.Conn }

func (cutConn) Write([]byte) (int, error) { return 0, net.ErrClosed }

// TestRecordOfALostResponse checks that the record of a response of the upstream that could not be written does not
// look like a success, whether that happens while it is passed on or at its end.
func TestRecordOfALostResponse(t *testing.T) {
	atOnce := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "{}") }))
	defer atOnce.Close()
	for want, breaking := range map[string]func(net.Listener) net.Listener{
		"internal_error": func(l net.Listener) net.Listener { return treacherous{l, true} },
		"client_left":    func(l net.Listener) net.Listener { return cut{l} },
	} {
		for _, url := range []string{"", atOnce.URL + "/v1/responses"} {
			e := &entries{}
			s := start(t, func(s *setup) { s.server.Observe, s.url = e.add, url })
			l := must(listen.TCP(listen.Loopback(0)))
			go s.server.Serve(breaking(l))
			p := &peer{t: t, Conn: must(net.Dial("tcp", l.Addr().String()))}
			p.send(request("X-Fake: sse n=3 d=1ms", "Content-Length: 2") + "{}")
			if got := e.recorded(t, 1); got.Status != 200 || got.Code != want {
				t.Errorf("the record is %+v, want %s", got, want)
			}
			l.Close()
			p.Close()
		}
	}
}
