package metrics

import (
	"runtime/metrics"
)

// prefix begins the name of everything that only this program has.
const prefix = "responses_api_proxy_"

// write writes everything. What is counted meanwhile may be in one number
// already and not yet in another.
func (m *Metrics) write(p *page) {
	m.writeOwn(p)
	for _, f := range m.foreign {
		f.write(p)
	}
	m.writeProcess(p)
}

// writeOwn writes what Begin and End count, and what never changes.
func (m *Metrics) writeOwn(p *page) {
	m.writeFixed(p)
	m.writeRequests(p)
	p.family(prefix+"request_body_bytes_total", "counter", "Bytes of bodies read from clients.")
	p.count(prefix+"request_body_bytes_total", m.bytesIn.Load())
	p.family(prefix+"response_body_bytes_total", "counter", "Bytes of bodies written to clients.")
	p.count(prefix+"response_body_bytes_total", m.bytesOut.Load())
	m.writeUpstream(p)
}

func (m *Metrics) writeFixed(p *page) {
	p.family(prefix+"build_info", "gauge", "Which program this is; always 1.")
	p.count(prefix+"build_info", 1, "version", m.cfg.Version, "revision", m.cfg.Revision, "goversion", m.cfg.GoVersion)
	if len(m.cfg.Protections) == 0 {
		return
	}
	p.family(prefix+"protection_info", "gauge", "What is in force, as in the start line; always 1.")
	for _, x := range m.cfg.Protections {
		p.count(prefix+"protection_info", 1, "name", x.Name, "state", x.State)
	}
	p.family(prefix+"protection_missing", "gauge", "1 if the protection, or a part of it, is not in force.")
	for _, x := range m.cfg.Protections {
		p.count(prefix+"protection_missing", one(x.Missing), "name", x.Name)
	}
}

func one(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

func (m *Metrics) writeRequests(p *page) {
	p.family(prefix+"requests_in_flight", "gauge", "Requests that have begun and not ended.")
	p.number(prefix+"requests_in_flight", float64(m.inFlight.Load()))
	p.family(prefix+"requests_total", "counter", "Requests that have ended, refusals included, by route and by class of the answer's status (none: there was no answer).")
	for r := range m.requests {
		for c := range classes {
			p.count(prefix+"requests_total", m.requests[r][c].Load(), "route", m.routes.names[r], "class", classes[c])
		}
	}
	p.family(prefix+"refusals_total", "counter", "Requests that were refused, failed or broke off, by the code of docs/errors.md.")
	for i := range m.refusals {
		p.count(prefix+"refusals_total", m.refusals[i].Load(), "code", m.codes.names[i])
	}
}

func (m *Metrics) writeUpstream(p *page) {
	p.family(prefix+"upstream_requests_total", "counter", "Requests for the upstream, by whether they needed a new connection (which may have failed) or went on one that had served before.")
	p.count(prefix+"upstream_requests_total", m.fresh.Load(), "connection", "new")
	p.count(prefix+"upstream_requests_total", m.reused.Load(), "connection", "reused")
	p.family(prefix+"time_to_first_byte_seconds", "histogram", "From a request's head to the first byte of its answer, of requests for the upstream.")
	m.firstByte.write(p, prefix+"time_to_first_byte_seconds")
	p.family(prefix+"request_duration_seconds", "histogram", "From a request's head to the last byte of its answer, of requests for the upstream.")
	m.duration.write(p, prefix+"request_duration_seconds")
	p.family(prefix+"tokens_total", "counter", "Tokens, where the answer says how many.")
	p.count(prefix+"tokens_total", m.input.Load(), "direction", "input")
	p.count(prefix+"tokens_total", m.output.Load(), "direction", "output")
}

func (f family) write(p *page) {
	kind := "gauge"
	if f[0].Counter {
		kind = "counter"
	}
	p.family(prefix+f[0].Name, kind, f[0].Help)
	for _, v := range f {
		if v.Label == "" {
			p.number(prefix+v.Name, v.Read())
		} else {
			p.number(prefix+v.Name, v.Read(), v.Label, v.LabelValue)
		}
	}
}

// numbers are those of Go's runtime that cost little and that an operator
// understands, under the names by which Prometheus's dashboards know them.
var numbers = [...]struct{ source, name, kind, help string }{
	{"/sched/goroutines:goroutines", "go_goroutines", "gauge", "Goroutines that exist."},
	{"/memory/classes/heap/objects:bytes", "go_memstats_heap_alloc_bytes", "gauge", "Bytes of the heap that objects take, dead ones included until they are swept."},
	{"/memory/classes/total:bytes", "go_memstats_sys_bytes", "gauge", "Bytes of memory that Go has mapped; the key's are not among them."},
	{"/gc/cycles/total:gc-cycles", "go_gc_cycles_total", "counter", "Garbage collections."},
}

// writeProcess writes what the sandbox lets a process read of itself: nothing
// from /proc, so neither its resident memory nor its descriptors.
func (m *Metrics) writeProcess(p *page) {
	p.family("process_start_time_seconds", "gauge", "When the process started, since 1970.")
	p.number("process_start_time_seconds", float64(m.began.UnixMilli())/1e3)
	if used, ok := cpuTime(); ok {
		p.family("process_cpu_seconds_total", "counter", "Time that the process has spent on all processors.")
		p.number("process_cpu_seconds_total", used.Seconds())
	}
	var samples [len(numbers)]metrics.Sample
	for i := range numbers {
		samples[i].Name = numbers[i].source
	}
	metrics.Read(samples[:])
	for i, n := range numbers {
		if samples[i].Value.Kind() == metrics.KindUint64 { // KindBad: this version of Go has it no longer
			p.family(n.name, n.kind, n.help)
			p.count(n.name, samples[i].Value.Uint64())
		}
	}
}
