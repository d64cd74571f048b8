package server_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
)

// deposit is the cost of a response that reports none, where the budget is large.
const deposit = 1_000_000

// call sends METHOD and target, which begins behind /v1/, and returns status and
// body.
func (s *stack) call(line, body string, fields ...string) (status int, answer string) {
	s.t.Helper()
	method, target, _ := strings.Cut(line, " ")
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	req := must(http.NewRequestWithContext(within(s.t, soon), method, strings.TrimSuffix(s.url, "responses")+target, content))
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		req.Header.Set(name, value)
	}
	res, err := client.Do(req)
	if err != nil {
		s.t.Fatalf("%s: %v", line, err)
	}
	return res.StatusCode, read(s.t, res)
}

// want is call for a request whose response must have a status and contain a text.
func (s *stack) want(status int, text, line, body string, fields ...string) string {
	s.t.Helper()
	got, answer := s.call(line, body, fields...)
	if got != status || !strings.Contains(answer, text) {
		s.t.Errorf("%s: %d %.300s, want %d with %q", line, got, answer, status, text)
	}
	return answer
}

// id is that of a response.
func id(t testing.TB, answer string) string {
	t.Helper()
	var r struct{ ID string }
	if err := json.Unmarshal([]byte(answer), &r); err != nil || !strings.HasPrefix(r.ID, "resp_") {
		t.Fatalf("no id in %.200s", answer)
	}
	return r.ID
}

const question = `{"model":"m","input":"hi"}`

// line is what the upstream saw last.
func (s *stack) line() string {
	all := s.up.Requests()
	r := all[len(all)-1]
	return r.Method + " " + r.Target
}

// TestOpenedRoutes checks that each route has its own target, with the key and no other credential, and that the
// default route works as before.
func TestOpenedRoutes(t *testing.T) {
	both(t, func(t *testing.T, options ...func(*setup)) {
		azure := func(s *setup) { s.fake.Path = "/openai/v1/responses?api-version=1" }
		s := start(t, append(options, azure, allowing("compact", "input-tokens", "models", "retrieve", "search"))...)
		for range 3 { // on the same connection, in turns
			own := "responses/" + id(t, s.want(200, `"object":"response"`, "POST responses", question))
			for _, c := range []struct{ line, body, sent, text string }{
				{"POST responses/compact", question, "POST /openai/v1/responses/compact?api-version=1", "response.compaction"},
				{"POST responses/input_tokens", question, "POST /openai/v1/responses/input_tokens?api-version=1", `"input_tokens":6`},
				{"GET models", "", "GET /openai/v1/models?api-version=1", "gpt-5"},
				{"GET models?client_version=0.169.0", "", "GET /openai/v1/models?api-version=1&client_version=0.169.0", `"models"`},
				{"POST alpha/search", question, "POST /openai/v1/alpha/search?api-version=1", "encrypted_output"},
				{"GET " + own, "", "GET /openai/v1/" + own + "?api-version=1", "completed"},
				{"GET " + own + "?stream=true&starting_after=0", "", "GET /openai/v1/" + own + "?api-version=1&stream=true&starting_after=0", "event: response.completed"},
				{"POST " + own + "/cancel", "", "POST /openai/v1/" + own + "/cancel?api-version=1", "cancelled"},
				{"DELETE " + own, "", "DELETE /openai/v1/" + own + "?api-version=1", `"deleted":true`},
				{"POST responses", question, "POST /openai/v1/responses?api-version=1", `"object":"response"`},
			} {
				s.want(200, c.text, c.line, c.body, "Authorization: Bearer mine", "X-Api-Key: mine")
				if got := s.line(); got != c.sent {
					t.Errorf("%s was sent as %s, want %s", c.line, got, c.sent)
				}
			}
		}
		for _, r := range s.up.Requests() {
			framed := len(r.Values("Content-Length")) + len(r.Values("Transfer-Encoding"))
			if want := r.Method == "POST"; want != (framed == 1) {
				t.Errorf("%s %s has %d fields that frame its body", r.Method, r.Target, framed)
			}
		}
		if n := s.up.Conns(); n != 1 {
			t.Errorf("%d connections to the upstream, want 1", n)
		}
		s.clean()
		if l := s.logged(); len(l) > 0 {
			t.Errorf("logged %q", l)
		}
	})
}

// TestRoutesThatStayClosed checks that with every route open, other targets are still refused, by a message that names
// the routes.
func TestRoutesThatStayClosed(t *testing.T) {
	s := start(t, allowing("compact", "input-tokens", "models", "retrieve", "websocket"))
	for _, line := range []string{
		"GET responses", "POST models", "GET models/gpt-5", "POST responses/compact?x=1", "POST responses/resp_1", "GET responses/resp_1/input_items",
		"GET responses/resp_1?x=1", "POST chat/completions", "GET files", "POST alpha/search", "GET models?client_version=", "POST conversations", "PUT responses/resp_1", "POST messages",
	} {
		s.want(403, "GET /v1/models", line, "")
	}
	if n := s.up.Conns(); n != 0 {
		t.Errorf("%d connections reached the upstream", n)
	}
}

