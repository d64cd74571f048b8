package relay

import (
	"bytes"
	"errors"
	"sync/atomic"

	"github.com/responses-api-proxy/responses-api-proxy/internal/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/dump"
	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
	"github.com/responses-api-proxy/responses-api-proxy/internal/usage"
)

// bill is what one admitted request comes to, in bytes of its body and in
// tokens.
type exchange struct {
	visitor *policy.Visitor
	lease   *policy.Lease
	sent    atomic.Int64 // bytes of the request's body that the client has delivered
	tooMuch atomic.Bool
	settled bool
	meter   *usage.Meter // nil where tokens do not matter
	entry   *audit.Entry
	dump    *dump.Exchange // nil where nothing is dumped
	curious bool           // about what the answer says of itself, for the record
	whole   bool           // the answer was read to its end
	cutOff  bool           // the exchange ended before there was an answer, and not by the upstream

	outliving *outliving // nil if the exchange ends with its client

	route    routeID
	owners   *owners     // nil where nobody may ask for a response again
	response responseKey // that the exchange is about
	known    bool        // response is
}

func (p *Relay) newExchange(r *Request, a ResponseWriter, w routeMatch, lease *policy.Lease) *exchange {
	b := &exchange{visitor: r.Visitor, lease: lease, entry: a.Entry(), curious: p.cfg.ReadUsage, route: w.id, owners: p.owners}
	if w.response != nil {
		b.response, b.known = keyOfResponse(w.response), true
	}
	return b
}

// uid is whose the responses are. Where everybody may do everything, they are
// all one user's.
func (b *exchange) uid() uint32 {
	if b.visitor == nil {
		return 0
	}
	return b.visitor.Caller().UID
}

// tells whether the route's answers say what a response cost, or which it is.
func (b *exchange) tells() bool {
	switch b.route {
	case responses, compact, messages, retrieve, cancel:
		return true
	}
	return false
}

// reads tells whether the answer must be read: something depends on it.
func (b *exchange) reads() bool {
	return b.tells() && (b.visitor.Metered() || b.owners != nil && b.route == responses)
}

var errTooLarge = errors.New("the body is too large")

// watch counts body, and ends it where it grows too large.
func (b *exchange) watch(body upstream.Body) upstream.Body {
	if b.visitor.MaxBody() == 0 && !b.visitor.Metered() {
		return body
	}
	return countedBody{body, b}
}

type countedBody struct {
	upstream.Body
	bill *exchange
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

// askPlain asks for an answer that can be read, where it must be.
func (b *exchange) askPlain(fields []http1.Field) []http1.Field {
	if !b.reads() {
		return fields
	}
	kept := fields[:0]
	for _, f := range fields {
		if !isVariant(f.Name, "accept-encoding") {
			kept = append(kept, f)
		}
	}
	return append(kept, http1.Field{Name: acceptEncoding, Value: identity})
}

var eventStream = []byte("text/event-stream")

// begin looks at the answer's head. Refusals by the upstream cost nothing.
func (b *exchange) begin(head *http1.Response) {
	b.dump.Answer(head.Status, head.Fields)
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
	if head.Status/100 != 2 {
		return
	}
	if b.reads() || b.curious && b.tells() {
		b.meter = usage.New(kind, coding)
	}
	if b.route == remove {
		b.owners.forget(b.response)
	}
}

func (b *exchange) write(piece []byte) {
	b.dump.Body(piece)
	if b.meter == nil {
		return
	}
	b.meter.Write(piece)
	if b.owners != nil && !b.known && b.route == responses {
		b.learn()
	}
}

// learn notes whose the response is, before the client can know of it.
func (b *exchange) learn() {
	if id := b.meter.ID(); validID(id) {
		b.response, b.known = keyOfResponse(id), true
		b.owners.add(b.response, b.uid())
	}
}

// maxRequestID is how much of an x-request-id is kept, in bytes.
const maxRequestID = 128

// settle counts the request off, once.
func (b *exchange) settle() {
	if b.settled {
		return
	}
	b.settled = true
	b.dump.End()
	var tokens int64
	switch {
	case b.meter == nil && b.cutOff: // the upstream may have seen the request, and answer it to nobody
		tokens = b.lease.Deposit()
	case b.meter == nil:
	case b.route == retrieve || b.route == cancel:
		tokens = b.settleLate()
	default:
		var exact bool
		tokens, exact = b.cost()
		b.entry.Model = string(b.meter.Model())
		b.entry.InputTokens, b.entry.OutputTokens, b.entry.Tokens = b.meter.Usage()
		if b.known {
			b.owners.charge(b.response, tokens, exact)
		}
	}
	b.lease.Settle(tokens)
}

// cost returns what the response is charged, in tokens, and whether that is
// what it said. Otherwise it is the deposit, since what a request refers to
// costs tokens too, and no less than the estimate of request and response by
// bytes. That estimate is enough for a stream that the upstream has brought to
// an end without saying what it cost, as it does when it fails.
func (b *exchange) cost() (tokens int64, exact bool) {
	if tokens, exact = b.meter.Tokens(); exact {
		return tokens, true
	}
	tokens = max(tokens, tokens+usage.Estimate(b.sent.Load())) // the largest number stays that
	if b.whole && b.meter.Stream() && (b.owners == nil || !b.known || b.owners.untouched(b.response)) {
		return tokens, false
	}
	return max(tokens, b.lease.Deposit()), false
}

// settleLate counts what a response has cost that was not ready when it was
// made, the first time that it says so; what was estimated then counts already.
func (b *exchange) settleLate() int64 {
	b.entry.Model = string(b.meter.Model())
	tokens, exact := b.meter.Tokens()
	if !exact {
		return 0
	}
	more, first := b.owners.charge(b.response, tokens, true)
	if first {
		b.entry.InputTokens, b.entry.OutputTokens, b.entry.Tokens = b.meter.Usage()
	}
	return more
}
