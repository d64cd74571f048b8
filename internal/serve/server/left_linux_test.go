package server_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/budget"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/relay"
)

// expensive is an upstream whose streams cost 204,000 tokens. The cost is in the closing event alone: after the client
// has left.
type expensive struct {
	*httptest.Server
	pause time.Duration // from the client's leaving to the closing event; 0 if there is none
	left  sync.Map
}

const dearly = 204_000

func startExpensive(t *testing.T, pause time.Duration) *expensive {
	up := &expensive{pause: pause}
	up.Server = httptest.NewServer(http.HandlerFunc(up.serve))
	t.Cleanup(up.Close)
	return up
}

func (up *expensive) gone(attempt string) chan struct{} {
	c, _ := up.left.LoadOrStore(attempt, make(chan struct{}))
	return c.(chan struct{})
}

func (up *expensive) serve(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	attempt := r.Header.Get("X-Attempt")
	if attempt == "" {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"id":"resp_1","object":"response","usage":{"input_tokens":1,"output_tokens":1,"total_tokens":2}}`)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprint(w, "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_2\",\"usage\":null}}\n\n")
	fmt.Fprintf(w, "event: response.output_text.done\ndata: {\"type\":\"response.output_text.done\",\"text\":\"%s\"}\n\n", strings.Repeat("x", 100))
	w.(http.Flusher).Flush()
	select {
	case <-up.gone(attempt):
	case <-r.Context().Done():
		return
	}
	var later <-chan time.Time // never
	if up.pause > 0 {
		later = time.After(up.pause)
	}
	select {
	case <-later:
	case <-r.Context().Done():
		return
	}
	fmt.Fprintf(w, "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_2\",\"usage\":{\"input_tokens\":200000,\"output_tokens\":4000,\"total_tokens\":%d}}}\n\n", dearly)
}

// steal requests a response and leaves as soon as its text is whole. It reports whether the text arrived, and else the
// error or the refusal.
func (up *expensive) steal(s *stack, attempt string) (bool, string) {
	c, err := net.Dial("tcp", s.listener.Addr().String())
	if err != nil {
		return false, err.Error()
	}
	defer close(up.gone(attempt))
	defer c.Close()
	io.WriteString(c, "POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Attempt: "+attempt+"\r\nContent-Length: 2\r\n\r\n{}")
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return false, err.Error()
	}
	if res.StatusCode != 200 {
		b, _ := io.ReadAll(res.Body)
		return false, string(b)
	}
	for in := bufio.NewScanner(res.Body); in.Scan(); {
		if text, ok := strings.CutPrefix(in.Text(), `data: {"type":"response.output_text.done"`); ok && strings.HasSuffix(text, `x"}`) {
			return true, ""
		}
	}
	return false, "no text"
}

// TestLeavingEarlyIsPaid checks that a user who leaves each stream when the text is whole, and before its cost is sent,
// gets no more out of a budget than a user who stays; another user is served all the while.
func TestLeavingEarlyIsPaid(t *testing.T) {
	proctest.NeedRoot(t, "play several users")
	for _, at := range []int{1, 16} {
		t.Run(fmt.Sprintf("%d at a time", at), func(t *testing.T) {
			up := startExpensive(t, 50*time.Millisecond)
			book := must(budget.Open(budget.Config{Limit: 10_000}))
			rules := newPolicy(t, policy.Config{TCP: true, Budget: book})
			s := start(t, func(s *setup) { s.server.Policy, s.url = rules, up.URL+"/v1/responses" })
			address := s.listener.Addr().String()
			got := stealAll(t, s, up, at)
			t.Logf("%d of 100 responses of %d tokens got through", got, dearly)
			if got > 5 || got < 1 {
				t.Errorf("%d of 100 responses of %d tokens got through, on a budget of 10,000", got, dearly)
			}
			ctx := within(t, soon)
			for answer := ""; !strings.Contains(answer, "budget_exhausted"); answer = ask(address) {
				if ctx.Err() != nil {
					t.Fatalf("the budget is not spent: %s", answer)
				}
			}
			if answer := asUser(t, someUser, "ask", address, 0); !strings.HasPrefix(answer, "200 ") {
				t.Errorf("another user: %s", answer)
			}
		})
	}
}

