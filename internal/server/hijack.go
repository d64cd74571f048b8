package server

import (
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/relay"
)

func (a *responseWriter) Hijack(fields []http1.Field) (relay.UpgradedConn, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.headWritten, a.closeAfter, a.framing, a.hijacked = true, true, byLength, true
	a.status = 101
	b := a.buffer()
	*b = append(appendHead(*b, a.status, fields), "Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"...)
	a.c.nc.SetReadDeadline(time.Time{})
	return upgradedConn{a.c}, a.Flush()
}

// upgradedConn is a connection that was switched to another protocol: a relay.UpgradedConn. One goroutine may read while
// another writes.
type upgradedConn struct{ *conn }

// Read returns bytes that arrived together with the request's head first.
func (c upgradedConn) Read(p []byte) (n int, err error) {
	if c.unused() > 0 {
		n = copy(p, c.Buffered())
		c.Consume(n)
	} else {
		c.releaseInput() // for as long as this lasts
		n, err = c.nc.Read(p)
	}
	c.body.received += int64(n)
	return n, err
}

func (c upgradedConn) Write(p []byte) (int, error) {
	n, err := c.nc.Write(p)
	c.out.sent += int64(n)
	return n, err
}

func (c upgradedConn) CloseWrite() error {
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil // it will be closed soon enough
}

// Interrupt leaves the connection itself open, to be closed in good order.
func (c upgradedConn) Interrupt() { c.nc.SetDeadline(time.Unix(1, 0)) }

func (c upgradedConn) Draining() <-chan struct{} { return c.server.draining.Done() }
