package metrics

import (
	"math"
	"sync/atomic"
	"time"
)

// bounds are the upper ends of the buckets, in seconds: from a fake upstream on this host to a model that thinks for
// half an hour.
var bounds = [...]float64{
	.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, math.Inf(1),
}

// histogram counts durations. Its zero value is ready.
type histogram struct {
	// buckets are not cumulative, so that one duration is one addition. Their sums, made at each scrape, cannot fall
	// from one bucket to the next, nor from one scrape to the next, whatever is counted meanwhile.
	buckets [len(bounds)]atomic.Uint64
	// micros is the sum. In nanoseconds 1,000 streams at a time would fill it in 200 days.
	micros atomic.Uint64
}

// observe counts d; less than 0 is 0.
func (h *histogram) observe(d time.Duration) {
	i := 0
	for d.Seconds() > bounds[i] {
		i++
	}
	h.buckets[i].Add(1)
	h.micros.Add(uint64(max(d, 0).Microseconds()))
}

// write writes the buckets, the sum and the count, which is the last bucket's. The sum, which is added to last, is read
// first: it has no duration that the count lacks.
func (h *histogram) write(p *page, name, help string) {
	p.family(name, "histogram", help)
	sum, n := float64(h.micros.Load())/1e6, uint64(0)
	for i := range h.buckets {
		n += h.buckets[i].Load()
		p.sample("_bucket", float64(n), "le", float(bounds[i]))
	}
	p.sample("_sum", sum)
	p.sample("_count", float64(n))
}
