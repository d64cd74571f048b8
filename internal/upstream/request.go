package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/tlsrecord"
)

// Body is a request body that arrives while it is being sent.
type Body interface {
	// Read is io.Reader's. io.EOF means that the client has sent all of it.
	Read(p []byte) (int, error)
	// Interrupt makes a Read that blocks, and every later one, fail.
	Interrupt()
}

// Request is one request to the target's host. Whoever makes it has removed every field that must not pass; the
// credential is put in here.
type Request struct {
	// Method and Target are the request line's. Without a Target it is a POST to the Client's own, which costs least;
	// Target must not be longer than [Client.Room] allows.
	Method string
	Target []byte
	// Upgrade asks for a WebSocket (RFC 6455, section 4.1), on a connection of its own that never serves another
	// request.
	Upgrade bool
	// Fields go out in their order, after Host and the credential.
	Fields []http1.Field
	// Sent is called, if it is not nil, once the head has been written: Fields, which are nil then, are not needed any
	// more. Rest is not being read.
	Sent func()
	// Start is the body, or its beginning, in memory.
	Start []byte
	// Rest is what follows Start; nil if Start is all.
	Rest Body
	// Length is the whole body's number of bytes, or http1.Chunked, which needs a Rest.
	Length int64
}

const (
	// maxPooled is the largest buffer that is kept for the next head.
	maxPooled = 16 << 10
	// syncBody is how much is written before the answer is read for: less than what the sockets' buffers hold, so that
	// an upstream that responds without reading cannot block both sides.
	syncBody = 64 << 10
	// copySize is the buffer of a body that is passed on while it arrives.
	copySize = 32 << 10
)

var (
	heads  = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}
	copies = sync.Pool{New: func() any { b := make([]byte, copySize); return &b }}
)

// writer puts requests on one connection.
type writer struct {
	*conn
	key    *secret.Key
	prefix []byte // request line and Host field
}

// begin renders what comes before the credential: request line and Host.
func (c *Client) begin(r *Request) []byte {
	if r.Target == nil {
		return c.prefix
	}
	b := make([]byte, 0, len(r.Method)+len(r.Target)+len(c.host)+1)
	return append(append(append(append(b, r.Method...), ' '), r.Target...), c.host...)
}

// appendFields renders everything of the head that is not secret.
func (r *Request) appendFields(b []byte) []byte {
	for _, f := range r.Fields {
		b = append(append(append(append(b, f.Name...), ": "...), f.Value...), "\r\n"...)
	}
	switch {
	case r.Upgrade:
		return append(b, "connection: Upgrade\r\nupgrade: websocket\r\n\r\n"...)
	case r.Length == http1.Chunked:
		b = append(b, "transfer-encoding: chunked\r\n\r\n"...)
		if len(r.Start) > 0 {
			b = appendChunkSize(b, len(r.Start))
		}
		return b
	case r.Method == "GET" || r.Method == "DELETE": // which have no body here
		return append(b, "\r\n"...)
	}
	b = append(b, "content-length: "...)
	b = strconv.AppendInt(b, r.Length, 10)
	return append(b, "\r\n\r\n"...)
}

func appendChunkSize(b []byte, n int) []byte {
	return append(strconv.AppendInt(b, int64(n), 16), "\r\n"...)
}

// start writes the head, and as much of Start as belongs in one go with it. It returns what is left of Start.
func (w *writer) start(ctx context.Context, r *Request) ([]byte, error) {
	buf := heads.Get().(*[]byte)
	defer func() {
		if cap(*buf) <= maxPooled {
			heads.Put(buf)
		}
	}()
	*buf = r.appendFields((*buf)[:0])
	now := r.Start[:min(len(r.Start), syncBody)]
	var err error
	if w.layer == nil {
		err = w.startPlain(*buf, now)
	} else {
		err = w.startTLS(ctx, *buf, now)
	}
	return r.Start[len(now):], err
}

