package openaitest

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"time"
)

// maxKept is how much of a body a record keeps.
const maxKept = 1 << 20

// A Field is one header line, its name as it was sent.
type Field struct{ Name, Value string }

// A Request is the record of one request. Everything but the body is set from
// the start; BodySHA256 and BodyLen are valid after Done or Body.
type Request struct {
	Head           []byte // the exact bytes, blank line included
	Method, Target string
	Fields         []Field
	BodySHA256     [32]byte // of the content: chunked framing is taken off
	BodyLen        int64

	Conn   int                  // number of the connection, from 1
	Remote string               // the peer's address
	At     time.Time            // when the head was complete
	TLS    *tls.ConnectionState // nil without TLS
	ALPN   []string             // what the client offered

	length   int64 // as announced; -1: chunked
	body     []byte
	bodyErr  error
	bodyDone chan struct{}
	gone     chan struct{}
	answered chan struct{}
	done     chan struct{}

	// Guarded by the connection's mutex.
	isGone, isAnswered, isRead bool
}

func newRequest(head []byte) *Request {
	return &Request{
		Head:     head,
		At:       time.Now(),
		bodyDone: make(chan struct{}),
		gone:     make(chan struct{}),
		answered: make(chan struct{}),
		done:     make(chan struct{}),
	}
}

// Get returns the first value of the header name, in any case.
func (r *Request) Get(name string) string {
	if v := r.Values(name); len(v) > 0 {
		return v[0]
	}
	return ""
}

// Values returns all values of the header name, in any case.
func (r *Request) Values(name string) []string {
	var values []string
	for _, f := range r.Fields {
		if strings.EqualFold(f.Name, name) {
			values = append(values, f.Value)
		}
	}
	return values
}

var credentialNames = []string{"authorization", "proxy-authorization", "api-key", "x-api-key", "x-goog-api-key", "cookie"}

// Credentials returns every value of every header that carries a credential.
func (r *Request) Credentials() []string {
	var values []string
	for _, f := range r.Fields {
		if slices.Contains(credentialNames, strings.ToLower(f.Name)) {
			values = append(values, f.Value)
		}
	}
	return values
}

// Body waits until the body has been read whole and returns its first 1 MiB.
// When the body breaks off it returns what came before, and an error.
func (r *Request) Body(ctx context.Context) ([]byte, error) {
	select {
	case <-r.bodyDone:
		return r.body, r.bodyErr
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Gone is closed when the peer leaves before the answer is complete.
func (r *Request) Gone() <-chan struct{} { return r.gone }

// Answered is closed when the answer has been written whole. It stays open
// when the scenario cuts the answer or the peer leaves; see Done.
func (r *Request) Answered() <-chan struct{} { return r.answered }

// Done is closed when the server is through with the request, however it ended.
func (r *Request) Done() <-chan struct{} { return r.done }

var errBodyNotRead = errors.New("openaitest: the scenario ended without reading the body")

// settle closes what nothing else will close.
func (r *Request) settle() {
	select {
	case <-r.bodyDone:
	default:
		r.bodyErr = errBodyNotRead
		close(r.bodyDone)
	}
	close(r.done)
}
