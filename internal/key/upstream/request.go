package upstream

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/tlsrecord"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// Body is a request body that arrives while it is being sent.
type Body interface {
	// Read implements io.Reader. io.EOF means that the client has sent the whole body.
	Read(p []byte) (int, error)
	// Interrupt makes a blocked Read, and every later one, fail.
	Interrupt()
}

// Request is one request to the target's host. The caller has removed every field that must not pass; Client adds the
// credential.
type Request struct {
	// Method and Target are those of the request line. Without a Target it is a POST to the Client's own, the cheapest
	// case; Target must not be longer than [Client.Room] allows.
	Method string
	Target []byte
	// Upgrade requests a WebSocket (RFC 6455, section 4.1), on a new connection that is not reused.
	Upgrade bool
	// Fields are sent in order, after Host and the credential.
	Fields []http1.Field
	// Sent, if not nil, is called when the head has been written: Fields, which are nil then, are no longer needed.
	// Rest is not being read.
	Sent func()
	// Start is the body, or its beginning, in memory.
	Start []byte
	// Rest is the body after Start; nil if Start is all of it.
	Rest Body
	// Length is the length of the whole body in bytes, or http1.Chunked, which needs a Rest.
	Length int64

	response Response // that Do returns
}

const (
	// maxPooled is the size of the largest buffer that is kept for the next head.
	maxPooled = 16 << 10
	// syncBody is how much is written before the response is read: less than the sockets' buffers hold, so that an
	// upstream that responds without reading cannot block both sides.
	syncBody = 64 << 10
	// copySize is the size of the buffer for a body that is forwarded while it arrives.
	copySize = 32 << 10
	// chunkSpace is the space for a chunk's size and CR LF, before its data.
	chunkSpace = 10
	// maxSecretRecord is how many bytes of a request fit into one record in a slot.
	maxSecretRecord = secret.SlotSize - tlsrecord.Overhead
)

var (
	heads  = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}
	copies = sync.Pool{New: func() any { b := make([]byte, copySize); return &b }}
)

// appendLine appends the part before the credential: request line and Host.
func (c *Client) appendLine(b []byte, r *Request) []byte {
	if r.Target == nil {
		return append(b, c.line...)
	}
	return append(append(append(append(b, r.Method...), ' '), r.Target...), c.host...)
}

// appendFields appends the part of the head after the credential.
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
	case r.Method == "GET" || r.Method == "DELETE": // these never have a body here
		return append(b, "\r\n"...)
	}
	b = append(b, "content-length: "...)
	b = strconv.AppendInt(b, r.Length, 10)
	return append(b, "\r\n\r\n"...)
}

func appendChunkSize(b []byte, n int) []byte {
	return append(strconv.AppendInt(b, int64(n), 16), "\r\n"...)
}

// assemble prepares the head, and as much of Start as fits into the same write, in r and not on the stack: that holds
// the record layer's frames above those of sendHead, and would have to grow for more, which it keeps for as long as the
// response lasts. The caller must call releaseHead.
func (r *Response) assemble() error {
	r.head = heads.Get().(*[]byte)
	b := r.client.appendLine((*r.head)[:0], r.request)
	n := len(b)
	b = r.request.appendFields(b)
	*r.head = b
	if n > r.client.most {
		return fail(Internal, "bug: the request line is too long for the credential's record")
	}
	r.line, r.rest = b[:n], [2][]byte{b[n:], r.request.Start[:min(len(r.request.Start), syncBody)]}
	return nil
}

func (r *Response) releaseHead() {
	if cap(*r.head) <= maxPooled {
		heads.Put(r.head)
	}
	r.head, r.line, r.rest = nil, nil, [2][]byte{}
}

// sendHead sends what assemble has prepared, and returns the rest of Start.
func (r *Response) sendHead() (left []byte, err error) {
	left = r.request.Start[len(r.rest[1]):]
	err = r.client.key.Line(r.sendSecret)
	for i := range r.rest {
		if err == nil {
			_, err = r.c.send(r.rest[i])
		}
	}
	return left, err
}

// sendSecret sends line, the credential, and as much of rest as fits into one record with them, which it removes from
// rest. It assembles all of it in a slot, and sends from there: over TLS it seals it there first, so that neither
// record nor plaintext is ever in ordinary memory. The slot is released when the kernel has the bytes, also on a panic,
// and the loan of the key ends; a replacement of the key waits for that.
func (r *Response) sendSecret(credential []byte) error {
	slot, err := r.client.key.Slot(r.ctx)
	if err != nil {
		return err
	}
	used := 0
	defer func() { slot.Release(used + tlsrecord.Overhead) }()
	room := slot.Bytes()[tlsrecord.HeaderSize:][:maxSecretRecord]
	used += copy(room, r.line)
	used += copy(room[used:], credential)
	for i, p := range &r.rest {
		n := copy(room[used:], p)
		used, r.rest[i] = used+n, p[n:]
	}
	return r.c.sendInPlace(slot.Bytes(), used)
}

// errBody marks an error of the client during the copying of a body.
var errBody = errors.New("the request body did not arrive")

// sendRest sends the rest of the body: what sendHead has left, then what arrives, one chunk for each read if it is
// chunked. It sends the last chunk only if the client has sent its own.
func (c *conn) sendRest(r *Request, left []byte) error {
	if _, err := c.send(left); err != nil || r.Rest == nil {
		return err
	}
	chunked := r.Length == http1.Chunked
	if chunked && len(r.Start) > 0 {
		if _, err := c.send([]byte("\r\n")); err != nil {
			return err
		}
	}
	buf := copies.Get().(*[]byte)
	defer copies.Put(buf)
	missing := r.Length - int64(len(r.Start))
	for chunked || missing > 0 {
		data := (*buf)[chunkSpace : copySize-len("\r\n")]
		if !chunked {
			data = data[:min(int64(len(data)), missing)]
		}
		n, err := r.Rest.Read(data)
		data, missing = data[:n], missing-int64(n)
		if chunked && n > 0 {
			data = frameChunk(*buf, n)
		}
		if _, err := c.send(data); err != nil {
			return err
		}
		switch {
		case chunked && err == io.EOF:
			_, err := c.send([]byte("0\r\n\r\n"))
			return err
		case err != nil && (chunked || missing > 0):
			return fmt.Errorf("%w: %w", errBody, err)
		}
	}
	return nil
}

// frameChunk makes a chunk of the n bytes at buf[chunkSpace:], in place.
func frameChunk(buf []byte, n int) []byte {
	var size [chunkSpace]byte
	line := appendChunkSize(size[:0], n)
	begin, end := chunkSpace-len(line), chunkSpace+n
	copy(buf[begin:], line)
	return buf[begin : end+copy(buf[end:], "\r\n")]
}
