package server_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
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

// BenchmarkAllocations counts what one request and its response allocate in the goroutine that serves the client, which
// does all of the proxy's work, the upstream's side included: client and fake upstream are in this process, but not in
// the figures. With -v it prints where.
func BenchmarkAllocations(b *testing.B) {
	defer func(rate int) { runtime.MemProfileRate = rate }(runtime.MemProfileRate)
	runtime.MemProfileRate = 1 // every object
	for name, tls := range map[string]bool{"http": false, "https": true} {
		b.Run(name, func(b *testing.B) {
			s := start(b, func(s *setup) { s.fake = openaitest.Options{Key: canary, TLS: tls, Forget: true} })
			c := s.dial()
			c.exchangeOnce(b)
			before := allocations()
			for b.Loop() {
				c.exchangeOnce(b)
			}
			var total int64
			for site, n := range allocations() {
				if n -= before[site]; n > int64(b.N)/100 {
					b.Logf("%.2f %s", float64(n)/float64(b.N), site)
				}
				total += n
			}
			b.ReportMetric(float64(total)/float64(b.N), "allocs-proxy/request")
		})
	}
}

// exchangeOnce sends a request and reads the response.
func (p *peer) exchangeOnce(b *testing.B) {
	p.send(request("Content-Length: 1024", "Content-Type: application/json", "User-Agent: bench") + strings.Repeat(" ", 1024))
	if _, err := io.Copy(io.Discard, p.answer().Body); err != nil {
		b.Fatal(err)
	}
}

// allocations returns how many objects clients' goroutines have allocated, by place.
func allocations() map[string]int64 {
	runtime.GC() // the profile is that of the collection before the last
	runtime.GC()
	records := make([]runtime.MemProfileRecord, 10_000)
	n, ok := runtime.MemProfile(records, true)
	if !ok {
		panic("too many records")
	}
	sites := map[string]int64{}
	for _, r := range records[:n] {
		if site := siteOf(r.Stack()); site != "" {
			sites[site] += r.AllocObjects
		}
	}
	return sites
}

// siteOf names the calls that lead to an allocation, if a client's goroutine has made it.
func siteOf(stack []uintptr) string {
	var calls []string
	for frames, more := runtime.CallersFrames(stack), true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		name := f.Function[strings.LastIndexByte(f.Function, '/')+1:]
		if name == "server.(*conn).serve" {
			return strings.Join(calls[:min(4, len(calls))], " < ")
		}
		calls = append(calls, fmt.Sprintf("%s:%d", name, f.Line))
	}
	return ""
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
