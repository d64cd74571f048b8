package policy

import (
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/budget"
	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
)

// head parses a request's head.
func head(t *testing.T, fields ...string) *http1.Request {
	t.Helper()
	var r http1.Request
	if err := r.Parse([]byte("POST /v1/responses HTTP/1.0\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n")); err != nil {
		t.Fatal(err)
	}
	return &r
}

func TestOrigin(t *testing.T) {
	o := NewOrigin(8080, []string{"proxy.internal", "other:9"})
	allow := func(fields ...string) {
		t.Helper()
		if d := o.check(head(t, fields...), false); d != nil {
			t.Errorf("%q: %s", fields, d.Message)
		}
	}
	deny := func(code Code, fields ...string) {
		t.Helper()
		if d := o.check(head(t, fields...), false); d == nil || d.Code != code {
			t.Errorf("%q: %v, want %s", fields, d, code)
		}
	}
	for _, host := range []string{"127.0.0.1:8080", "localhost:8080", "LocalHost:8080", "[::1]:8080", "127.8.8.8:8080", "proxy.internal", "proxy.internal:8080", "other:9"} {
		allow("Host: " + host)
	}
	allow("Host: 127.0.0.1:8080", "Sec-Fetch-Mode: cors", "User-Agent: node", "Accept-Language: *") // Node's fetch
	for _, host := range []string{"", "127.0.0.1", "localhost", "127.0.0.1:80", "127.0.0.1:8081", "evil.example", "evil.example:8080", "localhost.evil.example:8080",
		"127.0.0.1.evil.example:8080", "10.0.0.1:8080", "0.0.0.0:8080", "other", "[::ffff:8.8.8.8]:8080", "127.0.0.1:8080:8080", "2130706433:8080",
		"[127.0.0.1]:8080", "[localhost]:8080", "::1:8080", "[::1%25lo]:8080", "localhost.:8080", "rebind.localhost:8080"} {
		deny(HostNotAllowed, "Host: "+host)
	}
	deny(HostNotAllowed)
	for _, field := range []string{"Origin: https://evil.example", "origin: null", "Referer: http://127.0.0.1:8080/", "Sec-Fetch-Site: same-origin", "SEC-FETCH-SITE: none"} {
		deny(BrowserNotAllowed, "Host: 127.0.0.1:8080", field)
	}
	for _, host := range []string{"127.0.0.1:8080", "localhost:8080", "LocalHost:8080", "[::1]:8080"} {
		if d := o.check(head(t, "Host: "+host), true); d != nil {
			t.Errorf("stopping, %s: %s", host, d.Message)
		}
	}
	for _, host := range []string{"proxy.internal", "proxy.internal:8080", "other:9", "evil.example:8080", ""} {
		if d := o.check(head(t, "Host: "+host), true); codeOf(d) != HostNotAllowed {
			t.Errorf("stopping, %s: %v", host, d)
		}
	}
	port80 := NewOrigin(80, nil)
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "localhost:80", "127.0.0.1:80"} {
		if d := port80.check(head(t, "Host: "+host), false); d != nil {
			t.Errorf("port 80, %s: %s", host, d.Message)
		}
	}
}

// newGate is a gate that does not ask the kernel.
func newGate(cfg Config) *Policy { return &Policy{cfg: cfg, counts: newCounters(cfg.Limits)} }

func (g *Policy) visitor(uid uint32) *Visitor {
	return &Visitor{gate: g, who: Caller{UID: uid, Known: true, TCP: true}, place: g.counts.connect(uid, g.cfg.Limits.MaxConnectionsPerUser)}
}