// stealAll tries 100 times, so many at a time, while another user asks.
func stealAll(t *testing.T, s *stack, up *expensive, at int) int64 {
	var got, attempts atomic.Int64
	var thieves sync.WaitGroup
	for range at {
		thieves.Go(func() {
			for n := attempts.Add(1); n <= 100; n = attempts.Add(1) {
				ok, refusal := up.steal(s, fmt.Sprint(n))
				switch {
				case ok:
					got.Add(1)
				case !strings.Contains(refusal, "budget_exhausted") && !strings.Contains(refusal, "too_many_requests"):
					t.Errorf("attempt %d: %s", n, refusal)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { thieves.Wait(); close(done) }()
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		default:
		}
		if answer := asUser(t, someUser, "ask", s.listener.Addr().String(), 0); !strings.HasPrefix(answer, "200 ") {
			t.Errorf("another user: %s", answer)
		}
	}
	return got.Load()
}

// withBudget is a stack with a budget, of one user: us.
func withBudget(t *testing.T, limits policy.Limits, readOn relay.ReadOn) (*stack, purse) {
	t.Helper()
	p := newPurse(t, 1<<40)
	rules := newPolicy(t, policy.Config{TCP: true, Budget: p.Ledger, Limits: limits})
	return start(t, func(s *setup) { s.server.Policy, s.readOn = rules, readOn }), p
}

// begin begins a response, as soon as the limits let it begin, and returns its
// client once there is a head.
func (s *stack) begin(scenario string) *peer {
	s.t.Helper()
	for ctx := within(s.t, soon); ctx.Err() == nil; runtime.Gosched() {
		p, err := s.tryDial()
		if err != nil {
			continue
		}
		io.WriteString(p, request("X-Fake: "+scenario, "Content-Length: 15")+`{"stream":true}`)
		res, err := http.ReadResponse(p.in, nil)
		switch {
		case err != nil: // it was reset: too many refused connections
		case res.StatusCode == 200:
			return p
		case res.StatusCode != 429:
			s.t.Fatalf("%s: status %d", scenario, res.StatusCode)
		}
		p.Close()
	}
	s.t.Fatalf("%s: refused in vain", scenario)
	return nil
}

// awaitTotal waits until so many tokens have been spent.
func (p purse) awaitTotal(t *testing.T, want int64) {
	t.Helper()
	p.awaitBetween(t, want, want)
}

func (p purse) awaitBetween(t *testing.T, least, most int64) {
	t.Helper()
	for ctx := within(t, soon); p.total() < least || p.total() > most; runtime.Gosched() {
		if ctx.Err() != nil {
			t.Fatalf("%d tokens were charged, want %d to %d", p.total(), least, most)
		}
	}
}

// TestReadingOnIsLimited checks the limits on time, size and number of the responses that are read on after their
// clients have left. Above a limit the deposit is charged.
func TestReadingOnIsLimited(t *testing.T) {
	t.Run("time", func(t *testing.T) {
		s, p := withBudget(t, policy.Limits{}, relay.ReadOn{Time: time.Millisecond})
		s.begin("headthensilent").Close()
		p.awaitTotal(t, deposit)
		wait(t, s.up.Requests()[0].Gone(), "the upstream's connection to be closed")
	})
	t.Run("time before the head", func(t *testing.T) {
		s, p := withBudget(t, policy.Limits{}, relay.ReadOn{Time: time.Millisecond})
		c := s.dial()
		c.send(request("X-Fake: silent", "Content-Length: 2") + "{}")
		r := must(s.up.Await(within(t, soon), 1))[0]
		c.Close()
		p.awaitTotal(t, deposit)
		wait(t, r.Gone(), "the upstream's connection to be closed")
	})
	t.Run("bytes", func(t *testing.T) {
		s, p := withBudget(t, policy.Limits{}, relay.ReadOn{Bytes: 1 << 20})
		s.begin("chunks s=1000000000").Close()
		p.awaitBetween(t, deposit, 10*deposit) // more than the deposit if more has passed before the client left
		wait(t, s.up.Requests()[0].Gone(), "the upstream's connection to be closed")
	})
	for name, limits := range map[string]relay.ReadOn{"per user": {PerUser: 1}, "total": {Total: 1}} {
		t.Run(name, func(t *testing.T) {
			s, p := withBudget(t, policy.Limits{MaxConcurrentPerUser: 1}, limits)
			s.begin("headthensilent").Close()
			for n := range int64(3) {
				s.begin("headthensilent").Close() // which it can once the one before has been noticed
				p.awaitTotal(t, (n+1)*deposit)
			}
			select {
			case <-s.up.Requests()[0].Gone():
				t.Error("a response that is read on was cut for another")
			default:
			}
		})
	}
}

// TestLeftHoldsNothing checks that a client that has left, and whose response is read on, no longer counts among the
// running requests or the connections.
func TestLeftHoldsNothing(t *testing.T) {
	s, p := withBudget(t, policy.Limits{MaxConcurrentPerUser: 1, MaxConnections: 2}, relay.ReadOn{})
	s.begin("headthensilent").Close()
	s.begin("json")
	select {
	case <-s.up.Requests()[0].Gone():
		t.Error("the response was not read on")
	default:
	}
	if p.total() >= deposit {
		t.Errorf("%d tokens were charged before it is known what the response costs", p.total())
	}
}

// TestLeftIsDrained checks that a response that is read on counts as a running request: a drain waits for it, or cuts
// it and charges it.
func TestLeftIsDrained(t *testing.T) {
	s, p := withBudget(t, policy.Limits{}, relay.ReadOn{})
	s.begin("headthensilent d=200ms").Close()
	if err := s.server.Drain(within(t, soon), s.listener); err != nil {
		t.Errorf("Drain: %v", err)
	}
	if got := p.total(); got < 1 || got >= deposit {
		t.Errorf("%d tokens were charged for a stream that ended during the drain", got)
	}

	s, p = withBudget(t, policy.Limits{}, relay.ReadOn{})
	s.begin("headthensilent").Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.server.Drain(ctx, s.listener); err != context.Canceled {
		t.Errorf("Drain: %v", err)
	}
	if got := p.total(); got != deposit {
		t.Errorf("%d tokens were charged for a stream that was cut, want %d", got, deposit)
	}
}

// TestEndsOfResponses checks the cost of each way to end that reports no cost.
func TestEndsOfResponses(t *testing.T) {
	for _, c := range []struct {
		what, scenario string
		least, most    int64
	}{
		{"a stream that says that it has failed", "failed", 1, 1000},
		{"a stream that the upstream cuts", "cut n=3", deposit, deposit},
		{"a stream that the upstream resets", "reset n=3", deposit, deposit},
		{"a response in the background", "background", deposit, deposit},
		{"a response that cannot be read", "gzip", deposit, deposit},
		{"a refusal", "status code=429", 0, 0},
	} {
		s, p := withBudget(t, policy.Limits{}, relay.ReadOn{})
		res := s.post(c.scenario, `{"stream":true}`)
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		for ctx := within(t, soon); c.most > 0 && p.total() == 0 && ctx.Err() == nil; {
			runtime.Gosched()
		}
		if got := p.total(); got < c.least || got > c.most {
			t.Errorf("%s: %d tokens were charged, want %d to %d", c.what, got, c.least, c.most)
		}
	}
}

// TestAbsurdCost checks that an upstream's number that overflows exhausts the budget, and does not wrap around to a
// free request.
func TestAbsurdCost(t *testing.T) {
	for _, number := range []string{"1e40", "9223372036854775808", "-1, \"total_tokens\": 1e40"} {
		up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprintf(w, "data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":1,\"output_tokens\":%s}}}\n\n", number)
		}))
		t.Cleanup(up.Close)
		p := newPurse(t, 1<<40)
		rules := newPolicy(t, policy.Config{TCP: true, Budget: p.Ledger})
		s := start(t, func(s *setup) { s.server.Policy, s.url = rules, up.URL+"/v1/responses" })
		read(t, s.post("", question))
		p.awaitTotal(t, math.MaxInt64)
		s.want(429, "budget_exhausted", "POST responses", question)
	}
}

