package server_test

import (
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
)

// TestBudgetAddsUpExactly checks that 200 concurrent streams cost the sum of their reported costs.
func TestBudgetAddsUpExactly(t *testing.T) {
	p := newPurse(t, 1<<40)
	s := limited(t, policy.Config{TCP: true, Budget: p.Ledger})
	var wg sync.WaitGroup
	var mu sync.Mutex
	var want int64
	for range 200 {
		wg.Go(func() {
			res, err := s.do(within(t, soon), "sse n=5 d=2ms", strings.NewReader(`{"stream":true}`))
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			b, err := io.ReadAll(res.Body)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			want += costOf(t, string(b))
		})
	}
	wg.Wait()
	// The bill is settled before the connection serves again: by then all are in.
	ctx := within(t, soon)
	for p.total() != want && ctx.Err() == nil {
		read(t, s.post("status code=400", `{}`))
	}
	if got := p.total(); got != want || want == 0 {
		t.Errorf("%d tokens were counted, the streams say %d", got, want)
	}
}

// TestHalfOpenConnectionsOfOneUser checks that 2,000 connections that send half a head do not slow another user's
// requests by more than a factor of two. The figure is logged; the assertion has a margin for a loaded machine, and the
// slower of the latencies before and after them counts as the one without.
func TestHalfOpenConnectionsOfOneUser(t *testing.T) {
	s := limited(t, policy.Config{})
	alone := s.medianLatency(t, 300)
	var crowd []net.Conn
	for range 2000 {
		c, err := net.Dial("tcp", s.listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		crowd = append(crowd, c)
		io.WriteString(c, "POST /v1/responses HT")
	}
	crowded := s.medianLatency(t, 300)
	for _, c := range crowd {
		c.Close()
	}
	alone = max(alone, s.medianLatency(t, 300))
	t.Logf("median latency %v alone, %v beside 2,000 half-open connections", alone, crowded)
	if crowded > 10*alone {
		t.Errorf("median latency %v alone, %v beside 2,000 half-open connections", alone, crowded)
	}
}

func (s *stack) medianLatency(t *testing.T, n int) time.Duration {
	t.Helper()
	all := make([]time.Duration, n)
	for i := range all {
		begun := time.Now()
		read(t, s.post("json", `{}`))
		all[i] = time.Since(begun)
	}
	slices.Sort(all)
	return all[n/2]
}

// BenchmarkConnection is a connection with one request, with and without asking
// the kernel who calls; the difference is the price of the lookup.
func BenchmarkConnection(b *testing.B) {
	for name, users := range map[string]string{"anybody": "", "named": "self"} {
		b.Run(name, func(b *testing.B) {
			cfg := policy.Config{TCP: users != ""}
			if users != "" {
				cfg.Users.AddUser(users)
			}
			rules := newPolicy(b, cfg)
			s := start(b, func(s *setup) { s.fake.Forget = true; s.server.Policy = rules })
			for b.Loop() {
				p := s.dial()
				p.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
				if res, err := http.ReadResponse(p.in, nil); err != nil || res.StatusCode != 403 {
					b.Fatal(res, err)
				}
				p.Close()
			}
		})
	}
}
