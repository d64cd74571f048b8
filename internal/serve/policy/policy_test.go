package policy

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/budget"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
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

// newPolicy returns a policy that does not identify callers over TCP, and so needs no Close unless it expires.
func newPolicy(cfg Config) *Policy {
	p, err := New(cfg)
	if err != nil {
		panic(err)
	}
	return p
}

func TestOrigin(t *testing.T) {
	o := NewOrigin(8080, []string{"Proxy.Internal", "other:9"})
	allow := func(fields ...string) {
		t.Helper()
		if d := o.check(head(t, fields...), false); d != nil {
			t.Errorf("%q: %s", fields, d.Message)
		}
	}
	deny := func(code apierror.Code, fields ...string) {
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
		deny(apierror.HostNotAllowed, "Host: "+host)
	}
	deny(apierror.HostNotAllowed)
	for _, field := range []string{"Origin: https://evil.example", "origin: null", "Referer: http://127.0.0.1:8080/", "Sec-Fetch-Site: same-origin", "SEC-FETCH-SITE: none"} {
		deny(apierror.BrowserNotAllowed, "Host: 127.0.0.1:8080", field)
	}
	for _, host := range []string{"127.0.0.1:8080", "localhost:8080", "LocalHost:8080", "[::1]:8080"} {
		if d := o.check(head(t, "Host: "+host), true); d != nil {
			t.Errorf("stopping, %s: %s", host, d.Message)
		}
	}
	for _, host := range []string{"proxy.internal", "proxy.internal:8080", "other:9", "evil.example:8080", ""} {
		if d := o.check(head(t, "Host: "+host), true); codeOf(d) != apierror.HostNotAllowed {
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

func (g *Policy) session(uid uint32) *Session {
	return &Session{policy: g, caller: audit.Caller{UID: uid, Known: true}, leave: g.enter(uid, amongAdmitted, 0, 0), since: time.Now()}
}

func TestUsers(t *testing.T) {
	var u Users
	for _, who := range []string{"nobody", "0", "0", "self", "4294967294"} {
		if err := u.Add(who); err != nil {
			t.Errorf("%s: %v", who, err)
		}
	}
	for _, who := range []string{"", "nosuchuser", "-1", "4294967295", "4294967296", "1e3"} {
		if err := u.Add(who); err == nil {
			t.Errorf("%q was accepted", who)
		}
	}
	if ids := slices.Sorted(slices.Values(u.UIDs)); len(slices.Compact(ids)) != len(u.UIDs) {
		t.Errorf("uids %v, want each once", u.UIDs)
	}
	if name, uid, gid, err := LookUp("0"); name != "root" || uid != 0 || gid != 0 || err != nil {
		t.Errorf("user 0: %q, %d, %d, %v", name, uid, gid, err)
	}
	known := func(uid uint32, groups ...uint32) audit.Caller {
		return audit.Caller{UID: uid, Known: true, Groups: groups}
	}
	if !u.admits(known(65534)) || !u.admits(known(0)) || !u.admits(known(uint32(os.Geteuid()))) {
		t.Error("a named user is not admitted")
	}
	if u.admits(known(1)) || u.admits(audit.Caller{UID: 0}) || u.admits(audit.Caller{}) {
		t.Error("somebody who was not named, or is not known, is admitted")
	}
	var g Users
	if err := g.Add("@daemon"); err != nil {
		t.Fatal(err)
	}
	if !g.admits(known(1)) { // daemon's first group
		t.Error("a user whose first group was named is not admitted")
	}
	if g.admits(known(0)) || g.admits(known(77)) {
		t.Error("a user who is not in the group is admitted")
	}
	if !g.admits(known(77, 5, 1)) || g.admits(known(77, 5)) || g.admits(audit.Caller{UID: 77, Groups: []uint32{1}}) {
		t.Error("the groups of the connection do not count as they should")
	}
	if err := g.Add("@nosuchgroup"); err == nil {
		t.Error("a group that does not exist was accepted")
	}
}

// TestGroupWithoutMembers admits no one: only a set without users and groups is empty.
func TestGroupWithoutMembers(t *testing.T) {
	var u Users
	if err := u.Add("@4294967294"); err != nil || u.Empty() || len(u.UIDs) != 0 {
		t.Fatalf("users %+v, empty %t, %v", u, u.Empty(), err)
	}
	s := newPolicy(Config{Users: u}).session(1)
	if _, d := s.Admit(head(t), Spend); codeOf(d) != apierror.UserNotAllowed {
		t.Errorf("%+v, want %s", d, apierror.UserNotAllowed)
	}
}

// TestMembers: members are the users that the group's line names, and those with it as their primary group.
func TestMembers(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	group := file("group", "other:x:51:carl\nci:x:50:anna,ben\n#ci:x:50:dora\nshort:x:50\n")
	passwd := file("passwd", "anna:x:1000:51::/:\nben:x:1001:1001\ncarl:x:1002:51\ndora:x:1003:51\neve:x:1004:50::/:\n"+
		"#eve:x:1005:50\nbad:x:1x:50\nanna:x:1006\n")
	var u Users
	if err := u.addMembers(50, group, passwd); err != nil || !slices.Equal(u.UIDs, []uint32{1000, 1001, 1004}) {
		t.Errorf("members %v, %v", u.UIDs, err)
	}
	missing := filepath.Join(dir, "missing")
	if u.addMembers(50, missing, passwd) == nil || u.addMembers(50, group, missing) == nil {
		t.Error("a file that does not exist was accepted")
	}
}

// TestUnidentified: a user whom the kernel does not identify is denied if anything depends on the user.
func TestUnidentified(t *testing.T) {
	b, err := budget.Open(budget.Config{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	someone := Users{UIDs: []uint32{0}}
	for i, cfg := range []Config{{}, {Owners: true}, {Users: someone}, {ShutdownUsers: someone}, {Budget: b},
		{Limits: Limits{MaxConcurrentPerUser: 1}}, {Limits: Limits{Rate: 1, Burst: 1}}} {
		g := newPolicy(cfg)
		ours, theirs := net.Pipe() // the kernel reports no user for it
		s := g.Connect(ours)
		_, d := s.Admit(head(t), Spend)
		if i > 0 && (codeOf(d) != apierror.UserNotAllowed || g.Unknown.Load() != 1) || i == 0 && (d != nil || g.Unknown.Load() != 0) {
			t.Errorf("%+v: %+v, %d counted", cfg, d, g.Unknown.Load())
		}
		s.Close()
		ours.Close()
		theirs.Close()
	}
}

func TestCheck(t *testing.T) {
	var users, stoppers Users
	users.AddUser("1000")
	users.AddUser("1001")
	stoppers.AddUser("1001")
	g := newPolicy(Config{Users: users, ShutdownUsers: stoppers, Origin: NewOrigin(8080, nil)})
	ok := head(t, "Host: 127.0.0.1:8080")
	visit := func(want apierror.Code, who audit.Caller, h *http1.Request, stopping bool) {
		t.Helper()
		uses := []Use{Nothing, Free, Spend}
		if stopping {
			uses = []Use{Shutdown}
		}
		for _, use := range uses {
			l, d := (&Session{policy: g, caller: who}).Admit(h, use)
			if got := codeOf(d); got != want || (l == nil) == (d == nil) {
				t.Errorf("%+v, use %v: %q, want %q", who, use, got, want)
			}
			if l != nil {
				l.Release(0)
			}
		}
	}
	visit("", audit.Caller{UID: 1000, Known: true}, ok, false)
	visit(apierror.UserNotAllowed, audit.Caller{UID: 1000, Known: true}, ok, true)
	visit("", audit.Caller{UID: 1001, Known: true}, ok, true)
	visit(apierror.UserNotAllowed, audit.Caller{UID: 0, Known: true}, ok, false)
	visit(apierror.UserNotAllowed, audit.Caller{UID: 1000, Known: false}, ok, false)
	visit(apierror.HostNotAllowed, audit.Caller{UID: 1000, Known: true}, head(t, "Host: evil.example"), false)
	visit("", audit.Caller{UID: 1000, Known: true, Unix: true}, head(t, "Host: whatever"), false)
	visit(apierror.UserNotAllowed, audit.Caller{UID: 1, Known: true, Unix: true}, head(t), false)
	if _, d := (&Session{policy: g, caller: audit.Caller{UID: 4711, Known: true}}).Admit(ok, Spend); !strings.Contains(d.Message, "4711") || !strings.Contains(d.Message, "--allow-user 4711") {
		t.Errorf("the message does not help: %s", d.Message)
	}
	for _, overflow := range []bool{false, true} { // where 65534 cannot be named, the message must not advise that
		g.overflow = overflow
		_, d := (&Session{policy: g, caller: audit.Caller{UID: 65534, Known: true}}).Admit(ok, Spend)
		if !strings.Contains(d.Message, "65534") || strings.Contains(d.Message, "--allow-user") == overflow {
			t.Errorf("overflow uid: %v, and the message is %s", overflow, d.Message)
		}
		_, d = (&Session{policy: g, caller: audit.Caller{UID: 4711, Known: true}}).Admit(ok, Spend)
		if !strings.Contains(d.Message, "--allow-user 4711") {
			t.Errorf("another uid: %v, and the message is %s", overflow, d.Message)
		}
	}
}

// TestMissingSessionIsRefused: a missing value never means "allowed".
func TestMissingSessionIsRefused(t *testing.T) {
	for use := Nothing; use <= Spend+1; use++ {
		if l, d := (*Session)(nil).Admit(head(t), use); l != nil || codeOf(d) != apierror.InternalError {
			t.Errorf("use %d without a session: %+v, %+v", use, l, d)
		}
		denied := &Session{policy: newPolicy(Config{}), caller: audit.Caller{UID: 1, Known: true}}
		denied.deny(apierror.New(apierror.TooManyConnections, ""))
		if l, d := denied.Admit(head(t), use); l != nil || codeOf(d) != apierror.TooManyConnections {
			t.Errorf("use %d of a denied session: %+v, %+v", use, l, d)
		}
		denied.Close()
	}
	if !(*Session)(nil).Metered() || newPolicy(Config{}).session(1).Metered() {
		t.Error("want a request metered without a session, and not metered without a budget")
	}
	if who := (*Session)(nil).Caller(); who.Known || who.Unix {
		t.Errorf("without a session the caller is %+v", who)
	}
}

// TestReleasedOnce: a second Release or Close neither frees another's place nor charges anything.
func TestReleasedOnce(t *testing.T) {
	b, err := budget.Open(budget.Config{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	g := newPolicy(Config{Budget: b, Limits: Limits{MaxConcurrent: 2, MaxConnections: 4}})
	v, other := g.session(1), g.session(1)
	if !v.Metered() {
		t.Error("tokens are not counted with a budget")
	}
	first, _ := v.Admit(head(t), Spend)
	second, d := other.Admit(head(t), Spend)
	if d != nil {
		t.Fatal(d)
	}
	first.Detach()
	first.Release(10)
	first.Release(100)
	first.Detach()
	v.Close()
	v.Close()
	if u := g.users[1]; g.counts[amongRunning] != 1 || u.counts[amongRunning] != 1 || u.counts[amongAdmitted] != 1 {
		t.Errorf("%d requests run, %d of the user on %d connections; want one of each", g.counts[amongRunning], u.counts[amongRunning], u.counts[amongAdmitted])
	}
	second.Release(1)
	other.Close()
	if len(g.users) != 0 || g.counts[amongRunning] != 0 {
		t.Errorf("%d users are remembered, %d requests run", len(g.users), g.counts[amongRunning])
	}
	if spent, _ := b.Reserve(1); spent != 11 {
		t.Errorf("%d tokens were charged, want 11", spent)
	}
}

// TestRenew: a part of a request is charged when it ends, and another one is denied where another request would be.
func TestRenew(t *testing.T) {
	b, err := budget.Open(budget.Config{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	g := newPolicy(Config{Budget: b})
	admit := func() *Lease {
		t.Helper()
		l, d := g.session(1).Admit(head(t), Spend)
		if d != nil {
			t.Fatal(d)
		}
		return l
	}
	first, second := admit(), admit()
	if d := first.Renew(10); d != nil {
		t.Error(d)
	}
	if d := first.Renew(65); d == nil || d.Code != apierror.TooManyRequests { // 75 are spent, and 25 reserved
		t.Errorf("denial %+v", d)
	}
	if d := second.Renew(0); d != nil { // first has no deposit any more
		t.Error(d)
	}
	first.Release(1)
	second.Release(4)
	third := admit() // 80 are spent, and 25 reserved
	if d := third.Reserve(); d == nil || d.Code != apierror.TooManyRequests {
		t.Errorf("denial %+v", d)
	}
	if d := third.Renew(20); d == nil || d.Code != apierror.BudgetExhausted {
		t.Errorf("denial %+v", d)
	}
	if third.Deposit() != 25 {
		t.Errorf("the deposit is %d", third.Deposit())
	}
	third.Release(0)
	if spent, _ := b.Reserve(1); spent != 100 || len(g.users) > 1 || g.counts[amongRunning] != 0 {
		t.Errorf("%d tokens are charged, want 100; %d requests run", spent, g.counts[amongRunning])
	}
}

// TestReserve: what a request has reserved for several responses is released as they end, and with the lease.
func TestReserve(t *testing.T) {
	b, err := budget.Open(budget.Config{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	l, d := newPolicy(Config{Budget: b}).session(1).Admit(head(t), Spend)
	if d != nil {
		t.Fatal(d)
	}
	for range 3 {
		if d := l.Reserve(); d != nil {
			t.Error(d)
		}
	}
	if d := l.Reserve(); d == nil || d.Code != apierror.TooManyRequests {
		t.Errorf("a fifth deposit: denial %+v", d)
	}
	if d := l.Renew(1); d != nil {
		t.Error(d)
	}
	if d := l.Reserve(); d != nil {
		t.Error(d)
	}
	l.Release(2)
	for range 4 { // nothing is reserved any more
		if spent, ok := b.Reserve(1); spent != 3 || !ok {
			t.Errorf("%d tokens are charged, another may begin: %t", spent, ok)
		}
	}
}

// TestLeaseOfNothing holds nothing: only Free and Spend run.
func TestLeaseOfNothing(t *testing.T) {
	b, err := budget.Open(budget.Config{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	g := newPolicy(Config{Budget: b, Limits: Limits{MaxConcurrent: 1, MaxRequests: 1}})
	v := g.session(1)
	for _, use := range []Use{Nothing, Shutdown, Spend + 1} {
		l, d := v.Admit(head(t), use)
		if d != nil || l.running.Load() || l.Deposit() != 0 {
			t.Fatalf("use %d: %+v, %+v", use, l, d)
		}
		l.Release(1)
	}
	if g.counts[amongRunning] != 0 || g.Admitted.Load() != 0 {
		t.Errorf("%d run, %d were admitted", g.counts[amongRunning], g.Admitted.Load())
	}
	if spent, _ := b.Reserve(1); spent != 0 {
		t.Errorf("%d tokens were charged", spent)
	}
}

func codeOf(d *apierror.Error) apierror.Code {
	if d == nil {
		return ""
	}
	return d.Code
}

func TestConcurrency(t *testing.T) {
	g := newPolicy(Config{Limits: Limits{MaxConcurrent: 3, MaxConcurrentPerUser: 2, MaxConnections: 5}})
	a, b := g.session(1), g.session(2)
	begin := func(v *Session, want apierror.Code) *Lease {
		t.Helper()
		l, d := v.Admit(head(t), Spend)
		if codeOf(d) != want || d != nil && d.RetryAfter < 1 || (l == nil) == (d == nil) {
			t.Errorf("uid %d: %+v, want %q", v.caller.UID, d, want)
		}
		return l
	}
	first, second := begin(a, ""), begin(a, "")
	begin(a, apierror.TooManyRequests) // per user
	other := begin(b, "")
	begin(b, apierror.TooManyRequests) // in all
	first.Release(0)
	last := begin(b, "")
	for _, l := range []*Lease{second, other, last} {
		l.Release(0)
	}
	if n := g.counts[amongRunning]; n != 0 {
		t.Errorf("%d requests run that have ended", n)
	}
	g.session(1)
	if !g.session(1).Silent() {
		t.Error("a third connection of one user was admitted")
	}
	if g.session(2).Silent() {
		t.Error("another user's was not")
	}
}

// TestConnectionsAreShared checks that each user gets as many connections as are then free, that nothing but the total
// limits the last ones, and that a closed connection is free again.
func TestConnectionsAreShared(t *testing.T) {
	g := newPolicy(Config{Limits: Limits{MaxConnections: 16}})
	fill := func(uid uint32) (open []*Session) {
		for s := g.session(uid); !s.Silent(); s = g.session(uid) {
			open = append(open, s)
		}
		return open
	}
	var first []*Session
	for i, want := range []int{8, 4, 2, 1, 1, 0} {
		open := fill(uint32(i))
		if i == 0 {
			first = open
		}
		if len(open) != want {
			t.Errorf("user %d of those who take all they can get has %d connections, want %d", i, len(open), want)
		}
	}
	for _, s := range first {
		s.Close()
	}
	if got := len(fill(7)); got != 4 {
		t.Errorf("8 are free again: the next user has %d, want 4", got)
	}
}

func TestCountersForget(t *testing.T) {
	g := newPolicy(Config{Limits: Limits{MaxConnections: 4}})
	for uid := range uint32(1000) {
		v := g.session(uid)
		refused := &Session{policy: g, caller: v.caller}
		refused.deny(apierror.New(apierror.TooManyConnections, ""))
		v.Close()
		refused.Close()
	}
	if n := len(g.users); n != 0 {
		t.Errorf("%d users are remembered who have left", n)
	}
}

// TestCountersForgetUnderRate: a user's use of the burst is kept until it would be available again, and no longer.
func TestCountersForgetUnderRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newPolicy(Config{Limits: Limits{Rate: 0.5, Burst: 4}})
		remembered := func() int {
			synctest.Wait()
			g.mu.Lock()
			defer g.mu.Unlock()
			return len(g.users)
		}
		// spend opens n connections one after the other and sends a request on each.
		spend := func(uid uint32, n int) (last *apierror.Error) {
			for range n {
				v := g.session(uid)
				l, d := v.Admit(head(t), Spend)
				if l != nil {
					l.Release(0)
				}
				v.Close()
				last = d
			}
			return last
		}
		for uid := range uint32(1000) {
			if d := spend(uid, 4); d != nil {
				t.Fatalf("uid %d: %+v", uid, d)
			}
		}
		stays := g.session(1)
		<-time.After(8*time.Second - 1)
		if n := remembered(); n != 1000 {
			t.Errorf("%d users are remembered whose bucket is not full, want 1000", n)
		}
		spend(2, 2)
		<-time.After(1)
		if n := remembered(); n != 2 {
			t.Errorf("%d users are remembered, want the one who is connected and the one who has come again", n)
		}
		if d := spend(2, 3); codeOf(d) != apierror.RateLimited {
			t.Errorf("the user who has come again: %+v, want %s: 2 of the burst of 4 were spent", d, apierror.RateLimited)
		}
		stays.Close()
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
	g := newPolicy(Config{Limits: Limits{Rate: 1e-300, Burst: 1}})
	v := g.session(1)
	for i, want := range []apierror.Code{"", apierror.RateLimited, apierror.RateLimited} {
		l, d := v.Admit(head(t), Spend)
		if l != nil {
			l.Release(0)
		}
		if codeOf(d) != want || d != nil && d.RetryAfter <= 0 {
			t.Errorf("request %d: %+v, want %q", i, d, want)
		}
	}
}

func TestMaxRequests(t *testing.T) {
	ended := 0
	g := newPolicy(Config{Limits: Limits{MaxRequests: 3}, Expired: func() { ended++ }})
	v := g.session(1)
	alone, _ := v.Admit(head(t), Spend)
	if alone.Release(0); ended != 0 || alone.BudgetSince() != (time.Time{}) {
		t.Errorf("it ends before its last request; the budget, which it does not have, began %v", alone.BudgetSince())
	}
	first, _ := v.Admit(head(t), Spend)
	second, _ := v.Admit(head(t), Spend)
	if _, d := v.Admit(head(t), Spend); codeOf(d) != apierror.Expired {
		t.Errorf("the fourth request: %+v", d)
	}
	first.Detach()
	first.Detach() // and no other request's place
	first.Release(0)
	if ended != 0 {
		t.Error("it ends while a request runs")
	}
	second.Release(0)
	if ended != 1 {
		t.Errorf("it ended %d times", ended)
	}
}

// TestExpireAfterIdle: without a running request the service ends when its time is over.
func TestExpireAfterIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun, ended := time.Now(), make(chan struct{})
		g, err := New(Config{Limits: Limits{ExpireAfter: time.Hour}, Expired: func() { close(ended) }})
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		select {
		case <-ended:
		case <-time.After(2 * time.Hour):
			t.Fatal("it goes on")
		}
		if d := time.Since(begun); d != time.Hour || g.Open() {
			t.Errorf("it ends after %v, open %v", d, g.Open())
		}
	})
}

func TestExpireAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		g, err := New(Config{Limits: Limits{ExpireAfter: time.Hour}, Expired: func() { close(ended) }})
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		v := g.session(1)
		l, d := v.Admit(head(t), Spend)
		if d != nil {
			t.Fatal(d)
		}
		<-time.After(time.Hour)
		synctest.Wait()
		if _, d := v.Admit(head(t), Spend); codeOf(d) != apierror.Expired {
			t.Errorf("after its time: %+v", d)
		}
		select {
		case <-ended:
			t.Error("it ends while a request runs")
		default:
		}
		l.Release(0)
		<-ended
	})
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newPolicy(Config{Limits: Limits{Rate: 2, Burst: 4}})
		begin := func(uid uint32) *apierror.Error {
			v := g.session(uid)
			l, d := v.Admit(head(t), Spend)
			if l != nil {
				l.Release(0)
			}
			v.Close()
			return d
		}
		for range 4 {
			if d := begin(1); d != nil {
				t.Fatalf("within the burst: %+v", d)
			}
		}
		if d := begin(1); codeOf(d) != apierror.RateLimited || d.RetryAfter != 1 || d.Met.Of != "Requests" || d.Met.Max < 1 || d.Met.Left != 0 {
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

// TestBudgetAndBody: a request over the limits is refused, and the unused part of its deposit is returned.
func TestBudgetAndBody(t *testing.T) {
	b, err := budget.Open(budget.Config{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	g := newPolicy(Config{Budget: b, Limits: Limits{MaxBody: 10, MaxConcurrent: 5}})
	v := g.session(1)
	begin := func(want apierror.Code, spends bool) *Lease {
		t.Helper()
		l, d := v.Admit(head(t, "Content-Length: 5"), map[bool]Use{true: Spend, false: Free}[spends])
		if codeOf(d) != want {
			t.Errorf("spends %t: %+v, want %q", spends, d, want)
		}
		return l
	}
	for size, want := range map[string]apierror.Code{"10": "", "11": apierror.BodyTooLarge} {
		l, d := v.Admit(head(t, "Content-Length: "+size), Free)
		if codeOf(d) != want {
			t.Errorf("a body of %s bytes: %+v", size, d)
		}
		if l != nil {
			l.Release(0)
		}
	}
	if d := (&Lease{Session: newPolicy(Config{}).session(1)}).CheckBody(1 << 40); d != nil {
		t.Errorf("without a limit: %+v", d)
	}
	var running []*Lease
	for range 4 { // a quarter of the budget is reserved for each
		running = append(running, begin("", true))
	}
	if _, d := v.Admit(head(t), Spend); codeOf(d) != apierror.TooManyRequests || d.RetryAfter != 1 || *d.Met != (apierror.Limit{Of: "Tokens", Max: 1000, Left: 1000}) {
		t.Errorf("%+v", d)
	}
	if l := begin("", false); l.Deposit() != 0 {
		t.Errorf("a request that costs nothing has a deposit of %d", l.Deposit())
	}
	running[0].Release(0)
	running[0] = begin("", false)
	begin(apierror.TooManyRequests, true) // five run; it must leave no deposit behind
	running[0].Release(0)
	running[0] = begin("", true)
	for _, l := range running {
		if l.Deposit() != 250 {
			t.Errorf("a deposit of %d", l.Deposit())
		}
		l.Release(100)
	}
	begin("", true).Release(834)
	_, d := v.Admit(head(t), Spend)
	if codeOf(d) != apierror.BudgetExhausted || d.RetryAfter != 0 || !strings.Contains(d.Message, "1234") || *d.Met != (apierror.Limit{Of: "Tokens", Max: 1000}) {
		t.Errorf("%+v", d)
	}
	begin("", false).Release(-235) // a correction: an earlier response cost less
	if l := begin("", true); g.counts[amongRunning] != 2 {
		t.Errorf("%d requests run, %+v", g.counts[amongRunning], l)
	}
}

// TestBudgetResets: the denial contains the time at which the budget restarts.
func TestBudgetResets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // at 2000-01-01T00:00:00Z
		b, err := budget.Open(budget.Config{Limit: 10, Period: budget.Month})
		if err != nil {
			t.Fatal(err)
		}
		v := newPolicy(Config{Budget: b}).session(1)
		l, d := v.Admit(head(t), Spend)
		if d != nil {
			t.Fatal(d)
		}
		if since := l.BudgetSince(); !since.Equal(time.Now()) {
			t.Errorf("since %v", since)
		}
		l.Release(10)
		time.Sleep(time.Hour + time.Millisecond)
		_, d = v.Admit(head(t), Spend)
		resets := time.Date(2000, 2, 1, 0, 0, 0, 0, time.UTC)
		if codeOf(d) != apierror.BudgetExhausted || d.RetryAfter != 31*86400-3600 || !d.ResetsAt.Equal(resets) ||
			!strings.Contains(d.Message, "(10 so far), which resets at 2000-02-01T00:00:00Z. ") {
			t.Errorf("%+v", d)
		}
		time.Sleep(time.Until(resets))
		if _, d = v.Admit(head(t), Spend); d != nil {
			t.Errorf("%+v in the next period", d)
		}
	})
}

// TestRefusedAreFew: few of a user's refused connections receive the reason, and each counts for a second, however soon
// it ends. The others get no response; another user's do.
func TestRefusedAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newPolicy(Config{Limits: Limits{MaxConnections: 1}})
		refused := func(who audit.Caller) (*Session, bool) {
			v := &Session{policy: g, caller: who, since: time.Now()}
			v.deny(apierror.New(apierror.TooManyConnections, ""))
			return v, !v.Silent()
		}
		for _, who := range []audit.Caller{{UID: 1, Known: true}, {}} {
			var sessions []*Session
			for i := range 3 * maxRefused {
				v, ok := refused(who)
				if ok != (i < maxRefused) {
					t.Errorf("%+v, refused connection %d gets the reason: %v", who, i, ok)
				}
				sessions = append(sessions, v)
			}
			for _, v := range sessions {
				v.Close()
			}
			if v, ok := refused(who); ok {
				t.Errorf("%+v: a refused connection made room before its second was over", who)
				v.Close()
			}
			if v, ok := refused(audit.Caller{UID: 0, Known: true}); !ok {
				t.Errorf("%+v keeps another user, root, from the reason", who)
			} else {
				v.Close()
			}
			time.Sleep(refusedFor + 1)
			synctest.Wait()
			v, ok := refused(who)
			if !ok {
				t.Errorf("%+v: no room after a second", who)
			}
			time.Sleep(refusedFor + 1)
			v.Close() // late, and so at once
		}
		if n := len(g.users); n != 0 {
			t.Errorf("%d users are remembered who have left", n)
		}
	})
}
