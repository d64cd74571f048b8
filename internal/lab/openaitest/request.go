package openaitest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"strings"
)

// maxKept is how much of a body a record keeps.
const maxKept = 1 << 20

// A Field is one header line, its name as it was sent.
type Field struct{ Name, Value string }

// A Request is the record of one request. Everything but the body is set from the start; BodySHA256 and BodyLen are
// valid after Done or Body. A malformed request has a Head only.
type Request struct {
	Head           []byte // the exact bytes, blank line included
	Method, Target string
	Fields         []Field
	BodySHA256     [32]byte // of the content: chunked framing is taken off
	BodyLen        int64

	Conn int                  // number of the connection, from 1
	TLS  *tls.ConnectionState // nil without TLS
	ALPN []string             // what the client offered

	body                           []byte
	bodyErr                        error
	bodyDone, gone, answered, done chan struct{} // closed by the connection's goroutine
}

// record makes a record of the request with a head, and keeps it.
func (c *Conn) record(head []byte) *Request {
	copied := c.origin
	r := &copied
	r.Head, r.Method, r.Target = bytes.Clone(head), string(c.Method), string(c.Target)
	for _, signal := range []*chan struct{}{&r.bodyDone, &r.gone, &r.answered, &r.done} {
		*signal = make(chan struct{})
	}
	for _, f := range c.Fields {
		r.Fields = append(r.Fields, Field{string(f.Name), string(f.Value)})
	}
	c.cur = r
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.count++
	if !c.s.opts.Forget {
		c.s.requests = append(c.s.requests, r)
	}
	c.s.signal()
	return r
}

// Get returns the first value of the field name, in any case.
func (r *Request) Get(name string) string {
	if v := r.Values(name); len(v) > 0 {
		return v[0]
	}
	return ""
}

// Values returns all values of the fields with one of the names, in any case.
func (r *Request) Values(names ...string) []string {
	var values []string
	for _, f := range r.Fields {
		if slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(f.Name, name) }) {
			values = append(values, f.Value)
		}
	}
	return values
}

// Credentials returns every value of every field that carries a credential.
func (r *Request) Credentials() []string {
	return r.Values("Authorization", "Proxy-Authorization", "Api-Key", "X-Api-Key", "X-Goog-Api-Key", "Cookie")
}

// Body waits until the body has been read whole and returns its first 1 MiB. When the body breaks off it returns what
// came before, and an error.
func (r *Request) Body(ctx context.Context) ([]byte, error) {
	select {
	case <-r.bodyDone:
		return r.body, r.bodyErr
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Gone is closed when the peer leaves before the response is complete.
func (r *Request) Gone() <-chan struct{} { return r.gone }

// Answered is closed when the response has been written whole. It stays open when the scenario cuts the response or the
// peer leaves; see Done.
func (r *Request) Answered() <-chan struct{} { return r.answered }

// Done is closed when the server is through with the request, however it ended.
func (r *Request) Done() <-chan struct{} { return r.done }

var errBodyNotRead = errors.New("openaitest: the scenario ended without reading the body")

// settle closes what nothing else will close.
func (r *Request) settle() {
	if !isClosed(r.bodyDone) {
		r.bodyErr = errBodyNotRead
		close(r.bodyDone)
	}
	close(r.done)
}
