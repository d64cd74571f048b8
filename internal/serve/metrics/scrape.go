package metrics

import (
	"fmt"
	"math"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"
)

// prefix begins the name of everything that only this program has.
const prefix = "responses_api_proxy_"

// ContentType is Text's.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Text returns all numbers for Prometheus.
func (m *Metrics) Text() []byte {
	p := &page{text: make([]byte, 0, 16<<10)}
	m.writeFixed(p)
	m.writeRequests(p)
	m.writeCounts(p)
	m.writeProcess(p)
	return p.text
}

func (m *Metrics) writeFixed(p *page) {
	p.family(prefix+"build_info", "gauge", "Which program this is; always 1.")
	p.sample("", 1, "version", m.cfg.Version, "revision", m.cfg.Revision, "goversion", m.cfg.GoVersion)
	p.family(prefix+"protection_info", "gauge", "What is in force, as in the start line; always 1.")
	for _, x := range m.cfg.Protections {
		p.sample("", 1, "name", x.Name, "state", x.State)
	}
	p.family(prefix+"protection_missing", "gauge", "1 if the protection, or a part of it, is not in force.")
	for _, x := range m.cfg.Protections {
		p.sample("", map[bool]float64{true: 1}[x.Missing], "name", x.Name)
	}
}

func (m *Metrics) writeRequests(p *page) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p.family(prefix+"requests_total", "counter", "Requests that have ended, refusals included, by route and by class of the response's status (none: there was no response).")
	for _, route := range m.requests.names() {
		for i, class := range classes {
			p.sample("", float64(m.requests[route][i]), "route", route, "class", class)
		}
	}
	p.family(prefix+"refusals_total", "counter", "Requests that were refused, failed or broke off, by the code of docs/errors.md.")
	for _, code := range m.failures.names() {
		p.sample("", float64(m.failures[code].Count), "code", code)
	}
	p.single(prefix+"request_body_bytes_total", "counter", "Bytes of bodies read from clients.", float64(m.bytesIn))
	p.single(prefix+"response_body_bytes_total", "counter", "Bytes of bodies written to clients.", float64(m.bytesOut))
	p.family(prefix+"upstream_requests_total", "counter", "Requests for the upstream, by whether they needed a new connection (which may have failed) or used one that had served before.")
	p.sample("", float64(m.fresh), "connection", "new")
	p.sample("", float64(m.reused), "connection", "reused")
	m.firstByte.write(p, prefix+"time_to_first_byte_seconds", "From a request's head to the first byte of its response, of requests for the upstream.")
	m.duration.write(p, prefix+"request_duration_seconds", "From a request's head to the last byte of its response, of requests for the upstream.")
	p.family(prefix+"tokens_total", "counter", "Tokens, where the response gives their number.")
	var all User
	for _, u := range m.users {
		all.Input, all.Output = all.Input+u.Input, all.Output+u.Output
	}
	p.sample("", float64(all.Input), "direction", "input")
	p.sample("", float64(all.Output), "direction", "output")
}

