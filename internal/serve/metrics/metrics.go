// Package metrics counts what the proxy does, as text for Prometheus, and fetches that text and the probes from a
// proxy.
//
// The text is written here rather than by prometheus/client_golang, which would bring protobuf and six more modules
// into the process that holds the key. No label is chosen by a client: a value outside of a set that was closed at
// start counts as "other".
package metrics

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/audit"
)

// Config is what is shown besides the requests.
type Config struct {
	// Version, Revision and GoVersion are of the program; "" is shown as such.
	Version, Revision, GoVersion string
	// Protections are those of the start line.
	Protections []Protection
	// Routes and Codes are the closed sets of audit.Entry's Route and Code. Each has a series from the start. A request
	// with another counts as "other", one with no route as "none".
	Routes, Codes []string
	// Counts, Ready and Limits may be called from any goroutine, and must not block. The latter two are for the status
	// alone. Ready returns why a new request would not be taken; nil if it would.
	Counts func() Counts
	Ready  func() error
	Limits func() Limits
}

// Protection is one line of defence.
type Protection struct {
	// Name and State are as in the start line "protections: ...".
	Name  string `json:"name"`
	State string `json:"state"`
	// Missing reports that it, or a part of it, is not in force.
	Missing bool `json:"missing"`
}

// Counts are the numbers that other packages count. All but Connections and Running never fall.
type Counts struct {
	Connections    int64 // of clients that are open
	Running        int64 // requests and refusals that have begun and not ended
	AcceptFailures int64 // connections that could not be accepted
	Resets         int64 // connections that were too many, of one user or of all
	LookupFailures int64 // connections whose owner is unknown
	Dials          Dials
	Log            Lines
	Audit          *Lines // nil without an audit log, which then has no series
}

// Lines are the lines of a log that were lost, and the attempts to write some that failed.
type Lines struct{ Lost, Failures int64 }

// Dials are connections to the upstream that were begun, by their result.
type Dials struct{ Connected, Unreachable, TLSFailed, Timeouts, GivenUp int64 }

// Metrics holds the counts. Its methods may be called from any goroutine.
type Metrics struct {
	cfg   Config
	began time.Time

	mu                  sync.Mutex             // guards all that follows
	users               map[int64]*User        // with Others
	failures            set[Failure]           // by code
	requests            set[[len(classes)]int] // by route and class
	firstByte, duration histogram
	bytesIn, bytesOut   int64
	fresh, reused       int // requests by the upstream connection that they needed
}

// New takes the present as the start of the process.
func New(cfg Config) *Metrics {
	return &Metrics{
		cfg: cfg, began: time.Now(), users: map[int64]*User{Others: {UID: Others}}, failures: newSet[Failure](cfg.Codes),
		requests: newSet[[len(classes)]int](append([]string{none}, cfg.Routes...)),
	}
}

// maxTokens is more than any response can have cost. The number is the upstream's, and a few wrong ones must not make
// the sum overflow.
const maxTokens = 1 << 40

// End counts a request or refusal that has ended. It does not keep e, waits for a scrape at most, and allocates only
// for what occurs for the first time.
func (m *Metrics) End(e *audit.Entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note(e)
	m.requests.of(cmp.Or(e.Route, none))[classOf(e.Status)]++
	m.bytesIn += max(0, e.BytesIn)
	m.bytesOut += max(0, e.BytesOut)
	if !e.Upstream { // what the proxy refuses itself takes microseconds, and would hide the time of the rest
		return
	}
	if e.Reused {
		m.reused++
	} else {
		m.fresh++
	}
	m.duration.observe(e.Duration)
	if e.FirstByte > 0 {
		m.firstByte.observe(e.FirstByte)
	}
}

// classes are the statuses' classes. There is no 1xx: those are no responses.
var classes = [...]string{none, "2xx", "3xx", "4xx", "5xx", other}

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

const none, other = "none", "other"

// set has the counters of a closed set of names, of which one is other.
type set[T any] map[string]*T

func newSet[T any](names []string) set[T] {
	s := set[T]{other: new(T)}
	for _, name := range names {
		s[name] = new(T)
	}
	return s
}

// of returns the counter of name, and other's if name is not of the set.
func (s set[T]) of(name string) *T { return cmp.Or(s[name], s[other]) }

func (s set[T]) names() []string { return slices.Sorted(maps.Keys(s)) }
