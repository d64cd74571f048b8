package relay

import (
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/usage"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// mustInspect reports whether something depends on what the response contains.
func (x *exchange) mustInspect() bool {
	return x.route.is(hasUsage) && (x.lease.Metered() || x.recordsOwner())
}

func (x *exchange) recordsOwner() bool { return x.relay.owners != nil && x.route.is(hasID) }

// observeHead keeps what record, charge and dump need of the response's head. Refusals by the upstream cost nothing.
func (x *exchange) observeHead(h *http1.Response) {
	kind := h.Value("content-type")
	if x.relay.cfg.Records {
		x.Entry.RequestID = string(h.Value("x-request-id"))
	}
	x.Entry.Streamed = hasPrefix(kind, "text/event-stream")
	x.responseDump = x.requestDump.Response(h.Status, h.Fields)
	if h.Status/100 != 2 {
		return
	}
	if x.mustInspect() || x.relay.cfg.Records && x.route.is(hasUsage) {
		x.meter = usage.New(x.relay.routes.api.usage, kind, h.Value("content-encoding"))
	}
	if x.route.method == "DELETE" {
		x.relay.owners.forget(x.owned.key)
	}
}

// observePiece sees a piece of the response. Whose it is must be known before the client can have its ID.
func (x *exchange) observePiece(p []byte) {
	if x.meter != nil {
		x.meter.Write(p)
		if x.owned == nil && x.recordsOwner() && validID(x.meter.ID()) {
			x.owned = x.relay.owners.add(keyOfResponse(x.meter.ID()), x.lease.Caller().UID)
		}
	}
	x.responseDump.Write(p)
}

// observeEnd releases the lease with what the exchange cost, once. It may come before the last piece is written.
func (x *exchange) observeEnd() {
	if x.lease == nil || x.ended {
		return
	}
	x.ended = true
	x.lease.Release(x.cost())
	x.requestDump.End(false) // unless all of it was received
	x.responseDump.End(x.whole)
}

// cost returns what the exchange is charged, in tokens.
func (x *exchange) cost() (tokens int64) {
	switch {
	case x.handshake != nil:
		return x.messages.rest()
	case x.Entry.Upstream && x.Entry.Status == 0: // the upstream may have seen the request, and respond to no one
		return x.lease.Deposit()
	case x.meter == nil:
		return 0
	case x.route.use == policy.Free: // what an earlier exchange cost, when that is first reported, less what it was charged
		first := false
		if n, exact := x.meter.Tokens(); exact {
			tokens, first = x.owned.charge(n, true, x.lease.BudgetSince())
		}
		x.record(x.meter, first)
		return tokens
	}
	x.record(x.meter, true)
	tokens, exact := x.responseCost()
	x.owned.charge(tokens, exact, x.lease.BudgetSince())
	return tokens
}

// record adds what a response reports to the exchange's record: its model, and its tokens if no other record has them.
func (x *exchange) record(m *usage.Meter, first bool) {
	e := &x.Entry
	if model := m.Model(); len(model) > 0 {
		e.Model = string(model)
	}
	if input, output, exact := m.Usage(); first {
		e.InputTokens, e.OutputTokens, e.Tokens = e.InputTokens+input, e.OutputTokens+output, e.Tokens || exact
	}
}

// responseCost returns what the response is charged, in tokens, and whether that is what it reports. Otherwise it is
// the deposit, since what a request refers to costs tokens too, and no less than the estimate of request and response
// by bytes. That estimate is enough for a stream that the upstream has brought to an end without reporting what it
// cost, as it does when it fails.
func (x *exchange) responseCost() (tokens int64, exact bool) {
	if tokens, exact = x.meter.Tokens(); exact {
		return tokens, true
	}
	tokens = max(tokens, tokens+usage.Estimate(x.received.Load())) // the largest number stays that
	if x.whole && x.meter.Stream() && (x.owned == nil || !x.owned.touched.Load()) {
		return tokens, false
	}
	return max(tokens, x.lease.Deposit()), false
}

// messages charges for the responses that are made inside a WebSocket. Several may be under way at a time; each message
// of the client may make one, and has a deposit reserved until a response ends. One is reserved even if there is none.
type messages struct {
	x *exchange

	mu       sync.Mutex
	meter    *usage.Meter    // of the events since the last response ended
	requests int64           // messages of the client that no response has ended
	denial   *apierror.Error // of any further response
}

// fromClient counts what the client sends. It returns a denial if a message may make no response; the message counts
// nevertheless, since it may have reached the upstream.
func (m *messages) fromClient(piece []byte, last bool) *apierror.Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.x.received.Add(int64(len(piece)))
	if !last {
		return nil
	}
	if m.requests++; m.requests > 1 && m.denial == nil {
		m.denial = m.x.lease.Reserve()
	}
	return m.denial
}

