// Package front serves HTTP/1.1 on a listener: net/http's server, fed by a
// strict reader of heads, as a thin adapter to package proxy.
package front

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/proxy"
)

// lingerTimeout is how long a client that was refused may take to read it.
const lingerTimeout = time.Second

// Config says how to serve.
type Config struct {
	// Proxy answers the requests. Required.
	Proxy *proxy.Proxy
	// HeadTimeout limits the time from a connection's begin, or a head's first
	// byte, to the head's end. Zero means 30 seconds.
	HeadTimeout time.Duration
	// BodyTimeout limits how long a body may stall. Zero means 60 seconds.
	BodyTimeout time.Duration
	// IdleTimeout limits how long a connection may wait for its next request.
	// Zero means 5 minutes.
	IdleTimeout time.Duration
	// Log takes a line about what no client can be told; nil drops it. It must
	// not block.
	Log func(line string)
}

// Engine serves connections until it is drained.
type Engine struct {
	cfg    Config
	server *http.Server

	mu       sync.Mutex
	conns    map[*conn]struct{}
	draining bool
	empty    chan struct{} // closed when draining and no connection is left
}

// New returns an engine.
func New(cfg Config) *Engine {
	setDefault(&cfg.HeadTimeout, 30*time.Second)
	setDefault(&cfg.BodyTimeout, 60*time.Second)
	setDefault(&cfg.IdleTimeout, 5*time.Minute)
	if cfg.Log == nil {
		cfg.Log = func(string) {}
	}
	e := &Engine{cfg: cfg, conns: map[*conn]struct{}{}, empty: make(chan struct{})}
	e.server = &http.Server{
		Handler:           http.HandlerFunc(e.serve),
		ReadHeaderTimeout: cfg.HeadTimeout,
		IdleTimeout:       cfg.IdleTimeout,
		MaxHeaderBytes:    MaxHead,
		ErrorLog:          log.New(io.Discard, "", 0), // it would print what clients send
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ConnState:         e.stateChanged,
	}
	return e
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

type connKey struct{}

// Serve accepts connections on l until Drain closes it, and returns nil then.
// Running out of file descriptors does not end it: it tries again after a
// pause of at most a second.
func (e *Engine) Serve(l net.Listener) error {
	err := e.server.Serve(listener{l, e})
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) && e.isDraining() {
		return nil
	}
	return err
}

// listener wraps what it accepts.
type listener struct {
	net.Listener
	engine *Engine
}

func (l listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, engine: l.engine}
	if !l.engine.add(c) {
		nc.Close()
		return nil, net.ErrClosed
	}
	return c, nil
}

// add tells whether c may be served.
func (e *Engine) add(c *conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.draining {
		e.conns[c] = struct{}{}
	}
	return !e.draining
}

func (e *Engine) remove(c *conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.conns, c)
	if e.draining && len(e.conns) == 0 {
		e.signalEmpty()
	}
}

// signalEmpty needs e.mu.
func (e *Engine) signalEmpty() {
	select {
	case <-e.empty:
	default:
		close(e.empty)
	}
}

func (e *Engine) isDraining() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.draining
}

// stateChanged is told by net/http when an answer has been sent. A connection
// on which the request was not read to its end is not used again: what is left
// of it must never be taken for another request.
func (e *Engine) stateChanged(nc net.Conn, s http.ConnState) {
	if c := nc.(*conn); s == http.StateIdle && !e.resume(c) {
		c.Close()
	}
}

// resume lets c wait for its next request.
func (e *Engine) resume(c *conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.draining && c.complete() && c.state.CompareAndSwap(busy, waiting)
}

// Drain stops accepting on l, closes the connections that have no request, and
// waits for the requests that run. When ctx ends, those are cut; Drain returns
// ctx's error then.
func (e *Engine) Drain(ctx context.Context, l net.Listener) error {
	for _, c := range e.beginDrain() {
		c.Close()
	}
	l.Close()
	select {
	case <-e.empty:
		return nil
	case <-ctx.Done():
		e.server.Close()
		return ctx.Err()
	}
}

// beginDrain returns the connections that have no request.
func (e *Engine) beginDrain() (unused []*conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.draining = true
	for c := range e.conns {
		if c.state.CompareAndSwap(waiting, dropped) {
			unused = append(unused, c)
		}
	}
	if len(e.conns) == 0 {
		e.signalEmpty()
	}
	return unused
}

func (e *Engine) log(line string) { e.cfg.Log(line) }

// refuse answers a head that does not parse, straight to the socket.
func (e *Engine) refuse(nc net.Conn, reason *http1.Error) {
	a := &rawAnswer{w: nc}
	if e.cfg.Proxy.RefuseSyntax(a, reason) == nil {
		a.Flush()
	}
}
