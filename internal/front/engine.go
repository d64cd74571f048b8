// Package front serves HTTP/1.1 to clients: it reads heads with the strict
// parser of package http1, hands each request to package proxy, and writes the
// answer as it comes. One goroutine serves one connection.
package front

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/admit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/proxy"
)

// cutPatience is how long requests that were cut may take to end.
const cutPatience = 2 * time.Second

// Config says how to serve.
type Config struct {
	// Proxy answers the requests. Required.
	Proxy *proxy.Proxy
	// Gate admits connections; nil admits all, and nobody is asked who they
	// are.
	Gate *admit.Gate
	// HeadTimeout limits the time from a connection's begin, or a later head's
	// first byte, to the head's end. Zero means 30 seconds.
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
	cfg     Config
	watcher *watcher

	mu       sync.Mutex
	conns    map[*conn]struct{}
	draining bool
	empty    chan struct{} // closed when draining and no connection is left
}

// New returns an engine. It fails only where the kernel has no room for what
// watches the clients.
func New(cfg Config) (*Engine, error) {
	setDefault(&cfg.HeadTimeout, 30*time.Second)
	setDefault(&cfg.BodyTimeout, 60*time.Second)
	setDefault(&cfg.IdleTimeout, 5*time.Minute)
	if cfg.Log == nil {
		cfg.Log = func(string) {}
	}
	w, err := newWatcher()
	if err != nil {
		return nil, err
	}
	return &Engine{cfg: cfg, watcher: w, conns: map[*conn]struct{}{}, empty: make(chan struct{})}, nil
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// Serve accepts connections on l until Drain closes it, and returns nil then.
// Running out of file descriptors, or any other trouble of a moment, does not
// end it: it tries again after a pause of at most a second.
func (e *Engine) Serve(l net.Listener) error {
	const shortest, longest = 5 * time.Millisecond, time.Second
	pause := shortest
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = shortest
			e.start(nc)
		case errors.Is(err, net.ErrClosed) && e.isDraining():
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		default:
			e.cfg.Log("cannot accept a connection, trying again in " + pause.String() + ": " + err.Error())
			time.Sleep(pause)
			pause = min(2*pause, longest)
		}
	}
}

// start serves nc in a goroutine of its own.
func (e *Engine) start(nc net.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	c := &conn{nc: nc, engine: e, ctx: ctx, cancel: cancel}
	if !e.add(c) {
		nc.Close()
		cancel()
		return
	}
	e.watcher.add(c)
	// Guarded as a whole, besides each request in exchange: reading a head and
	// finding out who calls must not be able to end the process either.
	go e.guarded(func() error {
		c.serve()
		return nil
	})
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
	e.watcher.remove(c)
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.conns, c)
	e.signalEmpty()
}

// signalEmpty tells Drain if it has nothing more to wait for. It needs e.mu.
func (e *Engine) signalEmpty() {
	if !e.draining || len(e.conns) > 0 {
		return
	}
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

// resume lets c wait for its next request.
func (e *Engine) resume(c *conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.draining && c.state.CompareAndSwap(busy, waiting)
}

// Drain stops accepting on listeners, closes the connections that have no request, and
// waits for the requests that run. When ctx ends, those are cut, and Drain
// returns ctx's error once they have let go of everything, or soon after.
func (e *Engine) Drain(ctx context.Context, listeners ...net.Listener) error {
	for _, c := range e.beginDrain() {
		c.abandon()
	}
	for _, l := range listeners {
		l.Close()
	}
	defer e.watcher.close()
	select {
	case <-e.empty:
		return nil
	case <-ctx.Done():
		cut := 0
		for _, c := range e.all() {
			if c.state.Load() == busy {
				cut++
			}
			c.abandon()
		}
		select {
		case <-e.empty:
		case <-time.After(cutPatience): // something is stuck that must not be able to hold the process
		}
		if cut == 0 {
			return nil
		}
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
	e.signalEmpty()
	return unused
}

func (e *Engine) all() (conns []*conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.conns {
		conns = append(conns, c)
	}
	return conns
}

// guarded turns a panic into an error, and logs where it came from, but none
// of the values: they may be a request's.
func (e *Engine) guarded(f func() error) (err error) {
	defer func() {
		if recover() != nil {
			err = errPanic
			e.cfg.Log("internal_error: panic at " + panicSite())
		}
	}()
	return f()
}

var errPanic = errors.New("panic")

// panicSite names the function that panicked, with its line.
func panicSite() string {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs[:])])
	for inPanic := false; ; {
		f, more := frames.Next()
		inRuntime := strings.HasPrefix(f.Function, "runtime.")
		switch {
		case !more || inPanic && !inRuntime:
			return f.Function + ":" + strconv.Itoa(f.Line)
		case inRuntime:
			inPanic = true
		}
	}
}