// fromUpstream reads an event, and settles the response that ends with it. It returns a denial if no other one may
// follow.
func (m *messages) fromUpstream(piece []byte, last bool) *apierror.Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.meter.Write(piece)
	if !last || !m.meter.EndEvent() || m.denial != nil {
		return nil
	}
	m.requests = max(0, m.requests-1)
	m.x.record(m.meter, true)
	m.denial = m.x.lease.Renew(m.cost())
	return m.denial
}

// cost returns what a response is charged, in tokens, and begins the next: what it reports, or the estimate of request
// and response by bytes.
func (m *messages) cost() int64 {
	tokens, exact := m.meter.Tokens()
	if sent := m.x.received.Swap(0); !exact {
		tokens = max(tokens, tokens+usage.Estimate(sent)) // the largest number stays that
	}
	m.meter = usage.NewEvents()
	return tokens
}

// rest returns what is charged at the end, in tokens: no less than the deposit for each response that may be under way.
func (m *messages) rest() int64 {
	if m == nil || m.requests == 0 {
		return 0
	}
	return max(m.cost(), m.requests*m.x.lease.Deposit())
}

// maxOwned is how many responses are known; the oldest are forgotten first.
const maxOwned = 1 << 16

// owners records which user made which response, for the life of the process.
type owners struct {
	limit int

	mu    sync.Mutex
	all   map[responseKey]*owned
	order []*owned // in which they came
}

// responseKey is the hash of a response's id. Its size is fixed, whatever the length of the id that an upstream or
// client chooses, and collisions are infeasible.
type responseKey [16]byte

func keyOfResponse(id []byte) responseKey {
	sum := sha256.Sum256(id)
	return responseKey(sum[:])
}

// owned is a response and what its user has been charged for it so far.
type owned struct {
	key     responseKey
	uid     uint32
	touched atomic.Bool // its user has asked to cancel or to delete it

	mu      sync.Mutex
	charged int64 // in tokens
	at      time.Time
	settled bool // charged is what the response has cost in the end
}

func newOwners(limit int) *owners {
	return &owners{limit: limit, all: map[responseKey]*owned{}}
}

// add records that uid has made the response, unless another user has, and returns what is recorded.
func (o *owners) add(k responseKey, uid uint32) *owned {
	o.mu.Lock()
	defer o.mu.Unlock()
	if e := o.all[k]; e != nil {
		return e
	}
	e := &owned{key: k, uid: uid}
	o.all[k] = e
	if o.order = append(o.order, e); len(o.order) > o.limit {
		if old := o.order[0]; o.all[old.key] == old { // or it was forgotten, and perhaps made anew
			delete(o.all, old.key)
		}
		o.order = o.order[1:]
	}
	return e
}

// find returns the response if uid has made it, or nil.
func (o *owners) find(k responseKey, uid uint32) *owned {
	o.mu.Lock()
	defer o.mu.Unlock()
	if e := o.all[k]; e != nil && e.uid == uid {
		return e
	}
	return nil
}

func (o *owners) forget(k responseKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.all, k)
}

// charge records that the response has cost tokens so far, and returns how many of them are new: fewer than 0 if the
// cost is lower than the sum charged before. After a final sum nothing is new, however often the response is fetched;
// first reports that no final sum was recorded before. Charges from before since, the start of the budget's period, are
// not given back: their sums are no longer kept.
func (e *owned) charge(tokens int64, final bool, since time.Time) (more int64, first bool) {
	if e == nil {
		return 0, false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.settled {
		return 0, false
	}
	if more = tokens - e.charged; !final || e.at.Before(since) {
		more = max(0, more)
	}
	e.charged += more
	e.settled, e.at = final, time.Now()
	return more, true
}
