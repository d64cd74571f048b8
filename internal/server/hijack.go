package server

import (
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/relay"
)

// upgradedConn is a connection that was switched to another protocol. One goroutine may read while another writes.
type upgradedConn struct{ c *conn }

// Hijack is relay.ResponseWriter's.
func (a *responseWriter) Hijack(fields []http1.Field) (relay.UpgradedConn, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.headWritten, a.closeAfter, a.framing = true, true, byLength
	a.hijacked = &upgradedConn{a.c}
	a.status = 101
	b := a.buffer()
	*b = append(appendHead(*b, a.status, fields), "Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"...)
	a.c.nc.SetReadDeadline(time.Time{})
	return a.hijacked, a.Flush()
}

// Read implements io.Reader. Bytes that arrived together with the request's head come first.
func (l *upgradedConn) Read(p []byte) (int, error) {
	c := l.c
	if c.unused() > 0 {
		n := copy(p, c.in.buf[c.in.used:])
		c.in.used += n
		c.body.received += int64(n)
		return n, nil
	}
	c.releaseInput() // for as long as this lasts
	n, err := c.nc.Read(p)
	c.body.received += int64(n)
	return n, err
}

// Write is io.Writer's.
func (l *upgradedConn) Write(p []byte) (int, error) {
	n, err := l.c.nc.Write(p)
	l.c.out.sent += int64(n)
	return n, err
}

// CloseWrite is websocket.Side's.
func (l *upgradedConn) CloseWrite() error {
	if half, ok := l.c.nc.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil // it will be closed soon enough
}

// Interrupt is websocket.Side's. The connection itself stays open, to be closed in good order.
func (l *upgradedConn) Interrupt() { l.c.nc.SetDeadline(time.Unix(1, 0)) }

// Stopping is relay.UpgradedConn's.
func (l *upgradedConn) Draining() <-chan struct{} { return l.c.server.draining.Done() }
