// Package server serves HTTP/1.1 to clients: it reads heads with the strict parser of package http1, hands each request
// to package relay, and writes the response as it comes. One goroutine serves one connection.
package server

import (
	"cmp"
	"context"
	"errors"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/socket"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/relay"
)

const (
	// abortTimeout is how long requests that were cut may take to end.
	abortTimeout = 2 * time.Second
	// freshTimeout is how long a drain waits for the request of a client that has just connected: it cannot have known.
	freshTimeout = 500 * time.Millisecond
	// fullEvery limits the lines of the log about MaxConnections.
	fullEvery = time.Minute
)

// Config is the configuration of a Server.
type Config struct {
	// Relay responds to the requests. Required.
	Relay *relay.Relay
	// Policy admits connections and requests. Required.
	Policy *policy.Policy
	// MaxConnections is how many may be open; one more is reset, so that there are descriptors for the requests of
	// these. Zero means no limit.
	MaxConnections int
	// HeadTimeout limits the time until a connection's first byte, and from the first byte of each head to its end.
	// BodyTimeout limits how long a body may stall, and IdleTimeout how long a connection may wait for its next request.
	// Zero means 30 s, 60 s and 5 min.
	HeadTimeout, BodyTimeout, IdleTimeout time.Duration
	// Log receives a line about each failure that no response can report; nil drops it. It must not block.
	Log func(line string)
	// Observe is called at the end of each exchange, concurrently; nil does nothing. It must not block, nor keep the
	// entry.
	Observe func(*audit.Entry)
}

// Server serves connections until it is drained.
type Server struct {
	cfg     Config
	watcher *watcher
	serving sync.WaitGroup // connections, and calls of Serve, each of which may still accept one
	// Running is the number of requests and refusals that have begun and not ended. AcceptFailures counts attempts to
	// accept a connection that failed; Resets counts connections that were reset because they were too many, of one user
	// or of all.
	Running, AcceptFailures, Resets atomic.Int64

	mu       sync.Mutex
	conns    map[uint64]*conn
	last     uint64    // the number of the last connection
	noted    time.Time // when the log last had a line about MaxConnections
	draining context.Context
	drain    func() // ends draining; called with mu held
}

// New returns a server. It fails if a part is missing, or where the kernel has no room for what watches the clients.
func New(cfg Config) (*Server, error) {
	if cfg.Relay == nil || cfg.Policy == nil {
		return nil, errors.New("BUG: a server without a relay or a policy")
	}
	cfg.HeadTimeout = cmp.Or(cfg.HeadTimeout, 30*time.Second)
	cfg.BodyTimeout = cmp.Or(cfg.BodyTimeout, 60*time.Second)
	cfg.IdleTimeout = cmp.Or(cfg.IdleTimeout, 5*time.Minute)
	if cfg.Log == nil {
		cfg.Log = func(string) {}
	}
	s := &Server{cfg: cfg, conns: map[uint64]*conn{}}
	var err error
	if s.watcher, err = newWatcher(s.left); err != nil {
		return nil, err
	}
	s.draining, s.drain = context.WithCancel(context.Background())
	return s, nil
}

// Close gives back what New has opened. Drain does that, too.
func (s *Server) Close() { s.watcher.close() }

// Serve accepts connections on l until Drain closes it, and returns nil then; any other end is an error.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.isDraining() {
		s.mu.Unlock()
		return nil
	}
	s.serving.Add(1) // before Drain waits
	s.mu.Unlock()
	defer s.serving.Done()
	err := acceptAll(l, func(line string) {
		s.AcceptFailures.Add(1)
		s.cfg.Log(line)
	}, s.admit)
	if errors.Is(err, net.ErrClosed) && s.isDraining() {
		return nil
	}
	return err
}

// acceptAll has each connection on l admitted until l is closed, and returns why it ended. Running out of file
// descriptors, or any other trouble of a moment, does not end it: it reports a line to failed, and tries again after a
// pause of at most a second.
func acceptAll(l net.Listener, failed func(line string), admit func(net.Conn)) error {
	const shortest, longest = 5 * time.Millisecond, time.Second
	pause := shortest
	for {
		nc, err := l.Accept()
		if err == nil {
			pause = shortest
			admit(nc)
			continue
		}
		if _, kernel := errors.AsType[*net.OpError](err); !kernel || errors.Is(err, net.ErrClosed) {
			return err
		}
		failed("cannot accept a connection, trying again in " + pause.String() + ": " + err.Error())
		time.Sleep(pause)
		pause = min(2*pause, longest)
	}
}

