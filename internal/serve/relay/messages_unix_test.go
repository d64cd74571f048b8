//go:build linux || darwin

package relay

import (
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/budget"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/usage"
)

// metered returns the lease of a WebSocket under a budget.
func metered(t *testing.T, limit int64) *policy.Lease {
	t.Helper()
	book, err := budget.Open(budget.Config{Limit: limit})
	if err != nil {
		t.Fatal(err)
	}
	rules, err := policy.New(policy.Config{Budget: book})
	if err != nil {
		t.Fatal(err)
	}
	_, conn := proctest.UnixPair(t)
	lease, denial := rules.Connect(conn).Admit(head(t, "GET /v1/responses"), policy.Spend)
	if denial != nil {
		t.Fatal(denial.Message)
	}
	return lease
}

// TestMessageAfterTheBudget checks that a message that a client sends before it sees the close frame is denied, and
// charged if it reaches the upstream nevertheless.
func TestMessageAfterTheBudget(t *testing.T) {
	x := &exchange{Request: &Request{}, lease: metered(t, 1000)}
	m := &messages{x: x, meter: usage.NewEvents()}
	if d := m.fromClient([]byte("{}"), true); d != nil {
		t.Fatal(d.Message)
	}
	d := m.fromUpstream([]byte(`{"type":"response.completed","response":{"usage":{"input_tokens":999,"output_tokens":1}}}`), true)
	if d == nil || d.Code != apierror.BudgetExhausted || m.rest() != 0 {
		t.Fatalf("the budget is spent: %+v, %d tokens are left to charge", d, m.rest())
	}
	if late := m.fromClient([]byte("{}"), true); late != d {
		t.Errorf("another message: %+v", late)
	}
	if got := m.rest(); got != 250 {
		t.Errorf("%d tokens are charged for it, want the deposit of 250", got)
	}
}
