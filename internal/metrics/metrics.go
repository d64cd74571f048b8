// Package metrics counts what the proxy does, and tells those on this host who
// ask: as text for Prometheus, and as one word on whether it is well.
//
// The text is written here rather than by prometheus/client_golang, which would
// bring protobuf and six more modules into the process that holds the key. No
// label is chosen by a client: whatever is not in a set that was closed at start
// counts as "other".
package metrics

import (
	"bytes"
	"fmt"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/audit"
)

// Config says what there is to count besides requests, and what never changes.
type Config struct {
	// Version, Revision and GoVersion are of the program; "" is shown as such.
	Version, Revision, GoVersion string

	// Protections are what package sandbox and others have put in force.
	Protections []Protection

	// Routes and Codes are the closed sets of audit.Entry's Route and Code. Each
	// has a series from the start. A request with another counts as "other",
	// one with no route as "none".
	Routes, Codes []string

	// Values are what others count; see the names below.
	Values []Value
}

// Protection is one line of defence.
type Protection struct {
	// Name and State are as in the start line "protections: ...".
	Name, State string
	// Missing tells that it, or a part of it, is not in force.
	Missing bool
}

// Value is one number that others count.
type Value struct {
	// Name is required, without the prefix responses_api_proxy_. A counter's
	// ends in _total. Several values may share one, and then Help and Counter,
	// if each has its own LabelValue under the same Label.
	Name string
	// Help is one sentence; required.
	Help string
	// Counter tells that the number never falls.
	Counter bool
	// Label and LabelValue are optional.
	Label, LabelValue string
	// Read returns the number; required. It is called by every scrape, from any
	// goroutine, and must not block.
	Read func() float64
}

// Names of values, as contrib's dashboard and alerts expect them.
const (
	Connections    = "client_connections"         // a gauge
	AcceptFailures = "accept_failures_total"      // clients' connections that could not be taken
	Resets         = "connections_reset_total"    // clients' connections that were too many, of one user or of all
	LookupFailures = "lookup_failures_total"      // the kernel did not say who calls
	UpstreamDials  = "upstream_dials_total"       // by result: connected, unreachable, tls_failed, timeout, given_up
	AuditLost      = "audit_lost_lines_total"     // if there is an audit log
	AuditFailures  = "audit_write_failures_total" // so
	LogLost        = "log_lost_lines_total"       // of the error log
	LogFailures    = "log_write_failures_total"
)

// Metrics holds the counts. Its methods may be called from any goroutine.
type Metrics struct {
	cfg     Config
	began   time.Time
	routes  set
	codes   set
	foreign []family // of cfg.Values

	inFlight            atomic.Int64
	requests            [][len(classes)]atomic.Uint64 // by route and class
	refusals            []atomic.Uint64               // by code
	firstByte, duration histogram
	bytesIn, bytesOut   atomic.Uint64
	input, output       atomic.Uint64 // tokens
	fresh, reused       atomic.Uint64 // requests by the upstream connection that they needed
}

// family is what one HELP and one TYPE stand for.
type family []Value

// New takes the present as the start of the process. It panics over a Config
// that is a bug: a name that Prometheus does not take, or one that is used for
// two things.
func New(cfg Config) *Metrics {
	m := &Metrics{
		cfg:     cfg,
		began:   time.Now(),
		routes:  newSet(append([]string{"none"}, cfg.Routes...)),
		codes:   newSet(cfg.Codes),
		foreign: group(cfg.Values),
	}
	m.requests = make([][len(classes)]atomic.Uint64, len(m.routes.names))
	m.refusals = make([]atomic.Uint64, len(m.codes.names))
	m.checkNames()
	return m
}

// Begin counts a request as in flight. Exactly one call of End must follow.
func (m *Metrics) Begin() { m.inFlight.Add(1) }

// maxTokens is more than any answer can have cost. The number is the upstream's,
// and a few wrong ones must not take the sum round.
const maxTokens = 1 << 40