func TestUsers(t *testing.T) {
	var u Users
	for _, who := range []string{"nobody", "0", "self", "4294967294"} {
		if err := u.AddUser(who); err != nil {
			t.Errorf("%s: %v", who, err)
		}
	}
	for _, who := range []string{"", "nosuchuser", "-1", "4294967295", "4294967296", "1e3"} {
		if err := u.AddUser(who); err == nil {
			t.Errorf("%q was accepted", who)
		}
	}
	known := func(uid uint32, groups ...uint32) Caller { return Caller{UID: uid, Known: true, Groups: groups} }
	if !u.admits(known(65534)) || !u.admits(known(0)) || !u.admits(known(uint32(os.Geteuid()))) {
		t.Error("a named user is not admitted")
	}
	if u.admits(known(1)) || u.admits(Caller{UID: 0}) || u.admits(Caller{}) {
		t.Error("somebody who was not named, or is not known, is admitted")
	}
	var g Users
	if err := g.AddGroup("daemon"); err != nil {
		t.Fatal(err)
	}
	if !g.admits(known(1)) { // daemon's first group
		t.Error("a user whose first group was named is not admitted")
	}
	if !g.admits(known(77, 5, 1)) || g.admits(known(77, 5)) || g.admits(Caller{UID: 77, Groups: []uint32{1}}) {
		t.Error("the groups of the connection do not count as they should")
	}
	if err := g.AddGroup("nosuchgroup"); err == nil {
		t.Error("a group that does not exist was accepted")
	}
}

func TestVisit(t *testing.T) {
	var users, stoppers Users
	users.AddUser("1000")
	users.AddUser("1001")
	stoppers.AddUser("1001")
	g := newGate(Config{Users: users, ShutdownUsers: stoppers, Origin: NewOrigin(8080, nil)})
	ok := head(t, "Host: 127.0.0.1:8080")
	visit := func(want Code, who Caller, h *http1.Request, stopping bool) {
		t.Helper()
		d := (&Visitor{gate: g, who: who}).Visit(h, stopping)
		if got := codeOf(d); got != want {
			t.Errorf("%+v, stopping %v: %q, want %q", who, stopping, got, want)
		}
	}
	visit("", Caller{UID: 1000, Known: true, TCP: true}, ok, false)
	visit(UserNotAllowed, Caller{UID: 1000, Known: true, TCP: true}, ok, true)
	visit("", Caller{UID: 1001, Known: true, TCP: true}, ok, true)
	visit(UserNotAllowed, Caller{UID: 0, Known: true, TCP: true}, ok, false)
	visit(UserNotAllowed, Caller{UID: 1000, Known: false, TCP: true}, ok, false)
	visit(HostNotAllowed, Caller{UID: 1000, Known: true, TCP: true}, head(t, "Host: evil.example"), false)
	visit("", Caller{UID: 1000, Known: true}, head(t, "Host: whatever"), false) // a unix socket
	visit(UserNotAllowed, Caller{UID: 1, Known: true}, head(t), false)
	if d := (&Visitor{gate: g, who: Caller{UID: 4711, Known: true}}).Visit(ok, false); !strings.Contains(d.Message, "4711") || !strings.Contains(d.Message, "--allow-user 4711") {
		t.Errorf("the message does not help: %s", d.Message)
	}
	if d := (*Visitor)(nil).Visit(head(t), true); d != nil {
		t.Error("a nil visitor is refused")
	}
}

func codeOf(d *Denial) Code {
	if d == nil {
		return ""
	}
	return d.Code
}

func TestConcurrency(t *testing.T) {
	g := newGate(Config{Limits: Limits{MaxConcurrent: 3, MaxConcurrentPerUser: 2, MaxConnectionsPerUser: 2}})
	a, b := g.visitor(1), g.visitor(2)
	begin := func(v *Visitor, want Code) *Lease {
		t.Helper()
		l, d := v.Begin(head(t), true)
		if codeOf(d) != want || d != nil && d.RetryAfter < 1 || (l == nil) == (d == nil) {
			t.Errorf("uid %d: %+v, want %q", v.who.UID, d, want)
		}
		return l
	}
	first, second := begin(a, ""), begin(a, "")
	begin(a, TooManyRequests) // per user
	other := begin(b, "")
	begin(b, TooManyRequests) // in all
	first.Settle(0)
	last := begin(b, "")
	for _, l := range []*Lease{second, other, last} {
		l.Settle(0)
	}
	if n := g.counts.running; n != 0 {
		t.Errorf("%d requests run that have ended", n)
	}
	g.visitor(1)
	if p := g.visitor(1).place; p != nowhere {
		t.Error("a third connection of one user was admitted")
	}
	if p := g.visitor(2).place; p != amongAdmitted {
		t.Error("another user's was not")
	}
}

