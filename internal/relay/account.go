package relay

import (
	"sync/atomic"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/usage"
)

// account determines what an exchange costs, in tokens, and whose its response
// is. At the end it releases the lease.
type account struct {
	lease     *policy.Lease
	uid       uint32 // whose the responses are
	route     routeID
	wantUsage bool         // for the record
	received  atomic.Int64 // bytes of the request's body
	meter     *usage.Meter // nil where tokens do not matter
	whole     bool         // the response was read to its end
	cancelled bool         // the exchange ended before there was a response, and not by the upstream
	reported  bool         // what the response reports is for this record

	owners   *owners     // nil where no response can be requested again
	response responseKey // that the exchange is about
	known    bool        // response is
}

func (a *account) begin(x *exchange) {
	a.lease, a.uid, a.route = x.lease, x.Session.Caller().UID, x.route.id
	a.owners, a.wantUsage = x.relay.owners, x.relay.cfg.ReadUsage
	if x.route.response != nil {
		a.response, a.known = keyOfResponse(x.route.response), true
	}
}

// hasUsage reports whether responses on this route carry usage or a response ID.
func (a *account) hasUsage() bool {
	switch a.route {
	case responses, compact, messages, retrieve, cancel:
		return true
	}
	return false
}

// mustInspect reports whether something depends on what the response contains.
func (a *account) mustInspect() bool {
	return a.hasUsage() && (a.lease.Metered() || a.owners != nil && a.route == responses)
}

// head looks at the response's head. Refusals by the upstream cost nothing.
func (a *account) head(h *http1.Response) {
	if h.Status/100 != 2 {
		return
	}
	if a.mustInspect() || a.wantUsage && a.hasUsage() {
		a.meter = usage.New(value(h, "content-type"), value(h, "content-encoding"))
	}
	if a.route == remove {
		a.owners.forget(a.response)
	}
}

func (a *account) piece(p []byte) {
	if a.meter == nil {
		return
	}
	a.meter.Write(p)
	if a.owners != nil && !a.known && a.route == responses {
		a.recordOwner()
	}
}

// recordOwner records whose the response is, before the client can have its ID.
func (a *account) recordOwner() {
	if id := a.meter.ID(); validID(id) {
		a.response, a.known = keyOfResponse(id), true
		a.owners.add(a.response, a.uid)
	}
}

// end releases the lease with what the exchange cost.
func (a *account) end() {
	var tokens int64
	switch {
	case a.meter == nil && a.cancelled: // the upstream may have seen the request, and respond to no one
		tokens = a.lease.Deposit()
	case a.meter == nil:
	case a.route == retrieve || a.route == cancel:
		tokens = a.lateCost()
	default:
		var exact bool
		if tokens, exact = a.cost(); a.known {
			a.owners.charge(a.response, tokens, exact)
		}
		a.reported = true
	}
	a.lease.Release(tokens)
}

// report writes what the response reports about itself to o.
func (a *account) report(o *Outcome) {
	if a.meter == nil {
		return
	}
	o.Model = string(a.meter.Model())
	if a.reported {
		o.InputTokens, o.OutputTokens, o.Tokens = a.meter.Usage()
	}
}

// cost returns what the response is charged, in tokens, and whether that is what
// it reports. Otherwise it is the deposit, since what a request refers to costs tokens too, and no
// less than the estimate of request and response by bytes. That estimate is enough
// for a stream that the upstream has brought to an end without reporting what it
// cost, as it does when it fails.
func (a *account) cost() (tokens int64, exact bool) {
	if tokens, exact = a.meter.Tokens(); exact {
		return tokens, true
	}
	tokens = max(tokens, tokens+usage.Estimate(a.received.Load())) // the largest number stays that
	if a.whole && a.meter.Stream() && (a.owners == nil || !a.known || a.owners.untouched(a.response)) {
		return tokens, false
	}
	return max(tokens, a.lease.Deposit()), false
}

// lateCost counts what a response has cost that was not ready when it was made,
// the first time that it is reported; what was estimated then counts already.
func (a *account) lateCost() (more int64) {
	tokens, exact := a.meter.Tokens()
	if exact {
		more, a.reported = a.owners.charge(a.response, tokens, true)
	}
	return more
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