// End counts what the request, or refusal, for which Begin was called came to.
// It does not keep e, and neither blocks nor allocates.
func (m *Metrics) End(e *audit.Entry) {
	m.inFlight.Add(-1)
	route := 0 // "none"
	if e.Route != "" {
		route = m.routes.at(e.Route)
	}
	m.requests[route][classOf(e.Status)].Add(1)
	if e.Code != "" {
		m.refusals[m.codes.at(e.Code)].Add(1)
	}
	add(&m.bytesIn, e.BytesIn)
	add(&m.bytesOut, e.BytesOut)
	if e.Tokens {
		add(&m.input, min(e.InputTokens, maxTokens))
		add(&m.output, min(e.OutputTokens, maxTokens))
	}
	if e.Upstream {
		m.endUpstream(e)
	}
}

// endUpstream counts what went to the upstream. Only that is timed: what the
// proxy refuses itself takes microseconds, and would hide how long the rest took.
func (m *Metrics) endUpstream(e *audit.Entry) {
	if e.Reused {
		m.reused.Add(1)
	} else {
		m.fresh.Add(1)
	}
	m.duration.observe(e.Duration)
	if e.FirstByte > 0 {
		m.firstByte.observe(e.FirstByte)
	}
}

// add passes over what would make a counter fall, and spares what would not
// change it a write to memory that all goroutines share.
func add(counter *atomic.Uint64, n int64) {
	if n > 0 {
		counter.Add(uint64(n))
	}
}

// classes are the statuses' classes. There is no 1xx, for those are no answers.
var classes = [...]string{"none", "2xx", "3xx", "4xx", "5xx", other}

// classOf returns the place in classes of a status.
func classOf(status int) int {
	switch {
	case status == 0:
		return 0
	case status >= 200 && status <= 599:
		return status/100 - 1
	}
	return len(classes) - 1
}

// set is a closed set of names, the last of which is "other".
type set struct {
	names []string
	index map[string]int
}

const other = "other"

func newSet(names []string) set {
	s := set{index: map[string]int{}}
	for _, name := range names {
		if _, twice := s.index[name]; !twice && name != other {
			s.index[name] = len(s.names)
			s.names = append(s.names, name)
		}
	}
	s.names = append(s.names, other)
	return s
}

func (s *set) at(name string) int {
	if i, ok := s.index[name]; ok {
		return i
	}
	return len(s.names) - 1
}

// group puts values with the same name together, in the order in which the
// names come.
func group(values []Value) []family {
	var all []family
	place := map[string]int{}
	for _, v := range values {
		i, known := place[v.Name]
		if !known {
			i = len(all)
			place[v.Name] = i
			all = append(all, nil)
		}
		all[i] = append(all[i], v)
	}
	return all
}

var (
	validName  = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	validLabel = regexp.MustCompile(`^([a-z][a-z0-9_]*)?$`) // or none
)

// checkNames panics over names that the scrape would be refused for.
func (m *Metrics) checkNames() {
	var p page
	m.writeOwn(&p)
	for _, f := range m.foreign {
		if bytes.Contains(p.text, []byte("\n# TYPE "+prefix+f[0].Name+" ")) {
			panic(fmt.Sprintf("metrics: bug: the name %q is taken", f[0].Name))
		}
		f.check()
	}
}

func (f family) check() {
	seen := map[string]bool{}
	for _, v := range f {
		switch {
		case !validName.MatchString(v.Name) || !validLabel.MatchString(v.Label) || (v.Label == "") != (v.LabelValue == "") || v.Help == "" || v.Read == nil:
			panic(fmt.Sprintf("metrics: bug: the value %q has a bad name, label, help or no Read", v.Name))
		case v.Help != f[0].Help || v.Counter != f[0].Counter || v.Label != f[0].Label || seen[v.LabelValue]:
			panic(fmt.Sprintf("metrics: bug: two values are called %q and cannot be told apart, or do not belong together", v.Name))
		}
		seen[v.LabelValue] = true
	}
}
