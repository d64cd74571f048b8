package relay

import (
	"slices"
	"sync/atomic"

	"github.com/responses-api-proxy/responses-api-proxy/internal/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/usage"
)

// messages charges for the responses that are made inside a WebSocket, one after another: OpenAI runs one at a time.
// One deposit is reserved as long as the WebSocket is open, and renewed with each response.
type messages struct {
	x        *exchange
	meter    *usage.Meter    // of the response that is under way, or to come
	requests atomic.Int64    // messages of the client that no response has ended
	denial   *apierror.Error // of any further response
}

// fromClient counts what the client sends. Each of its messages may make a response.
func (m *messages) fromClient(piece []byte, last bool) (reason string) {
	m.x.received.Add(int64(len(piece)))
	if last {
		m.requests.Add(1)
	}
	return ""
}

// fromUpstream reads an event, and settles the response that ends with it. It returns the code of the denial if no other
// one may follow.
func (m *messages) fromUpstream(piece []byte, last bool) (reason string) {
	m.meter.Write(piece)
	if !last || !m.meter.EndEvent() {
		return ""
	}
	if m.requests.Load() > 0 { // only this goroutine subtracts
		m.requests.Add(-1)
	}
	m.record()
	if m.denial = m.x.lease.Renew(m.cost()); m.denial != nil {
		return string(m.denial.Code)
	}
	return ""
}

// record adds to the exchange's record what a response has cost.
func (m *messages) record() {
	e := &m.x.Entry
	input, output, exact := m.meter.Usage()
	e.InputTokens, e.OutputTokens, e.Tokens = e.InputTokens+input, e.OutputTokens+output, e.Tokens || exact
	if model := m.meter.Model(); model != nil {
		e.Model = string(model)
	}
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

// rest returns what is charged at the end, in tokens: no less than the deposit if a response may have been under way.
func (m *messages) rest() int64 {
	if m == nil || m.requests.Load() == 0 {
		return 0
	}
	return max(m.cost(), m.x.lease.Deposit())
}

// withoutExtensions drops the offer to compress messages, which then could not be read.
func withoutExtensions(fields []http1.Field) []http1.Field {
	return slices.DeleteFunc(fields, func(f http1.Field) bool { return isVariant(f.Name, "sec-websocket-extensions") })
}
