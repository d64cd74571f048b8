package metrics

import (
	"sync/atomic"
	"time"
)

// bounds are the upper ends of the buckets: from a fake upstream on this host to a
// model that thinks for half an hour.
var bounds = [...]time.Duration{
	5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 20 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 30 * time.Minute,
}

// histogram counts durations. Its zero value is ready.
type histogram struct {
	// buckets are not cumulative, so that one duration is one addition. Their sums,
	// made at each scrape, cannot fall from one bucket to the next, nor from one
	// scrape to the next, whatever is counted meanwhile.
	buckets [len(bounds) + 1]atomic.Uint64
	// micros is the sum. In nanoseconds 1,000 streams at a time would fill it in
	// 200 days.
	micros atomic.Uint64
}

// observe counts d; less than 0 is 0.
func (h *histogram) observe(d time.Duration) {
	i := 0
	for i < len(bounds) && d > bounds[i] {
		i++
	}
	h.buckets[i].Add(1)
	h.micros.Add(uint64(max(d, 0).Microseconds()))
}

// write writes the buckets, the sum and the count, which is the last bucket's.
// The sum, which is added to last, is read first: it has no duration that the
// count lacks.
func (h *histogram) write(p *page) {
	sum, n := float64(h.micros.Load())/1e6, uint64(0)
	for i := range h.buckets {
		n += h.buckets[i].Load()
		p.sample("_bucket", float64(n), "le", bound(i))
	}
	p.sample("_sum", sum)
	p.sample("_count", float64(n))
}

func bound(i int) string {
	if i == len(bounds) {
		return "+Inf"
	}
	return float(bounds[i].Seconds())
}
