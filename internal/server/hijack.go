package server

import (
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/relay"
)

// line is a connection that was switched to another protocol. One goroutine may
// read while another writes.
type line struct{ c *conn }

// Hijack is relay.ResponseWriter's.
func (a *responseWriter) Hijack(fields []http1.Field) (relay.UpgradedConn, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.begun, a.last, a.framing = true, true, byLength
	a.line = &line{a.c}
	a.c.entry.Status = 101
	b := a.buffer()
	*b = append(*b, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"...)
	*b = append(appendFields(*b, fields), "\r\n"...)
	a.c.nc.SetReadDeadline(time.Time{})
	return a.line, a.flushPending()
}

// Read is io.Reader's. What came together with the request's head comes first.
func (l *line) Read(p []byte) (int, error) {
	c := l.c
	if c.unused() > 0 {
		n := copy(p, c.in.buf[c.in.used:])
		c.in.used += n
		c.entry.BytesIn += int64(n)
		return n, nil
	}
	c.releaseInput() // for as long as this lasts
	n, err := c.nc.Read(p)
	c.entry.BytesIn += int64(n)
	return n, err
}

// Write is io.Writer's.
func (l *line) Write(p []byte) (int, error) {
	n, err := l.c.nc.Write(p)
	l.c.entry.BytesOut += int64(n)
	return n, err
}

// CloseWrite is websocket.Side's.
func (l *line) CloseWrite() error {
	if half, ok := l.c.nc.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil // it will be closed soon enough
}

// Interrupt is websocket.Side's. The connection itself stays open, to be closed
// in good order.
func (l *line) Interrupt() { l.c.nc.SetDeadline(time.Unix(1, 0)) }

// Stopping is relay.UpgradedConn's.
func (l *line) Draining() <-chan struct{} { return l.c.server.stopping }
