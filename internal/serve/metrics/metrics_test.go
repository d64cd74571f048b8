package metrics

import (
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/audit"
)

// example is a Config as the program's.
func example() Config {
	return Config{
		Version: "1.2.3", Revision: "abc", GoVersion: "go1.26",
		Protections: []Protection{
			{Name: "secret-memory", State: "memfd_secret"},
			{Name: "landlock", State: "abi3 (no rules for TCP: \"kernel\\6.1\"\n)", Missing: true},
		},
		Routes: []string{"responses", "shutdown"},
		Codes:  []string{"route_not_allowed", "upstream_unreachable", "rate_limited"},
		Counts: func() Counts {
			return Counts{Connections: 7, AcceptFailures: 2, Resets: 4, Dials: Dials{Connected: 5, Unreachable: 3, TLSFailed: 1, Timeouts: 8, GivenUp: 9}, Audit: &Lines{}}
		},
		Ready:  well,
		Limits: func() Limits { return Limits{Admitted: 3, MaxRequests: 10} },
	}
}

// success is an answer that streamed.
func success() *audit.Entry {
	return &audit.Entry{
		Duration: 3 * time.Second, FirstByte: 700 * time.Millisecond, Route: "responses", Status: 200, BytesIn: 100, BytesOut: 2000,
		Streamed: true, Tokens: true, InputTokens: 30, OutputTokens: 40, Upstream: true, Reused: true,
	}
}

// is checks series of s, named without the prefix.
func (s *scrape) is(t *testing.T, want map[string]float64) {
	t.Helper()
	for series, n := range want {
		if got, ok := s.series[prefix+series]; !ok || got != n {
			t.Errorf("%s is %v (there: %t), want %v", series, got, ok, n)
		}
	}
}

func TestNothingYet(t *testing.T) {
	s := read(t, New(example()))
	for series, n := range s.series {
		for _, zero := range []string{"requests", "refusals", "time_to", "request_", "response_", "tokens", "upstream_requests"} {
			if strings.HasPrefix(series, prefix+zero) && n != 0 {
				t.Errorf("%s is %v", series, n)
			}
		}
	}
	s.is(t, map[string]float64{
		`build_info{version="1.2.3",revision="abc",goversion="go1.26"}`:                       1,
		`protection_info{name="secret-memory",state="memfd_secret"}`:                          1,
		`protection_info{name="landlock",state="abi3 (no rules for TCP: \"kernel\\6.1\"\n)"}`: 1,
		`protection_missing{name="secret-memory"}`:                                            0,
		`protection_missing{name="landlock"}`:                                                 1,
		`client_connections`:                                                                  7,
		`upstream_dials_total{result="connected"}`:                                            5,
		`upstream_dials_total{result="unreachable"}`:                                          3,
		`upstream_dials_total{result="tls_failed"}`:                                           1,
		`upstream_dials_total{result="timeout"}`:                                              8,
		`upstream_dials_total{result="given_up"}`:                                             9,
		`requests_total{route="none",class="4xx"}`:                                            0,
		`requests_total{route="other",class="other"}`:                                         0,
		`refusals_total{code="rate_limited"}`:                                                 0,
		`refusals_total{code="other"}`:                                                        0,
		`requests_in_flight`:                                                                  0,
	})
	for name := range s.kinds {
		if s.help[name] == "" {
			t.Errorf("%s has no help", name)
		}
	}
	for _, name := range []string{"process_start_time_seconds", "go_goroutines", "go_memstats_heap_alloc_bytes", "go_memstats_sys_bytes"} {
		if s.series[name] <= 0 {
			t.Errorf("%s is %v", name, s.series[name])
		}
	}
	if d := time.Since(time.UnixMilli(int64(s.series["process_start_time_seconds"] * 1000))); d < 0 || d > time.Hour {
		t.Errorf("started %v ago", d)
	}
	if cpuTime() > 0 && s.series["process_cpu_seconds_total"] <= 0 {
		t.Error("no processor time")
	}
}

func TestLeastConfig(t *testing.T) {
	s := read(t, New(Config{Counts: func() Counts { return Counts{Log: Lines{Lost: 3}} }}))
	if _, ok := s.kinds[prefix+"audit_lost_lines_total"]; ok {
		t.Error("an audit log that is not written has a series")
	}
	s.is(t, map[string]float64{`build_info{version="",revision="",goversion=""}`: 1, `refusals_total{code="other"}`: 0, `log_lost_lines_total`: 3})
}

func TestOneRequest(t *testing.T) {
	cfg := example()
	cfg.Counts = func() Counts { return Counts{Connections: 7, Running: 1} }
	m := New(cfg)
	read(t, m).is(t, map[string]float64{"requests_in_flight": 1, `requests_total{route="responses",class="2xx"}`: 0})
	m.End(success())
	read(t, m).is(t, map[string]float64{
		`requests_total{route="responses",class="2xx"}`: 1, `requests_total{route="none",class="2xx"}`: 0,
		`tokens_total{direction="input"}`: 30, `tokens_total{direction="output"}`: 40,
		"request_body_bytes_total": 100, "response_body_bytes_total": 2000,
		`upstream_requests_total{connection="new"}`: 0, `upstream_requests_total{connection="reused"}`: 1,
		`time_to_first_byte_seconds_bucket{le="0.5"}`: 0, `time_to_first_byte_seconds_bucket{le="1"}`: 1, "time_to_first_byte_seconds_sum": 0.7, "time_to_first_byte_seconds_count": 1,
		`request_duration_seconds_bucket{le="2.5"}`: 0, `request_duration_seconds_bucket{le="5"}`: 1, `request_duration_seconds_bucket{le="1800"}`: 1, "request_duration_seconds_sum": 3,
		`refusals_total{code="other"}`: 0,
	})
}

