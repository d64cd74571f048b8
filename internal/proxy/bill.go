package proxy

import (
	"bytes"
	"errors"
	"sync/atomic"

	"github.com/responses-api-proxy/responses-api-proxy/internal/admit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
	"github.com/responses-api-proxy/responses-api-proxy/internal/usage"
)

// bill is what one admitted request comes to, in bytes of its body and in
// tokens.
type bill struct {
	visitor *admit.Visitor
	sent    atomic.Int64 // bytes of the request's body that the client has delivered
	tooMuch atomic.Bool
	meter   *usage.Meter // nil where tokens do not matter
	entry   *audit.Entry
	curious bool // about what the answer says of itself, for the record
}

var errTooLarge = errors.New("the body is too large")

// watch counts body, and ends it where it grows too large.
func (b *bill) watch(body upstream.Body) upstream.Body {
	if b.visitor.MaxBody() == 0 && !b.visitor.Metered() {
		return body
	}
	return countedBody{body, b}
}

type countedBody struct {
	upstream.Body
	bill *bill
}

// Read fails before it hands on a byte too many.
func (c countedBody) Read(p []byte) (int, error) {
	n, err := c.Body.Read(p)
	limit := c.bill.visitor.MaxBody()
	if sent := c.bill.sent.Add(int64(n)); limit > 0 && sent > limit {
		c.bill.tooMuch.Store(true)
		return 0, errTooLarge
	}
	return n, err
}

var (
	acceptEncoding = []byte("accept-encoding")
	identity       = []byte("identity")
)

// askPlain asks for an answer that can be read, where its tokens are counted.
func (b *bill) askPlain(fields []http1.Field) []http1.Field {
	if !b.visitor.Metered() {
		return fields
	}
	kept := fields[:0]
	for _, f := range fields {
		if !http1.Is(f.Name, "accept-encoding") {
			kept = append(kept, f)
		}
	}
	return append(kept, http1.Field{Name: acceptEncoding, Value: identity})
}

var eventStream = []byte("text/event-stream")

// begin looks at the answer's head. Refusals by the upstream cost nothing.
func (b *bill) begin(head *http1.Response) {
	var kind, coding []byte
	for _, f := range head.Fields {
		switch {
		case http1.Is(f.Name, "content-type"):
			kind = f.Value
		case http1.Is(f.Name, "content-encoding"):
			coding = f.Value
		case http1.Is(f.Name, "x-request-id"):
			b.entry.RequestID = string(f.Value[:min(len(f.Value), maxRequestID)])
		}
	}
	b.entry.Streamed = len(kind) >= len(eventStream) && bytes.EqualFold(kind[:len(eventStream)], eventStream)
	if (b.curious || b.visitor.Metered()) && head.Status/100 == 2 {
		b.meter = usage.New(kind, coding)
	}
}

func (b *bill) write(piece []byte) {
	if b.meter != nil {
		b.meter.Write(piece)
	}
}

// maxRequestID is how much of an x-request-id is kept, in bytes.
const maxRequestID = 128

// settle counts the request off. An answer that does not say what it cost is
// estimated, together with its request, by bytes.
func (b *bill) settle() {
	var tokens int64
	if b.meter != nil {
		var exact bool
		if tokens, exact = b.meter.Tokens(); !exact {
			tokens += usage.Estimate(b.sent.Load())
		}
		b.entry.Model = string(b.meter.Model())
		b.entry.InputTokens, b.entry.OutputTokens, b.entry.Tokens = b.meter.Usage()
	}
	b.visitor.End(tokens)
}