// startPlain sends from the key's own page: writev(2) copies it in the kernel, no user code moves it.
func (w *writer) startPlain(head, body []byte) error {
	return w.key.Line(func(line []byte) error {
		defer clear(w.vec[:])
		w.vec = [4][]byte{w.prefix, line, head, body}
		bufs := net.Buffers(w.vec[:])
		n, err := bufs.WriteTo(w.TCPConn)
		w.taken.Add(n)
		return err
	})
}

// maxSecretRecord is how much of a request fits one record in a slot, in bytes.
const maxSecretRecord = secret.SlotSize - tlsrecord.Overhead

// startTLS sends the record with the credential from secret memory. The rest follows from ordinary memory.
func (w *writer) startTLS(ctx context.Context, head, body []byte) error {
	slot, err := w.key.Slot(ctx)
	if err != nil {
		return err
	}
	headUsed, bodyUsed, err := w.sendSecret(slot, head, body)
	if err != nil {
		return err
	}
	if err := w.sendAll(head[headUsed:]); err != nil {
		return err
	}
	return w.sendAll(body[bodyUsed:])
}

// sendSecret sends one record: the fixed beginning, the credential, and as much of head and body as fits. The record is
// put together in the slot and, with TLS 1.3, sealed there: neither it nor its plaintext is ever in ordinary memory.
// The slot is given back when the kernel has the record, on a panic as well.
func (w *writer) sendSecret(slot *secret.Slot, head, body []byte) (headUsed, bodyUsed int, err error) {
	used := 0
	defer func() { slot.Release(used + tlsrecord.Overhead) }()
	room := slot.Bytes()[tlsrecord.HeaderSize:][:maxSecretRecord]
	err = w.key.Line(func(line []byte) error {
		used = copy(room, w.prefix)
		used += copy(room[used:], line)
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	headUsed = copy(room[used:], head)
	used += headUsed
	bodyUsed = copy(room[used:], body)
	used += bodyUsed
	return headUsed, bodyUsed, w.layer.WriteInPlace(slot.Bytes(), used)
}

// sendAll writes bytes that are not secret.
func (w *writer) sendAll(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	_, err := w.send(p)
	return err
}

// errBody marks an error of the client's in a body's copying.
var errBody = errors.New("the request body did not arrive")

// finish writes the rest of the body: what start has left, then what arrives.
func (w *writer) finish(r *Request, left []byte) error {
	if err := w.sendAll(left); err != nil {
		return err
	}
	if r.Rest == nil {
		return nil
	}
	chunked := r.Length == http1.Chunked
	if chunked && len(r.Start) > 0 {
		if err := w.sendAll([]byte("\r\n")); err != nil {
			return err
		}
	}
	buf := copies.Get().(*[]byte)
	defer copies.Put(buf)
	if chunked {
		return w.copyChunked(r.Rest, *buf)
	}
	return w.copyExactly(r.Rest, *buf, r.Length-int64(len(r.Start)))
}

// copyExactly passes n bytes of body on.
func (w *writer) copyExactly(body Body, buf []byte, n int64) error {
	for n > 0 {
		m, err := body.Read(buf[:min(int64(len(buf)), n)])
		if m > 0 {
			if err := w.sendAll(buf[:m]); err != nil {
				return err
			}
		}
		if n -= int64(m); n > 0 && err != nil {
			return errors.Join(errBody, err)
		}
	}
	return nil
}

// copyChunked passes body on, a chunk for each read. The last chunk is only written if the client has sent its own.
func (w *writer) copyChunked(body Body, buf []byte) error {
	const room = 10 // for a chunk's size and CR LF before the data, and CR LF behind
	for {
		n, err := body.Read(buf[room : len(buf)-2])
		if n > 0 {
			var size [room]byte
			line := appendChunkSize(size[:0], n)
			from := room - len(line)
			copy(buf[from:], line)
			copy(buf[room+n:], "\r\n")
			if err := w.sendAll(buf[from : room+n+2]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return w.sendAll([]byte("0\r\n\r\n"))
		case err != nil:
			return errors.Join(errBody, err)
		}
	}
}
