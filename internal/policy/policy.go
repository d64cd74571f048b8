// Package policy decides who may spend the key: by the user that the kernel
// reports, by signs of a browser, and by limits. Each connection has a [Session];
// each request on it gets one [Lease] or one denial. A nil Session may do
// nothing.
package policy

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/budget"
)

// Caller is who is at the other end of a connection.
type Caller struct {
	// UID counts only if Known is true.
	UID   uint32
	Known bool
	// Groups are known over unix sockets only.
	Groups []uint32
	// TCP reports that a browser could be behind it.
	TCP bool
	// PID and Command are those of the process that connected over a unix
	// socket, if the policy is to Identify; 0 and "" if they are not known.
	PID     int
	Command string
}

// Audit returns the caller as recorded in the audit log.
func (who Caller) Audit() audit.Caller {
	return audit.Caller{UID: who.UID, Known: who.Known, PID: who.PID, Command: who.Command, Unix: !who.TCP}
}

// Config says whom to admit. The zero value admits every user; see [AllowAll].
type Config struct {
	// TCP reports that connections come over TCP, too or only.
	TCP bool
	// Identify determines the user even where that decides nothing, for records.
	// Unidentified users may call all the same then.
	Identify bool
	// Owners requires that the user is known even where every user may call:
	// a response belongs to the user who made it.
	Owners bool
	// Users may call; if it is empty, every user of the host may, as with the
	// original, and a start line says so.
	Users Users
	// ShutdownUsers may call GET /shutdown, besides passing Users; if it is
	// empty, all who may call may stop.
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

// New returns a policy. It opens what it needs of the kernel, and fails if the
// kernel cannot identify callers although that matters.
func New(cfg Config) (*Policy, error) {
	p := &Policy{cfg: cfg, counts: newCounters(cfg.Limits)}
	if cfg.Limits.ExpireAfter > 0 {
		p.timer = time.AfterFunc(cfg.Limits.ExpireAfter, func() { p.expire(p.counts.over()) })
	}
	if p.needsUID() || cfg.Identify {
		var err error
		if p.peers, err = openPeers(cfg); err != nil && p.needsUID() {
			return nil, fmt.Errorf("cannot find out who calls: %w; over a unix socket (--socket without --port) it can be told", err)
		}
	}
	return p, nil
}

// needsUID reports whether it matters who calls.
func (p *Policy) needsUID() bool {
	l := p.cfg.Limits
	return p.cfg.Owners || !p.cfg.Users.Empty() || !p.cfg.ShutdownUsers.Empty() || p.cfg.Budget != nil ||
		l.MaxConcurrentPerUser > 0 || l.MaxConnectionsPerUser > 0 || l.Rate > 0
}

// AllowAll returns a policy that admits every request of every user without
// limits, and does not identify them. It is for tests: a program states its
// Config.
func AllowAll() *Policy { return &Policy{counts: newCounters(Limits{})} }

// Close releases what New has opened.
func (p *Policy) Close() {
	if p.timer != nil {
		p.timer.Stop()
	}
	if p.peers != nil {
		p.peers.close()
	}
}

// Unknown returns how many connections were refused because the kernel did not
// identify their users.
func (p *Policy) Unknown() int64 { return p.unknown.Load() }

// Open reports whether another request may be admitted: whether the service has
// not reached its limits.
func (p *Policy) Open() bool {
	p.counts.mu.Lock()
	defer p.counts.mu.Unlock()
	return !p.counts.expired()
}

// reserve reserves a deposit, or returns why it must not be reserved.
func (p *Policy) reserve(uid uint32) *apierror.Error {
	switch spent, state := p.cfg.Budget.Reserve(uid); state {
	case budget.OK:
		return nil
	case budget.Reserved:
		return apierror.Newf(apierror.TooManyRequests, 1, "The running requests of uid %d may spend the rest of its budget of tokens. Try again when one of them has ended; the limit is --max-tokens-per-user.", uid)
	default:
		return apierror.Newf(apierror.BudgetExhausted, 0, "Uid %d has spent its budget of tokens (%d so far). The proxy's operator can raise --max-tokens-per-user.", uid, spent)
	}
}

// expire calls Expired, once, if the service is over.
func (p *Policy) expire(over bool) {
	if over && p.cfg.Expired != nil {
		p.once.Do(p.cfg.Expired)
	}
}
