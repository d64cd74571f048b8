package metrics

import (
	"math"
	"time"
)

// bounds are the upper ends of the buckets, in seconds: from a fake upstream on this host to a model that thinks for
// half an hour.
var bounds = [...]float64{
	.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, math.Inf(1),
}

// histogram counts durations. Its zero value is ready.
type histogram struct {
	buckets [len(bounds)]int64 // not cumulative, so that one duration is one addition
	sum     float64            // in seconds
}

// observe counts d; less than 0 is 0.
func (h *histogram) observe(d time.Duration) {
	i := 0
	for d.Seconds() > bounds[i] {
		i++
	}
	h.buckets[i]++
	h.sum += max(d, 0).Seconds()
}

// write writes the buckets, the sum and the count, which is the last bucket's.
func (h *histogram) write(p *page, name, help string) {
	p.family(name, "histogram", help)
	n := int64(0)
	for i := range h.buckets {
		n += h.buckets[i]
		p.sample("_bucket", float64(n), "le", float(bounds[i]))
	}
	p.sample("_sum", h.sum)
	p.sample("_count", float64(n))
}
