package server_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/openaitest"
)

// BenchmarkProxied is one request of 1 KiB through everything, from a client on
// a bare kept-alive connection to the fake upstream and back; both are in this
// process and have their share in the figures.
func BenchmarkProxied(b *testing.B) {
	for name, tls := range map[string]bool{"http": false, "https": true} {
		b.Run(name, func(b *testing.B) {
			s := start(b, func(s *setup) { s.fake = openaitest.Options{Key: canary, TLS: tls, Forget: true} })
			p := s.dial()
			sent := []byte(request("Content-Length: 1024", "Content-Type: application/json", "User-Agent: bench") + strings.Repeat(" ", 1024))
			b.ReportAllocs()
			for b.Loop() {
				p.Write(sent)
				res, err := http.ReadResponse(p.in, nil)
				if err != nil {
					b.Fatal(err)
				}
				io.Copy(io.Discard, res.Body)
			}
		})
	}
}

// allowed is what each of the delays may be in the median; docs/benchmarks.md
// has what it is.
const allowed = 100 * time.Millisecond

// TestDelays measures how soon events arrive and ends are noticed; go test -v
// prints the figures.
func TestDelays(t *testing.T) {
	both(t, func(t *testing.T, options ...func(*setup)) {
		s := start(t, options...)
		for _, m := range []struct {
			what    string
			measure func(t *testing.T) []time.Duration
		}{
			{"event delay, 20 events 50 ms apart", s.eventDelays},
			{"a cut answer is an error at the client after", several(s.cutNoticed)},
			{"leaving before the first byte closes the upstream's connection after", several(s.leavingBefore)},
			{"leaving in the upstream's silence closes its connection after", several(s.leavingInSilence)},
		} {
			d := m.measure(t)
			slices.Sort(d)
			t.Logf("%s: median %v, longest %v", m.what, d[len(d)/2], d[len(d)-1])
			if d[len(d)/2] > allowed {
				t.Errorf("%s: median %v", m.what, d[len(d)/2])
			}
		}
	})
}

func several(measure func(*testing.T) time.Duration) func(*testing.T) []time.Duration {
	return func(t *testing.T) (all []time.Duration) {
		for range 20 {
			all = append(all, measure(t))
		}
		return all
	}
}

// eventDelays compares the time in each event with that of its arrival.
func (s *stack) eventDelays(t *testing.T) (delays []time.Duration) {
	res := s.post("sse n=20 s=240 d=50ms", `{"stream":true}`)
	defer res.Body.Close()
	in := bufio.NewScanner(res.Body)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		data, ok := strings.CutPrefix(in.Text(), "data: ")
		var event struct{ T int64 }
		if ok && json.Unmarshal([]byte(data), &event) == nil && event.T > 0 {
			delays = append(delays, time.Since(time.Unix(0, event.T)))
		}
	}
	if in.Err() != nil || len(delays) != 20 {
		t.Fatalf("%d events: %v", len(delays), in.Err())
	}
	return delays
}

// cutNoticed is the time from the last piece that arrives to the error: the
// fake upstream hangs up as soon as it has sent that piece. The connection is
// kept alive.
func (s *stack) cutNoticed(t *testing.T) time.Duration {
	res := s.post("cut n=3", `{"stream":true}`)
	defer res.Body.Close()
	var last time.Time
	for p := make([]byte, 4096); ; {
		n, err := res.Body.Read(p)
		switch {
		case err == io.EOF:
			t.Fatal("the cut answer looks whole")
		case err != nil:
			return time.Since(last)
		case n > 0:
			last = time.Now()
		}
	}
}

// leavingBefore has the client leave before the response begins.
func (s *stack) leavingBefore(t *testing.T) time.Duration {
	return s.leaving(t, "silent", func(*peer) {})
}

// leavingInSilence has it leave after the first event, when no other comes.
func (s *stack) leavingInSilence(t *testing.T) time.Duration {
	return s.leaving(t, "headthensilent", func(p *peer) {
		if _, err := p.answer().Body.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	})
}

// leaving is the time from the client's close to that of the upstream's
// connection.
func (s *stack) leaving(t *testing.T, scenario string, before func(*peer)) time.Duration {
	n := s.up.Count()
	p := s.dial()
	p.send(request("X-Fake: "+scenario, "Content-Length: 2") + "{}")
	r := must(s.up.Await(within(t, soon), n+1))[n]
	before(p)
	left := time.Now()
	p.Close()
	wait(t, r.Gone(), "the upstream's connection to be closed")
	return time.Since(left)
}