// admit serves nc, or resets it. It finds out who calls before the next connection is accepted: those of a user who
// connects faster than that wait in the kernel's queue, and take no descriptors.
func (s *Server) admit(nc net.Conn) {
	var session *policy.Session
	switch {
	case s.full():
		s.reset(nc)
	case guarded(s.cfg.Log, func() { session = s.cfg.Policy.Connect(nc) }):
		nc.Close()
	case session.Silent():
		s.reset(nc)
	default:
		s.start(nc, session)
	}
}

// full reports whether another connection would be one too many.
func (s *Server) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cfg.MaxConnections == 0 || len(s.conns) < s.cfg.MaxConnections {
		return false
	}
	if time.Since(s.noted) > fullEvery {
		s.noted = time.Now()
		s.cfg.Log("too many connections: there are descriptors for " + strconv.Itoa(s.cfg.MaxConnections) +
			", and more are reset; raise the limit of open files (ulimit -n)")
	}
	return true
}

// reset ends a connection so that nothing of it is left, here and in the kernel.
func (s *Server) reset(nc net.Conn) {
	s.Resets.Add(1)
	setLinger(nc, 0)
	nc.Close()
}

// start serves nc in a goroutine of its own.
func (s *Server) start(nc net.Conn, session *policy.Session) {
	c := &conn{nc: nc, rw: socket.New(nc), server: s, ctx: newClientContext(), session: session}
	s.mu.Lock()
	s.last++
	c.id, s.conns[s.last] = s.last, c // also during a drain: it was accepted just before, and no other process will serve it
	s.mu.Unlock()
	if err := s.watcher.add(c); err != nil { // a client whose end cannot be detected is not served
		s.cfg.Log("cannot watch a connection, which is closed: " + err.Error())
		c.forceClose()
	}
	// Guarded as a whole, besides each request in exchange: reading a head must not be able to end the process either.
	s.serving.Go(func() { guarded(s.cfg.Log, c.serve) })
}

// Connections is how many clients are connected.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// left ends the request of a client that has left, if the connection is still there.
func (s *Server) left(id uint64) {
	s.mu.Lock()
	c := s.conns[id]
	s.mu.Unlock()
	if c != nil {
		c.ctx.cancel()
	}
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c.id)
}

func (s *Server) isDraining() bool { return s.draining.Err() != nil }

// Drain stops accepting on listeners, which must be all that are served, closes the connections that idle between
// requests, and waits for the requests that run; clients that have just connected may still send one. When ctx ends,
// all are cut, and Drain returns ctx's error once they have released their resources, or soon after.
func (s *Server) Drain(ctx context.Context, listeners ...net.Listener) error {
	s.mu.Lock()
	s.drain()
	s.mu.Unlock()
	for _, l := range listeners {
		l.Close()
	}
	s.closeIf(func(c *conn) bool { return c.state.CompareAndSwap(waiting, dropped) })
	defer s.watcher.close()
	defer time.AfterFunc(freshTimeout, func() {
		s.closeIf(func(c *conn) bool { return c.state.CompareAndSwap(fresh, dropped) })
	}).Stop()
	empty := make(chan struct{})
	go func() {
		s.serving.Wait()
		close(empty)
	}()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
	}
	requests := s.Running.Load()
	s.cfg.Relay.Abort()
	s.closeIf(func(*conn) bool { return true })
	select {
	case <-empty:
	case <-time.After(abortTimeout): // something is stuck that must not be able to hold the process
	}
	if requests == 0 {
		return nil
	}
	return ctx.Err()
}

// closeIf closes the connections of which f reports true.
func (s *Server) closeIf(f func(*conn) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		if f(c) {
			c.forceClose()
		}
	}
}

// guarded reports whether f panicked, and logs where, but none of the values: they may be a request's.
func guarded(log func(line string), f func()) (panicked bool) {
	defer func() {
		if recover() != nil {
			panicked = true
			log("internal_error: panic at " + panicSite())
		}
	}()
	f()
	return false
}

// panicSite names the function that panicked, with its line. It must be called by the deferred function.
func panicSite() string {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	f, more := frames.Next()
	for more && strings.HasPrefix(f.Function, "runtime.") {
		f, more = frames.Next()
	}
	return f.Function + ":" + strconv.Itoa(f.Line)
}