// TestFetchingGivesBack checks that responses in the background are charged their deposits until they are fetched,
// which a spent budget does not prevent.
func TestFetchingGivesBack(t *testing.T) {
	p := newPurse(t, 4000)
	rules := newPolicy(t, policy.Config{TCP: true, Budget: p.Ledger})
	s := start(t, allowing("retrieve"), func(s *setup) { s.server.Policy = rules })
	var made []string
	for range 4 {
		made = append(made, id(t, s.want(200, "queued", "POST responses", question, "X-Fake: background")))
	}
	s.want(429, "budget_exhausted", "POST responses", question)
	if got := p.total(); got != 4000 {
		t.Errorf("%d tokens were charged for four, want 4,000", got)
	}
	for _, id := range made {
		s.want(200, "completed", "GET responses/"+id, "")
		s.want(200, "completed", "GET responses/"+id, "")
	}
	whole := int64(len(question)/4 + 40/4)
	p.awaitTotal(t, 4*whole)
	s.want(200, "completed", "POST responses", question)
}

// TestEndedByItsUser checks that a stream without a cost, because its user has cancelled or deleted the response, is
// charged its deposit.
func TestEndedByItsUser(t *testing.T) {
	for _, line := range []string{"POST responses/resp_1/cancel", "DELETE responses/resp_1", "GET responses/resp_1"} {
		ended := make(chan struct{})
		up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v1/responses" {
				close(ended)
				fmt.Fprint(w, "{}")
				return
			}
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "data: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\"}}\n\n")
			w.(http.Flusher).Flush()
			<-ended
		}))
		t.Cleanup(up.Close)
		p := newPurse(t, 1<<40)
		rules := newPolicy(t, policy.Config{TCP: true, Budget: p.Ledger})
		s := start(t, allowing("retrieve"), func(s *setup) { s.server.Policy, s.url = rules, up.URL+"/v1/responses" })
		res := s.post("", question)
		if _, err := res.Body.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		s.want(200, "", line, "")
		read(t, res)
		if line[0] == 'G' { // which ends nothing
			if got := p.total(); got < 1 || got > 1000 {
				t.Errorf("%s: %d tokens were charged, want an estimate", line, got)
			}
			continue
		}
		p.awaitTotal(t, deposit)
	}
}

// TestRunning checks that a request counts from its begin to its end, and so does a refusal.
func TestRunning(t *testing.T) {
	s := start(t)
	for i, fake := range []string{"silent", "headthensilent"} {
		p := s.dial()
		p.send(request("X-Fake: "+fake, "Content-Length: 2") + "{}")
		must(s.up.Await(within(t, soon), i+1))
		if n := s.server.Running.Load(); n != 1 {
			t.Errorf("%s: %d requests run, want 1", fake, n)
		}
		p.Close()
		proctest.Eventually(t, fake+": no request runs", func() bool { return s.server.Running.Load() == 0 })
	}
	p := s.dial()
	p.send("GET / HTTP/2.0\r\n\r\n" + request("Content-Length: x"))
	p.answer()
	proctest.Eventually(t, "no refusal runs", func() bool { return s.server.Running.Load() == 0 })
}
