// Package admit decides who may spend the key: by the user that the kernel
// vouches for, by signs of a browser, and by limits. A refusal costs nothing:
// nothing of the request goes upstream.
package policy

import (
	"cmp"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/budget"
	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
)

// Code says why a request is refused; docs/errors.md has the list.
type Code string

// The codes.
const (
	UserNotAllowed     Code = "user_not_allowed"
	HostNotAllowed     Code = "host_not_allowed"
	BrowserNotAllowed  Code = "browser_not_allowed"
	BodyTooLarge       Code = "body_too_large"
	TooManyRequests    Code = "too_many_requests"
	TooManyConnections Code = "too_many_connections"
	RateLimited        Code = "rate_limited"
	Expired            Code = "expired"
	BudgetExhausted    Code = "budget_exhausted"
)

// Denial is a refusal, in words for the client.
type Denial struct {
	Code    Code
	Message string
	// RetryAfter is after how many seconds to try again; 0 means not at all.
	RetryAfter int
	// Silent demands that the connection is closed at once, without a response.
	Silent bool
}

func deny(code Code, retryAfter int, format string, args ...any) *Denial {
	return &Denial{Code: code, Message: fmt.Sprintf(format, args...), RetryAfter: retryAfter}
}

// Caller is who is at the other end of a connection.
type Caller struct {
	// UID counts only if Known is true.
	UID   uint32
	Known bool
	// Groups are known over unix sockets only.
	Groups []uint32
	// TCP tells that a browser could be behind it.
	TCP bool
	// PID and Command are those of the process that connected over a unix
	// socket, if the gate is to Identify; 0 and "" if they are not known.
	PID     int
	Command string
}

// Audit is what there is to be told about who.
func (who Caller) Audit() audit.Caller {
	return audit.Caller{UID: who.UID, Known: who.Known, PID: who.PID, Command: who.Command, Unix: !who.TCP}
}

// Config says whom to admit. The zero value admits everybody.
type Config struct {
	// TCP tells that connections come over TCP, too or only.
	TCP bool
	// Identify asks who calls even where that decides nothing, so that it can
	// be told. Then who cannot be told may call all the same.
	Identify bool
	// Owners has it matter who calls even where everybody may: what somebody
	// makes is nobody else's.
	Owners bool
	// Users may call; if it is empty, everybody may.
	Users Users
	// ShutdownUsers may call GET /shutdown, besides passing Users; if it is
	// empty, whoever may call may stop.
	ShutdownUsers Users
	// Origin holds for callers over TCP; nil lets everything pass.
	Origin *Origin
	Limits Limits
	// Budget limits tokens; nil means no limit.
	Budget *budget.Book
	// Expired is called once when no request will be admitted any more and
	// none is running; nil does nothing.
	Expired func()
}

// Policy admits connections and requests. Its methods may be used concurrently.
type Policy struct {
	cfg    Config
	counts *counters
	peers  *peers
	timer  *time.Timer // of ExpireAfter
	once   sync.Once   // calls Expired

	unknown atomic.Int64
}

// New returns a gate. It opens what it needs of the kernel, and fails if the
// system cannot tell who calls although that matters.
func New(cfg Config) (*Policy, error) {
	g := &Policy{cfg: cfg, counts: newCounters(cfg.Limits)}
	if cfg.Limits.ExpireAfter > 0 {
		g.timer = time.AfterFunc(cfg.Limits.ExpireAfter, func() { g.settle(g.counts.over()) })
	}
	if g.needsUID() || cfg.Identify {
		var err error
		if g.peers, err = openPeers(cfg); err != nil && g.needsUID() {
			return nil, fmt.Errorf("cannot find out who calls: %w; over a unix socket (--socket without --port) it can be told", err)
		}
	}
	return g, nil
}

// needsUID tells whether it matters who calls.
func (g *Policy) needsUID() bool {
	l := g.cfg.Limits
	return g.cfg.Owners || !g.cfg.Users.Empty() || !g.cfg.ShutdownUsers.Empty() || g.cfg.Budget != nil ||
		l.MaxConcurrentPerUser > 0 || l.MaxConnectionsPerUser > 0 || l.Rate > 0
}

