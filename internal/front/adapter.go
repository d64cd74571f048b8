package front

import (
	"fmt"
	"net/http"
	"net/textproto"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/proxy"
)

// serve hands one request to the proxy. Whatever panics in there costs this
// request only.
func (e *Engine) serve(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(connKey{}).(*conn)
	a := &answer{w: w, full: w.(fullDuplexer), c: c}
	a.full.EnableFullDuplex() // fails only for HTTP/2; without it net/http closes the body when the answer begins
	b := &body{c: c, r: r, w: w.(deadliner), timeout: e.cfg.BodyTimeout}
	err := e.guarded(func() error {
		return e.cfg.Proxy.Serve(r.Context(), &proxy.Request{Head: &c.req, Body: b}, a)
	})
	b.done()
	if err != nil {
		if a.endsWithClose() {
			c.reset()
		}
		panic(http.ErrAbortHandler) // how net/http is told to end the connection
	}
}

// guarded turns a panic into an error, and logs where it came from, but none
// of the values: they may be of the request.
func (e *Engine) guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = proxy.ErrAbort
			e.log("internal_error: panic at " + panicSite())
		}
	}()
	return f()
}

// panicSite is the nearest function of ours, or of the runtime's callers, with
// its line.
func panicSite() string {
	var pcs [16]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(4, pcs[:])])
	for {
		f, more := frames.Next()
		if !more || len(f.Function) < 8 || f.Function[:8] != "runtime." {
			return fmt.Sprintf("%s:%d", f.Function, f.Line)
		}
	}
}

// The parts of net/http's response that http.ResponseController reaches; asked
// for directly they cost no allocation.
type (
	fullDuplexer interface{ EnableFullDuplex() error }
	deadliner    interface{ SetReadDeadline(time.Time) error }
	flusher      interface{ FlushError() error }
)

// body is a request's body with a limit on stalling. Read and Interrupt may run
// at the same time.
type body struct {
	c       *conn
	r       *http.Request
	w       deadliner
	timeout time.Duration

	mu          sync.Mutex // of the deadline
	limited     bool
	interrupted bool
}

// Read is upstream.Body's. Only reads that may have to wait get a limit.
func (b *body) Read(p []byte) (int, error) {
	if (b.limited || !b.c.bodyBuffered()) && !b.limit() {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := b.r.Body.Read(p)
	if err != nil {
		b.done()
	}
	return n, err
}

// limit gives the next read its time; false means that there is none left.
func (b *body) limit() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.interrupted {
		b.limited = true
		b.w.SetReadDeadline(time.Now().Add(b.timeout))
	}
	return !b.interrupted
}

// done lifts the limit: from now on the connection is only watched for the
// client's leaving.
func (b *body) done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.limited && !b.interrupted {
		b.limited = false
		b.w.SetReadDeadline(time.Time{})
	}
}

// Interrupt is upstream.Body's. Whoever reads must be waited for after it:
// net/http would panic if a Read were still running when the handler returns.
func (b *body) Interrupt() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.interrupted = true
	b.w.SetReadDeadline(time.Unix(1, 0))
}

// answer adapts proxy.Answer to net/http.
type answer struct {
	w      http.ResponseWriter
	full   fullDuplexer
	c      *conn
	length int64
}

// Head is proxy.Answer's.
func (a *answer) Head(status int, fields []http1.Field, length int64) {
	h := a.w.Header()
	h["Content-Type"] = nil // do not guess one
	for _, f := range fields {
		name := textproto.CanonicalMIMEHeaderKey(string(f.Name))
		h[name] = append(h[name], string(f.Value))
	}
	if length >= 0 && status != 204 && status != 304 {
		h["Content-Length"] = []string{strconv.FormatInt(length, 10)}
	}
	a.length = length
	a.w.WriteHeader(status)
}

// Write is proxy.Answer's.
func (a *answer) Write(p []byte) error {
	_, err := a.w.Write(p)
	return err
}

// Flush is proxy.Answer's.
func (a *answer) Flush() error { return a.w.(flusher).FlushError() }

// endsWithClose tells that the client knows the body's end by the end of the
// connection alone.
func (a *answer) endsWithClose() bool { return a.length < 0 && a.c.req.Minor == 0 }

// rawAnswer writes an answer to a connection that net/http knows nothing of.
type rawAnswer struct {
	w   interface{ Write([]byte) (int, error) }
	buf []byte
}

// Head is proxy.Answer's.
func (a *rawAnswer) Head(status int, fields []http1.Field, length int64) {
	a.buf = fmt.Appendf(a.buf, "HTTP/1.1 %d %s\r\nDate: %s\r\nConnection: close\r\nContent-Length: %d\r\n",
		status, http.StatusText(status), time.Now().UTC().Format(http.TimeFormat), length)
	for _, f := range fields {
		a.buf = fmt.Appendf(a.buf, "%s: %s\r\n", f.Name, f.Value)
	}
	a.buf = append(a.buf, "\r\n"...)
}

// Write is proxy.Answer's.
func (a *rawAnswer) Write(p []byte) error {
	a.buf = append(a.buf, p...)
	return nil
}

// Flush is proxy.Answer's.
func (a *rawAnswer) Flush() error {
	_, err := a.w.Write(a.buf)
	a.buf = a.buf[:0]
	return err
}
