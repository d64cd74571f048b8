package server

import (
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/relay"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

const outSize = 4 << 10 // of what is gathered for one write, in bytes

var outs = sync.Pool{New: func() any { b := make([]byte, 0, outSize); return &b }}

// responseWriter is the relay.ResponseWriter of the current request. Small pieces are gathered until Flush, which is
// called whenever there is nothing more to write, so that head, event and end leave in as few writes as they can.
type responseWriter struct {
	c          *conn
	pending    *[]byte // not written yet; nil if nothing is
	framing    int64   // of the body: http1.Chunked, http1.UntilClose, or 0 for one by its length, or none
	minor      int     // the client's version
	head       bool    // the request is a HEAD: no body is sent
	closeAfter bool    // the connection ends with this response
	hijacked   bool    // the connection does not serve HTTP any more
	vec        [3][]byte
}

func (a *responseWriter) Head(status int, fields []http1.Field, length int64) {
	a.c.mu.Lock()
	defer a.c.mu.Unlock()
	a.c.request.Entry.Status = status
	b := appendHead(*a.buffer(), status, fields)
	switch a.framing = 0; {
	case length >= 0 && (status == 204 || status == 304): // without a body
	case length >= 0:
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), length, 10), "\r\n"...)
	case a.minor == 1:
		a.framing = http1.Chunked
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	default:
		a.framing = http1.UntilClose
	}
	a.closeAfter = a.closeAfter || a.framing == http1.UntilClose || !a.c.body.worthReading() || a.c.server.isDraining()
	switch {
	case a.closeAfter:
		b = append(b, "Connection: close\r\n"...)
	case a.minor == 0: // a client that has asked for it waits for the connection's end without (RFC 9112, appendix C.2.2)
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	*a.pending = append(b, "\r\n"...)
	switch {
	case a.head:
		a.framing = 0 // the end of a body would be taken for the next response
	case a.framing == http1.UntilClose:
		setLinger(a.c.nc, 0) // until finish: whatever closes the connection before, the response must not look complete
	}
}

// appendHead appends a head up to its fields' end, but for those of the framing.
func appendHead(b []byte, status int, fields []http1.Field) []byte {
	b = append(strconv.AppendInt(append(b, "HTTP/1.1 "...), int64(status), 10), ' ')
	b = append(append(b, http1.StatusText(status)...), "\r\n"...)
	dated := false
	for _, f := range fields {
		dated = dated || http1.Is(f.Name, "date")
		b = append(append(append(append(b, f.Name...), ": "...), f.Value...), "\r\n"...)
	}
	if !dated { // RFC 9110, sections 6.6.1 and 5.6.7
		b = time.Now().UTC().AppendFormat(b, "Date: Mon, 02 Jan 2006 15:04:05 GMT\r\n")
	}
	return b
}

// buffer is where small pieces gather.
func (a *responseWriter) buffer() *[]byte {
	if a.pending == nil {
		a.pending = outs.Get().(*[]byte)
	}
	return a.pending
}

// Write must not be called with an empty p: an empty chunk would end the body. The response to a HEAD has none (RFC
// 9110, section 9.3.2).
func (a *responseWriter) Write(p []byte) error {
	if a.head {
		return nil
	}
	a.c.request.Entry.BytesOut += int64(len(p))
	if a.framing == http1.Chunked {
		b := a.buffer()
		*b = append(strconv.AppendInt(*b, int64(len(p)), 16), "\r\n"...)
	}
	if a.pending != nil && len(*a.pending)+len(p)+2 <= outSize {
		*a.pending = append(*a.pending, p...)
		if a.framing == http1.Chunked {
			*a.pending = append(*a.pending, "\r\n"...)
		}
		return nil
	}
	return a.writeLarge(p)
}

// writeLarge sends p with what is pending, without copying it.
func (a *responseWriter) writeLarge(p []byte) error {
	defer a.noteFirstByte()
	if a.pending == nil {
		_, err := a.c.rw.Write(p)
		return err
	}
	bufs := append(net.Buffers(a.vec[:0]), *a.pending, p)
	if a.framing == http1.Chunked {
		bufs = append(bufs, []byte("\r\n"))
	}
	_, err := bufs.WriteTo(a.c.nc)
	clear(a.vec[:])
	a.releasePending()
	return err
}

func (a *responseWriter) Flush() error {
	if a.pending == nil {
		return nil
	}
	_, err := a.c.rw.Write(*a.pending)
	a.noteFirstByte()
	a.releasePending()
	return err
}

func (a *responseWriter) Leave() { a.c.leave() }

// noteFirstByte is called when bytes have been handed to the kernel.
func (a *responseWriter) noteFirstByte() {
	if e := &a.c.request.Entry; e.FirstByte == 0 && a.c.server.cfg.Observe != nil {
		e.FirstByte = time.Since(e.Time)
	}
}

func (a *responseWriter) releasePending() {
	b := a.pending
	a.pending = nil
	clear(*b) // of what an upstream may have echoed
	if cap(*b) <= 4*outSize {
		*b = (*b)[:0]
		outs.Put(b)
	}
}

// finish writes the body's end and everything that is pending.
func (a *responseWriter) finish() error {
	if a.framing == http1.Chunked {
		b := a.buffer()
		*b = append(*b, "0\r\n\r\n"...)
	}
	err := a.Flush()
	if err == nil && a.framing == http1.UntilClose {
		setLinger(a.c.nc, -1)
	}
	return err
}

func (a *responseWriter) Hijack(fields []http1.Field) (conn relay.UpgradedConn, draining <-chan struct{}, err error) {
	a.c.request.Entry.Status, a.closeAfter, a.framing, a.hijacked = 101, true, 0, true
	b := a.buffer()
	*b = append(appendHead(*b, 101, fields), "Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"...)
	a.c.nc.SetReadDeadline(time.Time{})
	return upgradedConn{a.c}, a.c.server.draining.Done(), a.Flush()
}

// upgradedConn is a connection that was switched to another protocol. One goroutine may read while another writes.
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
	c.request.Entry.BytesIn += int64(n)
	return n, err
}

func (c upgradedConn) Write(p []byte) (int, error) {
	n, err := c.nc.Write(p)
	c.request.Entry.BytesOut += int64(n)
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
