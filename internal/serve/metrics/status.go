package metrics

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/audit"
)

// Status is the document /status.json, which the page / and the subcommand status show.
type Status struct {
	Version     string       `json:"version"`
	Revision    string       `json:"revision"`
	State       string       `json:"state"` // "serving", or why it does not take requests
	Started     time.Time    `json:"started"`
	Time        time.Time    `json:"time"`
	Connections int64        `json:"connections"`
	Running     int64        `json:"requests_running"`
	Limits      Limits       `json:"limits"`
	Users       []User       `json:"users"` // by their numbers, Others last
	Protections []Protection `json:"protections"`
	Errors      []Failure    `json:"errors"` // the latest first
}

// Limits are the limits of the whole and what has been used of them. Zero means that there is no limit.
type Limits struct {
	Admitted    int64     `json:"requests_admitted"`
	MaxRequests int64     `json:"max_requests,omitempty"`
	Expires     time.Time `json:"expires,omitzero"`
	// MaxTokens is the budget of each user, and Since and Resets are when its period begins and ends.
	MaxTokens int64     `json:"max_tokens_per_user,omitempty"`
	Since     time.Time `json:"budget_since,omitzero"`
	Resets    time.Time `json:"budget_resets,omitzero"`
	// Spent is what each user has spent of MaxTokens.
	Spent map[uint32]int64 `json:"-"`
}

// User is what the requests of one user came to. Under a budget, what was spent includes what responses did not report.
type User struct {
	UID      int64 `json:"uid"` // or Others
	Requests int64 `json:"requests"`
	Failed   int64 `json:"failed"` // of them: with an error code, or a status of 400 or more
	Input    int64 `json:"input_tokens"`
	Output   int64 `json:"output_tokens"`
	Spent    int64 `json:"budget_spent,omitempty"`
}

// Others stands for callers that the kernel has not identified, for users whose requests were never for the upstream,
// and for those beyond maxUsers, itself included: a process can act as any number of users (/etc/subuid).
const (
	Others   = -1
	maxUsers = 1000
)

// Failure is how often an error has occurred, and its last occurrence. Since it is kept for each code, a client that
// causes one error again and again hides no other.
type Failure struct {
	Code  string    `json:"code"`
	Count int64     `json:"count"`
	Last  time.Time `json:"last"`
	UID   int64     `json:"uid"` // or Others
}

// note adds e to its user and its code. m.mu must be held.
func (m *Metrics) note(e *audit.Entry) {
	uid := int64(Others)
	if e.Caller.Known {
		uid = int64(e.Caller.UID)
	}
	u := m.users[uid]
	if u == nil && (!e.Upstream || len(m.users) >= maxUsers) {
		u = m.users[Others]
	} else if u == nil {
		u = &User{UID: uid}
		m.users[uid] = u
	}
	u.Requests++
	if e.Tokens {
		u.Input += max(0, min(e.InputTokens, maxTokens))
		u.Output += max(0, min(e.OutputTokens, maxTokens))
	}
	if e.Code != "" || e.Status >= 400 { // which the upstream may have sent
		u.Failed++
	}
	if e.Code != "" {
		f := m.failures.of(e.Code)
		f.Count, f.Last, f.UID = f.Count+1, seconds(time.Now()), uid
	}
}

// seconds is t as documents show it.
func seconds(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// Status returns what is known at present.
func (m *Metrics) Status() *Status {
	counts := m.cfg.Counts()
	s := &Status{
		Connections: counts.Connections, Running: counts.Running,
		Version: m.cfg.Version, Revision: m.cfg.Revision, State: "serving", Started: seconds(m.began), Time: seconds(time.Now()),
		Limits: m.cfg.Limits(), Protections: m.cfg.Protections, Errors: []Failure{},
	}
	if err := m.cfg.Ready(); err != nil {
		s.State = err.Error()
	}
	s.Limits.Expires = seconds(s.Limits.Expires)
	users := map[int64]User{}
	m.mu.Lock()
	for uid, u := range m.users {
		if u.Requests > 0 {
			users[uid] = *u
		}
	}
	for code, f := range m.failures {
		if f.Count > 0 {
			s.Errors = append(s.Errors, Failure{code, f.Count, f.Last, f.UID})
		}
	}
	m.mu.Unlock()
	slices.SortFunc(s.Errors, func(a, b Failure) int { return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Code, b.Code)) })
	for _, uid := range slices.Sorted(maps.Keys(s.Limits.Spent)) {
		u, listed := users[int64(uid)]
		if listed || len(users) < maxUsers {
			u.UID, u.Spent = int64(uid), s.Limits.Spent[uid]
			users[u.UID] = u
		}
	}
	s.Users = slices.AppendSeq([]User{}, maps.Values(users)) // not null
	slices.SortFunc(s.Users, func(a, b User) int { return cmp.Compare(uint64(a.UID), uint64(b.UID)) })
	return s
}

// StatusJSON returns the status as JSON.
func (m *Metrics) StatusJSON() []byte {
	text, _ := json.Marshal(m.Status()) // cannot fail: texts, numbers and times
	return append(text, '\n')
}