// TestNoBodyWithoutAPost checks that GET and DELETE have no body.
func TestNoBodyWithoutAPost(t *testing.T) {
	s := start(t, allowing("models", "retrieve"))
	own := id(t, s.want(200, "", "POST responses", question))
	n := s.up.Count()
	for _, line := range []string{"GET models", "GET responses/" + own, "DELETE responses/" + own} {
		s.want(400, "malformed_request", line, "{}")
		p := s.dial()
		method, target, _ := strings.Cut(line, " ")
		p.send(method + " /v1/" + target + " HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
		if res := p.answer(); res.StatusCode != 400 {
			t.Errorf("%s with an empty chunked body: %d", line, res.StatusCode)
		}
	}
	s.want(200, "", "DELETE responses/"+own, "")
	if got := s.up.Count(); got != n+1 {
		t.Errorf("%d requests with bodies reached the upstream", got-n-1)
	}
}

// TestOnlyWhatWasMadeHere checks that unknown ids are refused without a request to the upstream, by the same message
// for each.
func TestOnlyWhatWasMadeHere(t *testing.T) {
	s := start(t, allowing("retrieve"))
	made := id(t, s.want(200, "", "POST responses", question))
	foreign := id(t, directly(t, s.up))
	n := s.up.Count()
	var texts []string
	for _, other := range []string{foreign, "resp_" + strings.Repeat("0", 32), made + "0", strings.ToUpper(made[5:])} {
		if !strings.HasPrefix(other, "resp_") {
			other = "resp_" + other + "X"
		}
		for _, line := range []string{"GET responses/" + other, "GET responses/" + other + "?stream=true", "DELETE responses/" + other, "POST responses/" + other + "/cancel"} {
			texts = append(texts, s.want(404, "response_not_found", line, ""))
		}
	}
	for _, text := range texts {
		if text != texts[0] {
			t.Errorf("%q and %q differ", text, texts[0])
		}
	}
	if s.up.Count() != n {
		t.Error("an id that was not made here reached the upstream")
	}
	// A deleted response is unknown again, but not one that the upstream kept.
	s.up.Script("status code=500")
	s.want(500, "", "DELETE responses/"+made, "")
	s.want(200, "deleted", "DELETE responses/"+made, "")
	s.want(404, "response_not_found", "GET responses/"+made, "")
}

// directly makes a response past the proxy.
func directly(t *testing.T, up *openaitest.Server) string {
	req := must(http.NewRequest("POST", up.URL(), strings.NewReader(question)))
	req.Header.Set("Authorization", "Bearer "+canary)
	res := must(client.Do(req))
	return read(t, res)
}

// TestIDsAreLearnedInTime checks that an id is recorded from a stream's first event, before the client receives it;
// also if the response never ends, or is cut.
func TestIDsAreLearnedInTime(t *testing.T) {
	both(t, func(t *testing.T, options ...func(*setup)) {
		s := start(t, append(options, allowing("retrieve"))...)
		for _, scenario := range []string{"headthensilent", "cut n=1", "reset n=2", "sse n=2", "sse n=2 flush=1", "closedelim"} {
			ctx, leave := context.WithCancel(within(t, soon))
			res := must(s.do(ctx, scenario, strings.NewReader(`{"model":"m","stream":true}`)))
			var got strings.Builder
			for p := make([]byte, 512); !strings.Contains(got.String(), `","object":"response"`); {
				n, err := res.Body.Read(p)
				got.Write(p[:n])
				if err != nil {
					break
				}
			}
			_, after, _ := strings.Cut(got.String(), `"response":{"id":"`)
			made, _, _ := strings.Cut(after, `"`)
			if status, answer := s.call("GET responses/"+made, ""); strings.Contains(answer, "response_not_found") {
				t.Errorf("%s: %d %s", scenario, status, answer)
			}
			leave()
			res.Body.Close()
		}
	})
}

// TestAnswersThatCannotBeRead checks that responses are requested without a content coding, and that the response in
// one that comes all the same cannot be retrieved.
func TestAnswersThatCannotBeRead(t *testing.T) {
	s := start(t, allowing("retrieve"))
	s.want(200, "", "POST responses", question, "Accept-Encoding: gzip", "X-Fake: json")
	r := s.up.Requests()[0]
	if got := r.Values("Accept-Encoding"); len(got) != 1 || got[0] != "identity" {
		t.Errorf("Accept-Encoding is %q", got)
	}
	_, answer := s.call("POST responses", question, "X-Fake: gzip")
	if answer == "" {
		t.Fatal("no answer")
	}
	s.want(404, "response_not_found", "GET responses/resp_00000000000000000000000000000003", "")

	closed := start(t)
	closed.want(200, "", "POST responses", question, "Accept-Encoding: gzip", "X-Fake: json")
	if got := closed.up.Requests()[0].Get("Accept-Encoding"); got != "gzip" {
		t.Errorf("without --allow-route retrieve Accept-Encoding is %q", got)
	}
}

// TestRoutesAndBudgets checks that the cost of a response is counted once, when it is made. A response that has not
// reported it by then is charged its deposit until it is fetched. A response that costs nothing is not estimated.
func TestRoutesAndBudgets(t *testing.T) {
	money := newPurse(t, 1<<40)
	rules := newPolicy(t, policy.Config{TCP: true, Budget: money.Ledger})
	s := start(t, allowing("compact", "input-tokens", "models", "retrieve", "search"), func(s *setup) { s.server.Policy = rules })
	costs := func(want int64, what string, do func()) {
		t.Helper()
		before := money.total()
		do()
		s.idle()
		if got := money.total() - before; got != want {
			t.Errorf("%s cost %d tokens, want %d", what, got, want)
		}
	}
	var made string
	whole := int64(len(question)/4 + 40/4)
	costs(whole, "a response", func() { made = id(t, s.want(200, "", "POST responses", question)) })
	costs(0, "fetching it", func() { s.want(200, "", "GET responses/"+made, "") })
	costs(0, "cancelling it", func() { s.want(200, "", "POST responses/"+made+"/cancel", "") })
	costs(0, "deleting it", func() { s.want(200, "", "DELETE responses/"+made, "") })
	costs(0, "counting tokens", func() { s.want(200, "", "POST responses/input_tokens", question) })
	costs(0, "the models", func() { s.want(200, "", "GET models", "") })
	costs(deposit, "beginning in the background", func() {
		made = id(t, s.want(200, "queued", "POST responses", question, "X-Fake: background s=40000"))
	})
	costs(int64(len(question)/4)+10000-deposit, "fetching that", func() { s.want(200, "completed", "GET responses/"+made, "") })
	costs(0, "fetching it again", func() { s.want(200, "completed", "GET responses/"+made+"?stream=true", "") })
	costs(0, "searching", func() { s.want(200, "", "POST alpha/search", question) })
	costs(whole, "compacting", func() { s.want(200, "", "POST responses/compact", question) })
}

// TestMessagesAndBudgets checks that the usage that Anthropic's responses report is charged and recorded, including
// tokens from the cache; a response that breaks off is charged the deposit.
func TestMessagesAndBudgets(t *testing.T) {
	money, seen := newPurse(t, 1<<40), &entries{}
	rules := newPolicy(t, policy.Config{TCP: true, Budget: money.Ledger})
	anthropic := func(s *setup) { s.fake.Path, s.fake.Key = "/v1/messages", "" }
	s := start(t, allowing("messages"), anthropic, func(s *setup) { s.server.Policy, s.server.Observe = rules, seen.add })
	for _, c := range []struct {
		line, body    string
		input, output int64
	}{
		{"POST messages", `{"model":"claude"}`, 18/4 + 7, 10},
		{"POST messages?beta=true", `{"model":"claude","stream":true}`, 32/4 + 7, 10},
		{"POST messages/count_tokens?beta=true", `{"model":"claude"}`, 0, 0},
	} {
		before := money.total()
		s.want(200, "input_tokens", c.line, c.body)
		s.idle()
		last := seen.last()
		if got := money.total() - before; got != c.input+c.output || last.InputTokens != c.input || last.OutputTokens != c.output {
			t.Errorf("%s cost %d tokens, recorded as %d and %d; want %d and %d", c.line, got, last.InputTokens, last.OutputTokens, c.input, c.output)
		}
		if spends := c.input > 0; spends != (last.Model == "claude") || last.Tokens != spends {
			t.Errorf("%s: recorded as of model %q, exact %t", c.line, last.Model, last.Tokens)
		}
	}
	before := money.total()
	s.call("POST messages?beta=true", `{"model":"claude","stream":true}`, "X-Fake: gzip")
	s.idle()
	if got := money.total() - before; got != deposit {
		t.Errorf("a response that cannot be read cost %d tokens, want the deposit", got)
	}
}

// idle waits until no request runs.
func (s *stack) idle() {
	client.CloseIdleConnections()
	for deadline := within(s.t, soon); s.server.Connections() > 0; {
		if deadline.Err() != nil {
			s.t.Fatal("connections stay open")
		}
		runtime.Gosched()
	}
}

// entries keeps records.
type entries struct {
	mu  sync.Mutex
	all []audit.Entry
}

func (e *entries) add(entry *audit.Entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, *entry)
}

func (e *entries) last() audit.Entry {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.all[len(e.all)-1]
}
