package metrics

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/audit"
)

// end counts an exchange of a user.
func (m *Metrics) end(uid uint32, known bool, e audit.Entry) {
	e.Caller = audit.Caller{UID: uid, Known: known}
	m.End(&e)
}

// decoded returns the status as a client of /status.json reads it.
func decoded(t *testing.T, m *Metrics) (s Status) {
	t.Helper()
	if err := json.Unmarshal(m.StatusJSON(), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *Status) user(uid int64) User {
	for _, u := range s.Users {
		if u.UID == uid {
			return u
		}
	}
	return User{}
}

func TestStatus(t *testing.T) {
	cfg := example()
	cfg.Counts = func() Counts { return Counts{Connections: 7, Running: 1} }
	resets := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	cfg.Limits = func() Limits {
		return Limits{Admitted: 3, MaxRequests: 10, Expires: resets, MaxTokens: 100, Resets: resets, Spent: map[uint32]int64{1000: 70, 4711: 130}}
	}
	m := New(cfg)
	m.end(1000, true, *success())
	m.end(1000, true, *success())
	m.end(1000, true, audit.Entry{Status: 429, Code: "rate_limited"})
	m.end(1001, true, audit.Entry{Status: 401, Upstream: true}) // the upstream's response
	m.end(1001, true, audit.Entry{Status: 502, Code: "upstream_unreachable", Upstream: true})
	m.end(1002, true, audit.Entry{Status: 403, Code: "route_not_allowed"}) // not for the upstream
	m.end(0, false, *success())                                            // not root's
	m.end(0, false, audit.Entry{Code: "a code that is none"})
	s := decoded(t, m)
	for uid, want := range map[int64]User{
		1000:   {UID: 1000, Requests: 3, Failed: 1, Input: 60, Output: 80, Spent: 70},
		1001:   {UID: 1001, Requests: 2, Failed: 2},
		4711:   {UID: 4711, Spent: 130},
		Others: {UID: Others, Requests: 3, Failed: 2, Input: 30, Output: 40},
	} {
		if got := s.user(uid); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	if len(s.Users) != 4 || s.Users[3].UID != Others {
		t.Errorf("%d users, the last of them %d", len(s.Users), s.Users[len(s.Users)-1].UID)
	}
	failures := map[string]int64{}
	for _, f := range s.Errors {
		failures[f.Code] = f.UID
		if f.Count != 1 || time.Since(f.Last) > long {
			t.Errorf("%+v", f)
		}
	}
	if len(failures) != 4 || failures["rate_limited"] != 1000 || failures["upstream_unreachable"] != 1001 || failures[other] != Others {
		t.Errorf("%v", failures)
	}
	if s.Version != "1.2.3" || s.State != "serving" || s.Running != 1 || s.Connections != 7 || s.Started.After(s.Time) ||
		s.Limits.MaxRequests != 10 || !s.Limits.Resets.Equal(resets) || len(s.Protections) != 2 || !s.Protections[1].Missing {
		t.Errorf("%+v", s)
	}
	text := s.Text(func(uid int64) string { return "user " + number(uid) })
	for _, want := range []string{
		"\n  user 1000  70            30    3         1       60            80\n",
		"\n  user 4711  130           0     0  ", "\n  others                         3  ",
		"\n  requests left    7 of 10\n", "\n  expires          2026-12-01 00:00:00Z, ", "\n  tokens per user  100\n", "\n  budget resets    2026-12-01 00:00:00Z, ", "\n  rate_limited          1      user 1000  20",
		"\n  landlock       abi3 (no rules for TCP: \"kernel\\6.1\"?) (missing)\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	page := string(m.StatusPage())
	for _, want := range []string{
		"\n  1000    70            30    3         1       60            80\n", "\n  landlock       abi3 (no rules for TCP: &#34;kernel\\6.1&#34;?)<b> (missing)</b>\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
}

// TestWhen: a time is shown with its distance from that of the status, in days if that is long.
func TestWhen(t *testing.T) {
	now := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	s := &Status{Time: now}
	for d, want := range map[time.Duration]string{
		0:                     "2026-12-01 00:00:00Z, 0s ago",
		-72 * time.Hour:       "2026-11-28 00:00:00Z, 3 days ago",
		72*time.Hour - 1:      "2026-12-03 23:59:59Z, in 72h0m0s",
		100 * time.Hour:       "2026-12-05 04:00:00Z, in 4 days",
		-90 * time.Second / 4: "2026-11-30 23:59:37Z, 23s ago",
	} {
		if got := s.when(now.Add(d)); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

// TestNoUsersYet: a list without entries is an array.
func TestNoUsersYet(t *testing.T) {
	if text := string(New(example()).StatusJSON()); !strings.Contains(text, `"users":[]`) || !strings.Contains(text, `"errors":[]`) {
		t.Error(text)
	}
}

// TestManyUsers: a process that is many users fills the table, and no more memory. One user's many errors hide no other.
func TestManyUsers(t *testing.T) {
	cfg, spent := example(), map[uint32]int64{}
	cfg.Limits = func() Limits { return Limits{MaxTokens: 10, Spent: spent} }
	m := New(cfg)
	m.end(1, true, audit.Entry{Status: 502, Code: "upstream_unreachable", Upstream: true})
	for uid := range uint32(3 * maxUsers) {
		m.end(uid, true, audit.Entry{Status: 403, Code: "route_not_allowed"})
	}
	if s := decoded(t, m); len(s.Users) != 2 || s.user(Others).Requests != 3*maxUsers-1 || len(s.Errors) != 2 {
		t.Errorf("%d users and %d errors, %+v", len(s.Users), len(s.Errors), s.user(Others))
	}
	for uid := range uint32(3 * maxUsers) {
		m.end(uid, true, *success())
	}
	s := decoded(t, m)
	if len(s.Users) != maxUsers || s.user(Others).Requests != 3*maxUsers-1+2*maxUsers+1 {
		t.Errorf("%d users, %+v", len(s.Users), s.user(Others))
	}
	for uid := range uint32(20 * maxUsers) {
		spent[uid+2] = 5
	}
	if s := decoded(t, m); len(s.Users) != maxUsers || s.user(1).Spent != 0 || s.user(2).Spent != 5 {
		t.Errorf("%d users with a budget, %+v, %+v", len(s.Users), s.user(1), s.user(2))
	}
	if n := len(m.StatusJSON()); n > maxResponse/2 {
		t.Errorf("%d bytes for %d users", n, maxUsers)
	}
}

// TestPageIsEscaped: no text can become a part of the page's structure.
func TestPageIsEscaped(t *testing.T) {
	const evil = `<script>alert("1")</script>&'`
	cfg := example()
	cfg.Version, cfg.Revision, cfg.Codes = evil, evil, []string{evil}
	cfg.Protections = []Protection{{Name: evil, State: evil, Missing: true}}
	cfg.Ready = func() error { return errors.New(evil) }
	m := New(cfg)
	m.end(1, true, audit.Entry{Code: evil})
	page := string(m.StatusPage())
	if strings.Contains(page, "<script") || strings.Count(page, "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;&amp;&#39;") != 6 {
		t.Errorf("%s", page)
	}
	for _, without := range []string{"http://", "https://", "src=", "url(", "<script", "javascript"} {
		if strings.Contains(page, without) {
			t.Errorf("the page has %q", without)
		}
	}
}
