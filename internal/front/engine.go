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
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/admit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/proxy"
)

const (
	// cutPatience is how long requests that were cut may take to end.
	cutPatience = 2 * time.Second
	// freshPatience is how long a drain waits for the request of a client that
	// has just connected: it cannot have known.
	freshPatience = 500 * time.Millisecond
	// fullEvery is how often the log is told that all connections are taken.
	fullEvery = time.Minute
)

// Config says how to serve.
type Config struct {
	// Proxy answers the requests. Required.
	Proxy *proxy.Proxy
	// Gate admits connections; nil admits all, and nobody is asked who they
	// are.
	Gate *admit.Gate
	// MaxConnections is how many may be open; one more is reset, so that there
	// are descriptors for the requests of these. Zero means no limit.
	MaxConnections int
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
	cfg      Config
	watcher  *watcher
	observer audit.Observer // nil if nobody is told

	mu       sync.Mutex
	conns    map[*conn]struct{}
	draining atomic.Bool   // changed with mu held
	serving  int           // calls of Serve
	failures atomic.Int64  // to accept
	resets   atomic.Int64  // of connections that were too many
	noted    time.Time     // when the log was last told of MaxConnections
	empty    chan struct{} // closed when draining and nothing is left
	stopping chan struct{} // closed when draining begins
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
	return &Engine{cfg: cfg, watcher: w, conns: map[*conn]struct{}{}, empty: make(chan struct{}), stopping: make(chan struct{})}, nil
}

// Close gives back what New has opened. Drain does that, too.
func (e *Engine) Close() { e.watcher.close() }

// Observe has o told of each exchange. It must be called before Serve, if at
// all.
func (e *Engine) Observe(o audit.Observer) { e.observer = o }

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
	e.count(+1)
	defer e.count(-1)
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = shortest
			e.admit(nc)
		case errors.Is(err, net.ErrClosed) && e.draining.Load():
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		default:
			e.failures.Add(1)
			e.cfg.Log("cannot accept a connection, trying again in " + pause.String() + ": " + err.Error())
			time.Sleep(pause)
			pause = min(2*pause, longest)
		}
	}
}

// admit serves nc, or resets it. It finds out who calls before the next
// connection is accepted: those of a user who connects faster than that wait in
// the kernel's queue, and take no descriptors.
func (e *Engine) admit(nc net.Conn) {
	if e.full() {
		e.reset(nc)
		return
	}
	var visitor *admit.Visitor
	var denial *admit.Denial
	err := e.guarded(func() error {
		if e.cfg.Gate != nil {
			visitor, denial = e.cfg.Gate.Connect(nc)
		}
		return nil
	})
	switch {
	case err != nil:
		nc.Close()
	case denial != nil && denial.Silent:
		e.reset(nc)
	default:
		e.start(nc, visitor, denial)
	}
}

// full reports whether another connection would be one too many.
func (e *Engine) full() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cfg.MaxConnections == 0 || len(e.conns) < e.cfg.MaxConnections {
		return false
	}
	if time.Since(e.noted) > fullEvery {
		e.noted = time.Now()
		e.cfg.Log("too many connections: all that there are descriptors for, which is " + strconv.Itoa(e.cfg.MaxConnections) +
			"; more are reset. Raise the limit of open files (ulimit -n), or set --max-connections-per-user")
	}
	return true
}

// reset ends a connection so that nothing of it is left, here and in the kernel.
func (e *Engine) reset(nc net.Conn) {
	e.resets.Add(1)
	if tcp, ok := nc.(interface{ SetLinger(int) error }); ok {
		tcp.SetLinger(0)
	}
	nc.Close()
}

// start serves nc in a goroutine of its own.
func (e *Engine) start(nc net.Conn, visitor *admit.Visitor, denial *admit.Denial) {
	ctx, cancel := context.WithCancel(context.Background())
	c := &conn{nc: nc, engine: e, ctx: ctx, cancel: cancel, visitor: visitor, denial: denial}
	if visitor != nil {
		c.entry.Caller = visitor.Caller().Audit()
	}
	e.add(c)
	e.watcher.add(c)
	// Guarded as a whole, besides each request in exchange: reading a head must
	// not be able to end the process either.
	go e.guarded(func() error {
		c.serve()
		return nil
	})
}

// add counts c. Also during a drain: then it was accepted in the last moment,
// and nobody else will serve it.
func (e *Engine) add(c *conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.conns[c] = struct{}{}
}

// count counts calls of Serve, each of which may still accept a connection.
func (e *Engine) count(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.serving += n
	e.signalEmpty()
}

// AcceptFailures is how often a connection could not be accepted.
func (e *Engine) AcceptFailures() int64 { return e.failures.Load() }

// Resets is how many connections were reset because they were too many, of one
// user or of all.
func (e *Engine) Resets() int64 { return e.resets.Load() }

// Connections is how many clients are connected.
func (e *Engine) Connections() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.conns)
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
	if !e.draining.Load() || e.serving > 0 || len(e.conns) > 0 {
		return
	}
	select {
	case <-e.empty:
	default:
		close(e.empty)
	}
}

// resume lets c wait for its next request.
func (e *Engine) resume(c *conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.draining.Load() && c.state.CompareAndSwap(busy, waiting)
}

// Drain stops accepting on listeners, which must be all that are served, closes
// the connections that idle between requests, and waits for the requests that
// run; clients that have just connected may still send one. When ctx ends, all
// are cut, and Drain returns ctx's error once they have let go of everything, or
// soon after.
func (e *Engine) Drain(ctx context.Context, listeners ...net.Listener) error {
	e.beginDrain()
	for _, l := range listeners {
		l.Close()
	}
	e.drop(waiting)
	defer e.watcher.close()
	late := time.AfterFunc(freshPatience, func() { e.drop(fresh) })
	defer late.Stop()
	select {
	case <-e.empty:
		return nil
	case <-ctx.Done():
		return e.cut(ctx)
	}
}

// cut ends all connections, and returns ctx's error if one had a request.
func (e *Engine) cut(ctx context.Context) error {
	requests := 0
	e.cfg.Proxy.Cut()
	for _, c := range e.all() {
		if c.state.Load() == busy {
			requests++
		}
		c.abandon()
	}
	select {
	case <-e.empty:
	case <-time.After(cutPatience): // something is stuck that must not be able to hold the process
	}
	if requests == 0 {
		return nil
	}
	return ctx.Err()
}

func (e *Engine) beginDrain() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.draining.Swap(true) {
		close(e.stopping)
	}
	e.signalEmpty()
}

// drop closes the connections that are in state, which is one without a
// request.
func (e *Engine) drop(state int32) {
	for _, c := range e.all() {
		if c.state.CompareAndSwap(state, dropped) {
			c.abandon()
		}
	}
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
