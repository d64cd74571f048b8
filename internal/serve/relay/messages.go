package relay

import (
	"sync"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/usage"
)

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
