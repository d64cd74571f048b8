// Package openaitest is a fake of OpenAI's Responses API: POST /v1/responses, the routes below and beside it, the
// documented responses and events, and every fault that a proxy must survive.
//
// It uses HTTP/1.1 on bare connections, so that tests see the exact bytes of the request and choose the exact bytes of
// the response. The treatment of a request is called a scenario: see the table of them. A head that net/http reads
// otherwise than package http1 does, the parser of the proxy too, is a fault. With Options.Serve it is a server that
// costs little more than its system calls.
package openaitest

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultPath is where the API listens, as at OpenAI.
const DefaultPath = "/v1/responses"

// Options configures a server. The zero value is a plain server on a free port that accepts any key.
type Options struct {
	Key     string                // the only key accepted; empty: requests need none
	TLS     bool                  // with a throw-away CA, and a certificate for 127.0.0.1, ::1 and localhost
	Addr    string                // where to listen; empty: 127.0.0.1:0
	TLSMin  uint16                // lowest TLS version; zero: Go's default
	TLSMax  uint16                // highest TLS version; zero: Go's default
	Default string                // scenario for a request that names none; empty: "auto"
	Choose  func(*Request) string // scenario for a request, by its head, whatever its route and key; "": by the rules for all others
	Path    string                // the route; empty: DefaultPath. One that ends in /messages is Anthropic's
	Forget  bool                  // counts requests but keeps no record of them, nor asks net/http about them, for long runs
	Serve   func(*Conn) error     // responds to a request, instead of scenarios and without a record; after an error the connection is closed
	KeyLog  io.Writer             // gets the secrets of TLS sessions, as tls.Config's KeyLogWriter; nil: nothing does
}

// A Server is a running fake.
type Server struct {
	opts     Options
	ln       net.Listener
	tls      *tls.Config
	ca       []byte          // PEM
	done     context.Context // until Close
	end      context.CancelFunc
	wg       sync.WaitGroup
	accepted atomic.Int64
	ids      atomic.Uint64
	made     sync.Map // responses by id; none with Options.Forget

	mu       sync.Mutex
	conns    map[*Conn]struct{}
	script   []string
	requests []*Request
	count    int
	faults   []string
	changed  chan struct{} // closed, and replaced, when count or conns changes
}

// Start runs a server until Close.
func Start(opts Options) (*Server, error) {
	opts.Path = cmp.Or(opts.Path, DefaultPath)
	opts.Default = cmp.Or(opts.Default, "auto")
	_, err := parseScenario(opts.Default)
	if err != nil {
		return nil, err
	}
	s := &Server{opts: opts, conns: map[*Conn]struct{}{}, changed: make(chan struct{})}
	s.done, s.end = context.WithCancel(context.Background())
	if opts.TLS {
		if err := s.setupTLS(); err != nil {
			return nil, err
		}
	}
	if s.ln, err = net.Listen("tcp", cmp.Or(opts.Addr, "127.0.0.1:0")); err != nil {
		return nil, err
	}
	s.wg.Go(s.accept)
	return s, nil
}

// Close closes the listener and all connections, and waits for what serves them.
func (s *Server) Close() {
	s.mu.Lock()
	s.end()
	s.ln.Close()
	for c := range s.conns {
		c.abort()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// Addr returns the server's host:port.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// URL returns the address of the API's one route.
func (s *Server) URL() string {
	scheme := "http"
	if s.opts.TLS {
		scheme = "https"
	}
	_, port, _ := net.SplitHostPort(s.Addr())
	return scheme + "://127.0.0.1:" + port + s.opts.Path
}

// CAPEM returns the certificate to trust, or nil without TLS.
func (s *Server) CAPEM() []byte { return s.ca }

// Script sets the scenarios of the next requests, one each; they precede the scenarios that the requests name. Requests
// with a wrong key or to another route take none.
func (s *Server) Script(scenarios ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = append(s.script, scenarios...)
}

func (s *Server) nextScript() (next string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.script) > 0 {
		next, s.script = s.script[0], s.script[1:]
	}
	return next
}

// Requests returns all requests, in their order, malformed ones included.
func (s *Server) Requests() []*Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Count returns how many requests there were, also with Options.Forget.
func (s *Server) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// Await waits until there were n requests, and returns all.
func (s *Server) Await(ctx context.Context, n int) ([]*Request, error) {
	err := s.until(ctx, func() bool { return s.count >= n })
	return s.Requests(), err
}

// AwaitOpen waits until exactly n connections are open.
func (s *Server) AwaitOpen(ctx context.Context, n int) error {
	return s.until(ctx, func() bool { return len(s.conns) == n })
}

// until waits for a condition, which it checks under s.mu.
func (s *Server) until(ctx context.Context, met func() bool) error {
	for {
		s.mu.Lock()
		ok, changed := met(), s.changed
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.done.Done():
			return net.ErrClosed
		}
	}
}

// signal wakes those in until; s.mu is held.
func (s *Server) signal() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Conns returns how many connections were accepted.
func (s *Server) Conns() int { return int(s.accepted.Load()) }

// Open returns how many connections are open. A connection that the peer closed counts until the server has noticed;
// see AwaitOpen.
func (s *Server) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// CloseIdle closes the connections that wait for a request, as OpenAI's edge does now and then.
func (s *Server) CloseIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.closeIdle()
	}
}

// Faults returns what was wrong with requests; a proper client leaves it empty.
func (s *Server) Faults() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.faults)
}

func (s *Server) fault(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, text)
}

func (s *Server) accept() {
	for {
		raw, err := s.ln.Accept()
		switch {
		case err == nil:
			s.serve(&Conn{s: s, raw: raw.(*net.TCPConn), nc: raw.(*net.TCPConn)})
		case errors.Is(err, net.ErrClosed):
			return
		default: // out of file descriptors, most likely: give the others time to end
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// serve serves c in a goroutine of its own, unless the server is closed.
func (s *Server) serve(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done.Err() != nil {
		c.abort()
		return
	}
	c.origin.Conn = int(s.accepted.Add(1))
	s.conns[c] = struct{}{}
	s.signal()
	s.wg.Go(func() {
		c.run()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
		s.signal()
	})
}
