package apierror

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// TestEveryError: each code responds in OpenAI's shape, and never with its
// detail, which is the operator's.
func TestEveryError(t *testing.T) {
	for code, entry := range table {
		e := New(code, "detail")
		if entry.message == "" {
			e.Message = "a message of its own"
		}
		var got struct {
			Error struct {
				Message, Type, Code string
				Param               *string
			}
		}
		body := e.Body()
		if err := json.Unmarshal(body, &got); err != nil || got.Error.Code != string(code) || got.Error.Message == "" || got.Error.Type == "" || e.Status < 400 {
			t.Errorf("%s: status %d, %s", code, e.Status, body)
		}
		if strings.Contains(string(body), "detail") || e.Code != code || e.Detail != "detail" || e.Hint != "" {
			t.Errorf("%s: the log has %q and %q, the client %s", code, e.Detail, e.Hint, body)
		}
		if fields := names(e.Fields()); !strings.HasPrefix(fields, "Content-Type") || strings.Contains(fields, "X-Should-Retry") != (e.Status == 429) {
			t.Errorf("%s has the fields %s", code, fields)
		}
	}
	if _, sent := table[ClientLeft]; sent {
		t.Error("client_left is for records only")
	}
}

func names(fields []http1.Field) string {
	var all []string
	for _, f := range fields {
		all = append(all, string(f.Name))
	}
	return strings.Join(all, " ")
}

func TestFields(t *testing.T) {
	for want, e := range map[string]*Error{
		"Content-Type Retry-After":                                      Newf(TooManyRequests, 1, "later"),
		"Content-Type X-Codex-Promo-Message X-Should-Retry":             Newf(BudgetExhausted, 0, "never"),
		"Content-Type Retry-After X-Codex-Promo-Message X-Should-Retry": Newf(BudgetExhausted, 60, "later"),
		"Content-Type Upgrade Connection":                               New(WebsocketNotSupported, ""),
		"Content-Type Upgrade Connection Sec-WebSocket-Version":         Malformed(WebsocketMalformed, &http1.Error{Status: 426, Reason: "r"}),
		"Content-Type": Malformed(WebsocketMalformed, &http1.Error{Status: 400, Reason: "r"}),
	} {
		if got := names(e.Fields()); got != want {
			t.Errorf("%s has the fields %s, want %s", e.Code, got, want)
		}
	}
}

// TestLimitFields: what is left is reported by the names that OpenAI's responses have.
func TestLimitFields(t *testing.T) {
	spent := Newf(BudgetExhausted, 3723, "later").Meeting("Tokens", 1000, 0)
	spent.ResetsAt = time.Unix(1795737600, 0)
	for want, e := range map[string]*Error{
		"": Newf(TooManyConnections, 1, "later"),
		"X-Ratelimit-Limit-Requests: 4, X-Ratelimit-Remaining-Requests: 0":                                  Newf(RateLimited, 7, "later").Meeting("Requests", 4, 0),
		"X-Ratelimit-Limit-Tokens: 1000, X-Ratelimit-Remaining-Tokens: 250":                                 Newf(TooManyRequests, 1, "later").Meeting("Tokens", 1000, 250),
		"X-Ratelimit-Limit-Tokens: 1000, X-Ratelimit-Remaining-Tokens: 0":                                   Newf(BudgetExhausted, 0, "never").Meeting("Tokens", 1000, 0),
		"X-Ratelimit-Limit-Tokens: 1000, X-Ratelimit-Remaining-Tokens: 0, X-Ratelimit-Reset-Tokens: 1h2m3s": spent,
	} {
		var all []string
		for _, f := range e.Fields() {
			if strings.HasPrefix(string(f.Name), "X-Ratelimit-") {
				all = append(all, string(f.Name)+": "+string(f.Value))
			}
		}
		if got := strings.Join(all, ", "); got != want {
			t.Errorf("%s has the fields %s, want %s", e.Code, got, want)
		}
	}
}

// TestExhausted: Codex prints the field and the time; it needs the type for that, and the time as a number.
func TestExhausted(t *testing.T) {
	e := Newf(BudgetExhausted, 0, "It is spent. Ask.")
	const never = `{"error":{"message":"It is spent. Ask.","type":"usage_limit_reached","param":null,"code":"budget_exhausted"}}` + "\n"
	if got := string(e.Body()); got != never {
		t.Errorf("%s", got)
	}
	if got := string(e.Fields()[1].Value); got != "It is spent. Ask" {
		t.Errorf("X-Codex-Promo-Message: %s", got)
	}
	e.ResetsAt = time.Unix(1795737600, 0)
	if got, want := string(e.Body()), strings.Replace(never, `"}}`, `","resets_at":1795737600}}`, 1); got != want {
		t.Errorf("%s", got)
	}
}

// TestHints: what to do is not part of what is wrong.
func TestHints(t *testing.T) {
	for message, want := range map[string][2]string{
		"Uid 7 may not do this. Use %s.":     {"Uid 7 may not do this", "Use x"},
		"It is 1.5 of %s. Do this. Do that.": {"It is 1.5 of x", "Do this. Do that"},
		"Only %s.":                           {"Only x", ""},
	} {
		if e := Newf(HostNotAllowed, 0, message, "x"); e.Detail != want[0] || e.Hint != want[1] || !strings.HasPrefix(e.Message, want[0]) {
			t.Errorf("%q: %+v", message, e)
		}
	}
}

func TestErrorsOfHeads(t *testing.T) {
	for status, want := range map[int]Code{400: MalformedRequest, 408: RequestTimeout, 417: MalformedRequest, 431: HeadTooLarge, 505: MalformedRequest} {
		e := OfHead(&http1.Error{Status: status, Reason: "the reason"})
		if e.Code != want || e.Status != status || !strings.HasSuffix(e.Message, ": the reason.") || e.Detail != "the reason" {
			t.Errorf("status %d: %+v, want %s", status, e, want)
		}
	}
}