func TestCountersForget(t *testing.T) {
	g := newGate(Config{Limits: Limits{MaxConnectionsPerUser: 2}})
	for uid := range uint32(1000) {
		v := g.visitor(uid)
		refused := &Visitor{gate: g, who: v.who}
		refused.refuse(&Denial{})
		v.Leave()
		refused.Leave()
	}
	if n := len(g.counts.users); n != 0 {
		t.Errorf("%d users are remembered who have left", n)
	}
}

// TestCountersForgetUnderRate: what a user has spent of the rate is remembered
// until it would be there again, and no longer.
func TestCountersForgetUnderRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(Config{Limits: Limits{Rate: 0.5, Burst: 4}})
		remembered := func() int {
			synctest.Wait()
			g.counts.mu.Lock()
			defer g.counts.mu.Unlock()
			return len(g.counts.users)
		}
		// spend opens n connections one after the other and sends a request on each.
		spend := func(uid uint32, n int) (last *Denial) {
			for range n {
				v := g.visitor(uid)
				l, d := v.Begin(head(t), true)
				l.Settle(0)
				v.Leave()
				last = d
			}
			return last
		}
		for uid := range uint32(1000) {
			if d := spend(uid, 4); d != nil {
				t.Fatalf("uid %d: %+v", uid, d)
			}
		}
		stays := g.visitor(1)
		<-time.After(8*time.Second - 1)
		if n := remembered(); n != 1000 {
			t.Errorf("%d users are remembered whose bucket is not full, want 1000", n)
		}
		spend(2, 2)
		<-time.After(1)
		if n := remembered(); n != 2 {
			t.Errorf("%d users are remembered, want the one who is connected and the one who has come again", n)
		}
		if d := spend(2, 3); codeOf(d) != RateLimited {
			t.Errorf("the user who has come again: %+v, want %s: 2 of the burst of 4 were spent", d, RateLimited)
		}
		stays.Leave()
		if n := remembered(); n != 1 {
			t.Errorf("%d users are remembered, want 1", n)
		}
		<-time.After(8 * time.Second)
		if n := remembered(); n != 0 {
			t.Errorf("%d users are remembered who have left", n)
		}
	})
}

// TestTinyRate: a rate that yields nothing in the life of a proxy still limits.
func TestTinyRate(t *testing.T) {
	g := newGate(Config{Limits: Limits{Rate: 1e-300, Burst: 1}})
	v := g.visitor(1)
	for i, want := range []Code{"", RateLimited, RateLimited} {
		l, d := v.Begin(head(t), true)
		l.Settle(0)
		if codeOf(d) != want || d != nil && d.RetryAfter <= 0 {
			t.Errorf("request %d: %+v, want %q", i, d, want)
		}
	}
}

func TestMaxRequests(t *testing.T) {
	ended := 0
	g := newGate(Config{Limits: Limits{MaxRequests: 2}, Expired: func() { ended++ }})
	v := g.visitor(1)
	first, _ := v.Begin(head(t), true)
	second, _ := v.Begin(head(t), true)
	if _, d := v.Begin(head(t), true); codeOf(d) != Expired {
		t.Errorf("the third request: %+v", d)
	}
	first.Release()
	first.Release() // and no other request's place
	first.Settle(0)
	if ended != 0 {
		t.Error("it ends while a request runs")
	}
	second.Settle(0)
	if ended != 1 {
		t.Errorf("it ended %d times", ended)
	}
}

func TestExpireAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		g, err := New(Config{Limits: Limits{ExpireAfter: time.Hour}, Expired: func() { close(ended) }})
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		v := g.visitor(1)
		l, d := v.Begin(head(t), true)
		if d != nil {
			t.Fatal(d)
		}
		<-time.After(time.Hour)
		synctest.Wait()
		if _, d := v.Begin(head(t), true); codeOf(d) != Expired {
			t.Errorf("after its time: %+v", d)
		}
		select {
		case <-ended:
			t.Error("it ends while a request runs")
		default:
		}
		l.Settle(0)
		<-ended
	})
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(Config{Limits: Limits{Rate: 2, Burst: 4}})
		begin := func(uid uint32) *Denial {
			v := g.visitor(uid)
			l, d := v.Begin(head(t), true)
			l.Settle(0)
			v.Leave()
			return d
		}
		for range 4 {
			if d := begin(1); d != nil {
				t.Fatalf("within the burst: %+v", d)
			}
		}
		if d := begin(1); codeOf(d) != RateLimited || d.RetryAfter != 1 {
			t.Errorf("beyond the burst: %+v", d)
		}
		if d := begin(2); d != nil {
			t.Errorf("another user: %+v", d)
		}
		<-time.After(time.Second)
		begin(1)
		begin(1)
		if d := begin(1); d == nil {
			t.Error("more than the rate was admitted")
		}
		<-time.After(time.Hour)
		admitted := 0
		for begin(1) == nil {
			admitted++
		}
		if admitted != 4 {
			t.Errorf("%d at once after an hour, want the burst of 4", admitted)
		}
	})
}

