package relay

import (
	"bytes"
	"sync/atomic"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/usage"
)

// account is what an exchange costs, in tokens, and whose its response is.
type account struct {
	received  atomic.Int64 // bytes of the request's body
	meter     *usage.Meter // nil where tokens do not matter
	whole     bool         // the response was read to its end
	cancelled bool         // the exchange ended before there was a response, and not by the upstream
	reported  bool         // what the response reports is for this record
	ended     bool         // the lease is released
	response  responseKey  // that the exchange is about
	known     bool         // response is
}

// mustInspect reports whether something depends on what the response contains.
func (x *exchange) mustInspect() bool {
	return x.route.is(hasUsage) && (x.lease.Metered() || x.recordsOwner())
}

func (x *exchange) recordsOwner() bool { return x.relay.owners != nil && x.route.is(hasID) }

// maxRequestID is how much of an x-request-id is kept, in bytes.
const maxRequestID = 128

var eventStream = []byte("text/event-stream")

// observeHead keeps what record, account and dump need of the response's head.
// Refusals by the upstream cost nothing.
func (x *exchange) observeHead(h *http1.Response) {
	id, kind := value(h, "x-request-id"), value(h, "content-type")
	x.Entry.RequestID = string(id[:min(len(id), maxRequestID)])
	x.Entry.Streamed = len(kind) >= len(eventStream) && bytes.EqualFold(kind[:len(eventStream)], eventStream)
	x.dump.Answer(h.Status, h.Fields)
	if h.Status/100 != 2 {
		return
	}
	if x.mustInspect() || x.relay.cfg.ReadUsage && x.route.is(hasUsage) {
		x.account.meter = usage.New(kind, value(h, "content-encoding"))
	}
	if x.route.method == "DELETE" {
		x.relay.owners.forget(x.account.response)
	}
}

// observePiece sees a piece of the response. Whose it is must be known before the
// client can have its ID.
func (x *exchange) observePiece(p []byte) {
	a := &x.account
	if a.meter != nil {
		a.meter.Write(p)
		if !a.known && x.recordsOwner() && validID(a.meter.ID()) {
			a.response, a.known = keyOfResponse(a.meter.ID()), true
			x.relay.owners.add(a.response, x.lease.Caller().UID)
		}
	}
	x.dump.Body(p)
}

// observeEnd releases the lease with what the exchange cost, once. It may come
// before the last piece is written.
func (x *exchange) observeEnd() {
	if x.lease == nil || x.account.ended {
		return
	}
	x.account.ended = true
	x.lease.Release(x.cost())
	x.dump.End()
}

// cost returns what the exchange is charged, in tokens.
func (x *exchange) cost() (tokens int64) {
	a, owners := &x.account, x.relay.owners
	switch {
	case a.meter == nil && a.cancelled: // the upstream may have seen the request, and respond to no one
		return x.lease.Deposit()
	case a.meter == nil:
		return 0
	case x.route.use == policy.Free: // what an earlier one has cost, the first time that it is reported; what was estimated then counts already
		if n, exact := a.meter.Tokens(); exact {
			tokens, a.reported = owners.charge(a.response, n, true)
		}
		return tokens
	}
	tokens, exact := x.responseCost()
	if a.reported = true; a.known {
		owners.charge(a.response, tokens, exact)
	}
	return tokens
}

// responseCost returns what the response is charged, in tokens, and whether that
// is what it reports. Otherwise it is the deposit, since what a request refers to
// costs tokens too, and no less than the estimate of request and response by
// bytes. That estimate is enough for a stream that the upstream has brought to an
// end without reporting what it cost, as it does when it fails.
func (x *exchange) responseCost() (tokens int64, exact bool) {
	a := &x.account
	if tokens, exact = a.meter.Tokens(); exact {
		return tokens, true
	}
	tokens = max(tokens, tokens+usage.Estimate(a.received.Load())) // the largest number stays that
	if a.whole && a.meter.Stream() && (!a.known || x.relay.owners.untouched(a.response)) {
		return tokens, false
	}
	return max(tokens, x.lease.Deposit()), false
}

// report completes the record with what the response reports about itself.
func (x *exchange) report() {
	m, e := x.account.meter, &x.Entry
	if m == nil {
		return
	}
	e.Model = string(m.Model())
	if x.account.reported {
		e.InputTokens, e.OutputTokens, e.Tokens = m.Usage()
	}
}

// value returns the value of the last field with a name; nil if there is none.
func value(h *http1.Response, name string) (v []byte) {
	for _, f := range h.Fields {
		if http1.Is(f.Name, name) {
			v = f.Value
		}
	}
	return v
}