// Close gives back what New has opened.
func (g *Policy) Close() {
	if g.timer != nil {
		g.timer.Stop()
	}
	if g.peers != nil {
		g.peers.close()
	}
}

// Unknown is how many connections were refused because the kernel did not say
// whose they were.
func (g *Policy) Unknown() int64 { return g.unknown.Load() }

// Open tells whether another request may be admitted: whether the service has
// not come to its end by its limits.
func (g *Policy) Open() bool {
	g.counts.mu.Lock()
	defer g.counts.mu.Unlock()
	return !g.counts.expired()
}

// Visitor is one connection. A nil Visitor may do everything.
type Visitor struct {
	gate    *Policy
	who     Caller
	unnamed bool // it may send no request at all
	place   place
	since   time.Time // it has had the place
}

// Connect finds out who is at the other end of nc, once, and does not block.
// Where it matters who that is, it must be known. The visitor must Leave once nc
// is closed, also if it is denied; then it must not do anything else.
func (g *Policy) Connect(nc net.Conn) (*Visitor, *Denial) {
	v := &Visitor{gate: g, since: time.Now()}
	_, v.who.TCP = nc.(*net.TCPConn)
	if g.peers != nil {
		// Who cannot be told must not pass for uid 0, nor spend what is root's.
		if v.who = g.peers.caller(nc); !v.who.Known && g.needsUID() {
			g.unknown.Add(1)
			return v, v.refuse(deny(UserNotAllowed, 0, "The kernel does not say whose connection this is (it may be half closed). It matters here: connect again, and keep the connection open until the answer is there."))
		}
	}
	v.unnamed = !g.cfg.Users.Empty() && !g.cfg.Users.admits(v.who)
	limit := g.cfg.Limits.MaxConnectionsPerUser
	if v.unnamed {
		limit = min(cmp.Or(limit, maxUnnamed), maxUnnamed)
	}
	v.place = g.counts.connect(v.charged(), limit)
	switch {
	case v.place == amongAdmitted:
		return v, nil
	case v.unnamed:
		return v, v.refuse(v.unwelcome("--allow-user"))
	}
	return v, v.refuse(deny(TooManyConnections, 1, "Uid %d has too many connections open. Close some; the limit is --max-connections-per-user.", v.who.UID))
}

// refuse makes d silent if too many connections of the same user are open only
// to be sent a denial.
func (v *Visitor) refuse(d *Denial) *Denial {
	v.place = v.gate.counts.refuse(v.charged())
	d.Silent = v.place == nowhere
	return d
}

// charged returns the user whose connection it is among the counted ones.
func (v *Visitor) charged() uint32 {
	if v.unnamed || !v.who.Known {
		return noUser
	}
	return v.who.UID
}

// Leave gives the connection's place back. It must be called once.
func (v *Visitor) Leave() {
	if v == nil || v.place == nowhere {
		return
	}
	leave := func() { v.gate.counts.disconnect(v.charged(), v.place) }
	if rest := refusedFor - time.Since(v.since); v.place == amongRefused && rest > 0 {
		time.AfterFunc(rest, leave)
		return
	}
	leave()
}

// Caller is who visits.
func (v *Visitor) Caller() Caller { return v.who }

// Visit decides whether the visitor may send head at all: who it is and where
// it comes from. Stopping the proxy needs more than calling it.
func (v *Visitor) Visit(head *http1.Request, stopping bool) *Denial {
	if v == nil {
		return nil
	}
	cfg := &v.gate.cfg
	if v.who.TCP && cfg.Origin != nil {
		if d := cfg.Origin.check(head, stopping); d != nil {
			return d
		}
	}
	if !cfg.Users.Empty() && !cfg.Users.admits(v.who) {
		return v.unwelcome("--allow-user")
	}
	if stopping && !cfg.ShutdownUsers.Empty() && !cfg.ShutdownUsers.admits(v.who) {
		return v.unwelcome("--shutdown-user")
	}
	return nil
}