// TestBudgetAndBody: what a request may not cost, it may not begin, and what it
// does not come to is given back.
func TestBudgetAndBody(t *testing.T) {
	b, err := budget.Open(budget.Config{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	g := newGate(Config{Budget: b, Limits: Limits{MaxBody: 10, MaxConcurrent: 5}})
	v := g.visitor(1)
	begin := func(want Code, spends bool) *Lease {
		t.Helper()
		l, d := v.Begin(head(t, "Content-Length: 5"), spends)
		if codeOf(d) != want {
			t.Errorf("spends %t: %+v, want %q", spends, d, want)
		}
		return l
	}
	if _, d := v.Begin(head(t, "Content-Length: 11"), true); codeOf(d) != BodyTooLarge {
		t.Errorf("%+v", d)
	}
	var running []*Lease
	for range 4 { // a quarter of the budget is reserved for each
		running = append(running, begin("", true))
	}
	if _, d := v.Begin(head(t), true); codeOf(d) != TooManyRequests || d.RetryAfter != 1 {
		t.Errorf("%+v", d)
	}
	if l := begin("", false); l.Deposit() != 0 {
		t.Errorf("a request that costs nothing has a deposit of %d", l.Deposit())
	}
	begin(TooManyRequests, true) // for two reasons; it must leave no deposit behind
	for _, l := range running {
		if l.Deposit() != 250 {
			t.Errorf("a deposit of %d", l.Deposit())
		}
		l.Settle(100)
	}
	begin("", true).Settle(834)
	_, d := v.Begin(head(t), true)
	if codeOf(d) != BudgetExhausted || d.RetryAfter != 0 || !strings.Contains(d.Message, "1234") {
		t.Errorf("%+v", d)
	}
	begin("", false).Settle(-235) // it turns out that something cost less
	if l := begin("", true); g.counts.running != 2 {
		t.Errorf("%d requests run, %+v", g.counts.running, l)
	}
}

// TestRefusedAreFew: of the refused connections of one user few are sent the
// reason, each of which counts for a second, however soon it ends. The others
// are silent, and another user's are not.
func TestRefusedAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(Config{})
		refused := func(who Caller) (*Visitor, bool) {
			v := &Visitor{gate: g, who: who, since: time.Now()}
			return v, !v.refuse(deny(TooManyConnections, 1, "")).Silent
		}
		for _, who := range []Caller{{UID: 1, Known: true}, {}} {
			var told []*Visitor
			for i := range 3 * maxRefused {
				v, ok := refused(who)
				if ok != (i < maxRefused) {
					t.Errorf("%+v, refused connection %d: told %v", who, i, ok)
				}
				told = append(told, v)
			}
			for _, v := range told {
				v.Leave()
			}
			if v, ok := refused(who); ok {
				t.Errorf("%+v: a refused connection made room before its second was over", who)
				v.Leave()
			}
			if v, ok := refused(Caller{UID: 0, Known: true}); !ok {
				t.Errorf("%+v keeps another user, root, from the reason", who)
			} else {
				v.Leave()
			}
			time.Sleep(refusedFor + 1)
			synctest.Wait()
			v, ok := refused(who)
			if !ok {
				t.Errorf("%+v: no room after a second", who)
			}
			time.Sleep(refusedFor + 1)
			v.Leave() // late, and so at once
		}
		if n := len(g.counts.users); n != 0 {
			t.Errorf("%d users are remembered who have left", n)
		}
	})
}