// TestRefusalsAreNotTimed: requests that were not sent upstream are not in the upstream's durations.
func TestRefusalsAreNotTimed(t *testing.T) {
	m := New(example())
	m.End(&audit.Entry{Status: 403, Code: "route_not_allowed", Duration: time.Millisecond, FirstByte: time.Millisecond, BytesOut: 10})
	read(t, m).is(t, map[string]float64{
		`requests_total{route="none",class="4xx"}`: 1, `refusals_total{code="route_not_allowed"}`: 1, "response_body_bytes_total": 10,
		"time_to_first_byte_seconds_count": 0, "request_duration_seconds_count": 0, `upstream_requests_total{connection="new"}`: 0,
	})
	m.End(&audit.Entry{Route: "responses", Status: 502, Code: "upstream_unreachable", Duration: time.Millisecond, Upstream: true})
	read(t, m).is(t, map[string]float64{
		`requests_total{route="responses",class="5xx"}`: 1, `refusals_total{code="upstream_unreachable"}`: 1,
		"time_to_first_byte_seconds_count": 0, "request_duration_seconds_count": 1, `upstream_requests_total{connection="new"}`: 1,
	})
}

// TestWhatOthersChoose: no text of a client or the upstream makes a series, and no value makes a counter fall.
func TestWhatOthersChoose(t *testing.T) {
	m := New(example())
	before := read(t, m)
	for _, e := range []audit.Entry{
		{Route: "/etc/passwd", Status: 999, Code: "made-up\"} 1\n", Model: "m", RequestID: "r"},
		{Route: "other", Code: "other", Status: 199},
		{Status: -1, BytesIn: -5, BytesOut: math.MinInt64, Tokens: true, InputTokens: -1, OutputTokens: -9, Upstream: true, Duration: -time.Second, FirstByte: -1},
		{Tokens: false, InputTokens: 5, OutputTokens: 5},
		{Tokens: true, InputTokens: math.MaxInt64, OutputTokens: math.MaxInt64},
		{Caller: audit.Caller{Command: "evil"}},
	} {
		m.End(&e)
	}
	s := read(t, m)
	for series := range s.series {
		if _, ok := before.series[series]; !ok {
			t.Errorf("%s is new", series)
		}
	}
	s.is(t, map[string]float64{
		`requests_total{route="other",class="other"}`: 2, `requests_total{route="none",class="other"}`: 1, `requests_total{route="none",class="none"}`: 3,
		`refusals_total{code="other"}`: 2, "request_body_bytes_total": 0, "response_body_bytes_total": 0,
		`tokens_total{direction="input"}`: maxTokens, `request_duration_seconds_bucket{le="0.005"}`: 1, "request_duration_seconds_sum": 0, "time_to_first_byte_seconds_count": 0,
	})
}

func TestClasses(t *testing.T) {
	for status, want := range map[int]string{0: "none", 100: other, 199: other, 200: "2xx", 299: "2xx", 302: "3xx", 429: "4xx", 500: "5xx", 599: "5xx", 600: other, -200: other, math.MaxInt: other} {
		if got := classes[classOf(status)]; got != want {
			t.Errorf("%d is %s, want %s", status, got, want)
		}
	}
}

func TestBuckets(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-1: "0.005", 0: "0.005", 5 * time.Millisecond: "0.005", 5*time.Millisecond + 1: "0.01", time.Second: "1", time.Second + 1: "2.5",
		30 * time.Minute: "1800", 30*time.Minute + 1: "+Inf", math.MaxInt64: "+Inf",
	} {
		var h histogram
		h.observe(d)
		for i := range h.buckets {
			if (h.buckets[i] == 1) != (float(bounds[i]) == want) {
				t.Errorf("%v: bucket %s has %d", d, float(bounds[i]), h.buckets[i])
			}
		}
	}
}

// TestScrapesDuringUpdates: during concurrent updates no counter falls between scrapes, histograms are consistent, and
// at the end every update is counted.
func TestScrapesDuringUpdates(t *testing.T) {
	const workers, each = 4, 5000
	m := New(example())
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				e := success()
				e.Duration = time.Duration(i) * time.Duration(w+1) * time.Millisecond
				m.End(e)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	last, scrapes := read(t, m), 0
	for running := true; running; scrapes++ {
		select {
		case <-done:
			running = false
		default:
		}
		s := read(t, m)
		compare(t, last, s)
		last = s
	}
	last.is(t, map[string]float64{
		`requests_total{route="responses",class="2xx"}`: workers * each, "request_duration_seconds_count": workers * each,
		`tokens_total{direction="output"}`: workers * each * 40, "response_body_bytes_total": workers * each * 2000,
	})
	t.Logf("%d scrapes", scrapes)
}

func compare(t *testing.T, before, after *scrape) {
	t.Helper()
	for series, n := range before.series {
		family, _, _ := strings.Cut(series, "{")
		if kind := after.kinds[family]; kind != "gauge" && after.series[series] < n {
			t.Fatalf("%s fell from %v to %v", series, n, after.series[series])
		}
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	m, e := New(example()), success()
	e.Code = "rate_limited"
	if n := testing.AllocsPerRun(1000, func() { m.End(e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkEnd(b *testing.B) {
	m, e := New(example()), success()
	b.ReportAllocs()
	for b.Loop() {
		m.End(e)
	}
}

func BenchmarkEndParallel(b *testing.B) {
	m := New(example())
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		e := success()
		for pb.Next() {
			m.End(e)
		}
	})
}

func BenchmarkScrape(b *testing.B) {
	m := New(example())
	b.ReportAllocs()
	for b.Loop() {
		b.SetBytes(int64(len(m.Text())))
	}
}