func (v *Visitor) unwelcome(flag string) *Denial {
	return deny(UserNotAllowed, 0, "Uid %d may not do this. The proxy's operator can admit it with %s %d.", v.who.UID, flag, v.who.UID)
}

// Begin decides whether a request that may be sent may be sent now. spends
// reports whether it can cost tokens: a request that cannot is not a matter of
// the budget. The lease of a request that may be sent must be settled.
func (v *Visitor) Begin(head *http1.Request, spends bool) (*Lease, *Denial) {
	if v == nil {
		return nil, nil
	}
	g := v.gate
	if limit := g.cfg.Limits.MaxBody; limit > 0 && head.Length > limit {
		return nil, v.TooLarge()
	}
	l := &Lease{gate: g, uid: v.who.UID, reserved: spends && g.cfg.Budget != nil}
	if l.reserved {
		if d := g.reserve(l.uid); d != nil {
			return nil, d
		}
	}
	if d := g.counts.begin(l.uid); d != nil {
		if l.reserved {
			g.cfg.Budget.Settle(l.uid, 0)
		}
		return nil, d
	}
	return l, nil
}

// reserve reserves a deposit, or returns why it must not be reserved.
func (g *Policy) reserve(uid uint32) *Denial {
	switch spent, state := g.cfg.Budget.Reserve(uid); state {
	case budget.OK:
		return nil
	case budget.Reserved:
		return deny(TooManyRequests, 1, "The running requests of uid %d may spend the rest of its budget of tokens. Try again when one of them has ended; the limit is --max-tokens-per-user.", uid)
	default:
		return deny(BudgetExhausted, 0, "Uid %d has spent its budget of tokens (%d so far). The proxy's operator can raise --max-tokens-per-user.", uid, spent)
	}
}

// Lease is one admitted request. A nil Lease is of a nil Visitor.
type Lease struct {
	gate     *Policy
	uid      uint32
	reserved bool // a deposit of the budget
	released atomic.Bool
}

// Release frees the request's place among those that run. Further calls do
// nothing. It may be called from any goroutine.
func (l *Lease) Release() {
	if l != nil && !l.released.Swap(true) {
		l.gate.settle(l.gate.counts.end(l.uid))
	}
}

// Settle ends the lease, once, with the tokens that the request cost. They are
// negative where an earlier request of the same user had been charged too much.
func (l *Lease) Settle(tokens int64) {
	if l == nil {
		return
	}
	switch b := l.gate.cfg.Budget; {
	case b == nil:
	case l.reserved:
		b.Settle(l.uid, tokens)
	case tokens < 0:
		b.Refund(l.uid, -tokens)
	default:
		b.Add(l.uid, tokens)
	}
	l.Release()
}

// Deposit is what a request is charged, in tokens, if nothing says what it
// cost; 0 if the lease has no part in a budget.
func (l *Lease) Deposit() int64 {
	if l == nil || !l.reserved {
		return 0
	}
	return l.gate.cfg.Budget.Deposit()
}

// settle tells the operator's program that the service is over.
func (g *Policy) settle(over bool) {
	if over && g.cfg.Expired != nil {
		g.once.Do(g.cfg.Expired)
	}
}

// Expires is when the service ends by its limits; zero means that none says so.
func (v *Visitor) Expires() time.Time {
	if v == nil || v.gate.cfg.Limits.ExpireAfter == 0 {
		return time.Time{}
	}
	return v.gate.counts.begun.Add(v.gate.cfg.Limits.ExpireAfter)
}

// MaxBody is the largest body in bytes; 0 means no limit.
func (v *Visitor) MaxBody() int64 {
	if v == nil {
		return 0
	}
	return v.gate.cfg.Limits.MaxBody
}

// TooLarge is the denial of a body over MaxBody, for one whose size shows late.
func (v *Visitor) TooLarge() *Denial {
	return deny(BodyTooLarge, 0, "The request's body is larger than %d bytes. The limit is --max-body.", v.MaxBody())
}

// Metered tells whether the tokens of answers must be counted.
func (v *Visitor) Metered() bool { return v != nil && v.gate.cfg.Budget != nil }