// writeCounts writes what other packages count, under the names that contrib's dashboard and alerts expect.
func (m *Metrics) writeCounts(p *page) {
	c := m.cfg.Counts()
	p.single(prefix+"client_connections", "gauge", "Connections of clients that are open.", float64(c.Connections))
	p.single(prefix+"requests_in_flight", "gauge", "Requests that have begun and not ended.", float64(c.Running))
	p.single(prefix+"accept_failures_total", "counter", "Connections of clients that could not be accepted.", float64(c.AcceptFailures))
	p.single(prefix+"connections_reset_total", "counter", "Connections of clients that were reset because too many are open, of one user or of all.", float64(c.Resets))
	p.single(prefix+"lookup_failures_total", "counter", "Connections that were refused because the kernel did not say whose they are.", float64(c.LookupFailures))
	p.single(prefix+"log_lost_lines_total", "counter", "Lines of the error log that were lost.", float64(c.Log.Lost))
	p.single(prefix+"log_write_failures_total", "counter", "Writes to the error log that failed; one a second while they fail.", float64(c.Log.Failures))
	if c.Audit != nil {
		p.single(prefix+"audit_lost_lines_total", "counter", "Lines that could not be written to --audit.", float64(c.Audit.Lost))
		p.single(prefix+"audit_write_failures_total", "counter", "Writes to --audit that failed; one a second while they fail.", float64(c.Audit.Failures))
	}
	p.family(prefix+"upstream_dials_total", "counter", "Connections to the upstream that were begun, by their result.")
	p.sample("", float64(c.Dials.Connected), "result", "connected")
	p.sample("", float64(c.Dials.Unreachable), "result", "unreachable")
	p.sample("", float64(c.Dials.TLSFailed), "result", "tls_failed")
	p.sample("", float64(c.Dials.Timeouts), "result", "timeout")
	p.sample("", float64(c.Dials.GivenUp), "result", "given_up")
}

// numbers are Go's own that cost little and help an operator, under the names that Prometheus's dashboards use.
var numbers = [...]struct{ source, name, kind, help string }{
	{"/sched/goroutines:goroutines", "go_goroutines", "gauge", "Goroutines that exist."},
	{"/memory/classes/heap/objects:bytes", "go_memstats_heap_alloc_bytes", "gauge", "Bytes of the heap that objects take, dead ones included until they are swept."},
	{"/memory/classes/total:bytes", "go_memstats_sys_bytes", "gauge", "Bytes of memory that Go has mapped; the key's are not among them."},
	{"/gc/cycles/total:gc-cycles", "go_gc_cycles_total", "counter", "Garbage collections."},
}

// writeProcess writes what a process can read of itself in the sandbox: nothing from /proc, so neither its resident
// memory nor its descriptors.
func (m *Metrics) writeProcess(p *page) {
	p.single("process_start_time_seconds", "gauge", "When the process started, since 1970.", float64(m.began.UnixMilli())/1e3)
	if used := cpuTime(); used > 0 {
		p.single("process_cpu_seconds_total", "counter", "Time that the process has spent on all processors.", used.Seconds())
	}
	for _, n := range numbers {
		read := []metrics.Sample{{Name: n.source}}
		metrics.Read(read)
		p.single(n.name, n.kind, n.help, float64(read[0].Value.Uint64()))
	}
}

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

// page is the body of a response to a scrape, in the text format 0.0.4:
// https://prometheus.io/docs/instrumenting/exposition_formats/
type page struct {
	text []byte
	name string // of the family
}

// escapeLabel keeps a text on its line and between its quotation marks. Prometheus takes only UTF-8.
var escapeLabel = strings.NewReplacer("\\", `\\`, "\n", `\n`, `"`, `\"`)

// family begins a family; its samples must follow. kind is "counter", "gauge" or "histogram", and help a constant line.
func (p *page) family(name, kind, help string) {
	p.name = name
	p.text = fmt.Appendf(p.text, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// single writes a family of one sample.
func (p *page) single(name, kind, help string, n float64) {
	p.family(name, kind, help)
	p.sample("", n)
}

// sample writes a sample of the family. suffix is for those of a histogram, and labels are pairs of name and value.
func (p *page) sample(suffix string, n float64, labels ...string) {
	p.text = append(p.text, p.name+suffix...)
	for i := 0; i < len(labels); i += 2 {
		p.text = fmt.Appendf(p.text, `%c%s="%s"`, "{,"[min(i, 1)], labels[i], escapeLabel.Replace(strings.ToValidUTF8(labels[i+1], "\uFFFD")))
	}
	if len(labels) > 0 {
		p.text = append(p.text, '}')
	}
	p.text = append(p.text, " "+float(n)+"\n"...)
}

// float writes a number as Prometheus reads it, +Inf and NaN included.
func float(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }
