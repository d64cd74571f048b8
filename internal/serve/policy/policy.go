// Package policy decides who may use the key: by the user that the kernel reports, by signs of a browser, and by
// limits. Each connection has a [Session]; each request on it gets one [Lease] or one denial. A nil Session permits
// nothing.
package policy

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/peer"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/budget"
)

// Config describes the users to admit. The zero value admits every request of every user without limits.
type Config struct {
	// TCP identifies users over TCP too. If no decision depends on them, that is for records.
	TCP bool
	// Commands also reads the names of processes that come over a unix socket, which takes /proc.
	Commands bool
	// Owners requires identified users even if every user may call: a response belongs to the user who created it.
	Owners bool
	// Users may call. If it is empty, every user of the host may, as with the original; a start line warns of that.
	Users Users
	// ShutdownUsers may call GET /shutdown, if they are among Users; if it is empty, every caller may.
	ShutdownUsers Users
	// Origin applies to callers over TCP; nil admits every origin.
	Origin *Origin
	Limits Limits
	// Budget limits tokens; nil means no limit.
	Budget *budget.Ledger
	// Expired is called once, when no further request will be admitted and none is running; nil does nothing.
	Expired func()
}

// Policy admits connections and requests. Its methods may be used concurrently.
type Policy struct {
	cfg      Config
	expires  time.Time   // by ExpireAfter; zero if it does not
	needsUID bool        // a decision depends on the user
	overflow bool        // uid 65534 stands for every user whom this user namespace does not map
	tcp      *peer.TCP   // nil without TCP, or if the users of TCP connections cannot be determined
	timer    *time.Timer // of ExpireAfter
	once     sync.Once   // calls Expired
	// Unknown counts connections that were refused because the kernel did not identify their users, and Admitted the
	// admitted requests.
	Unknown, Admitted atomic.Int64

	mu     sync.Mutex  // also while Admitted is compared with its limit and increased
	counts [places]int // of all users
	users  map[uint32]*usage
}

// New returns a policy. It returns an error if the kernel cannot identify callers although a decision depends on it.
func New(cfg Config) (p *Policy, err error) {
	l := &cfg.Limits
	p = &Policy{cfg: cfg, overflow: peer.IsOverflow(65534), users: map[uint32]*usage{}}
	p.needsUID = cfg.Owners || !cfg.Users.Empty() || !cfg.ShutdownUsers.Empty() || cfg.Budget != nil ||
		l.MaxConcurrentPerUser > 0 || l.Rate > 0
	if p.needsUID && !peer.ReportsUnix {
		return nil, errUnreported
	}
	if cfg.TCP {
		if p.tcp, err = peer.OpenTCP(); err != nil && p.needsUID {
			return nil, fmt.Errorf("cannot find out who calls: %w; listen on a unix socket (--listen unix:PATH) alone, where it is known", err)
		}
	}
	if l.ExpireAfter > 0 {
		p.expires = time.Now().Add(l.ExpireAfter)
		p.timer = time.AfterFunc(l.ExpireAfter, p.checkExpired)
	}
	return p, nil
}

// Close releases what New has opened.
func (p *Policy) Close() {
	if p.timer != nil {
		p.timer.Stop()
	}
	if p.tcp != nil {
		p.tcp.Close()
	}
}

// Expires returns when the service ends by ExpireAfter; zero if it does not.
func (p *Policy) Expires() time.Time { return p.expires }

// checkExpired calls Expired, once, if no request runs and none will be admitted.
func (p *Policy) checkExpired() {
	p.mu.Lock()
	over := p.counts[amongRunning] == 0 && !p.Open()
	p.mu.Unlock()
	if over && p.cfg.Expired != nil {
		p.once.Do(p.cfg.Expired)
	}
}

// Limits are the limits of the service. Zero means no limit.
type Limits struct {
	// MaxBody is the largest request body, in bytes.
	MaxBody int64
	// MaxConcurrent and MaxConcurrentPerUser limit concurrent requests.
	MaxConcurrent, MaxConcurrentPerUser int
	// MaxConnections is the number of connections, idle or not, of which a user may have as many open as are free: alone
	// half of them, so that the next user always gets some.
	MaxConnections int
	// MaxRequests ends the service after that many admitted requests, ExpireAfter after that time.
	MaxRequests int64
	ExpireAfter time.Duration
	// Rate is the number of requests a second that each user may send on average; Burst the number at once.
	Rate  float64
	Burst int
}

const (
	// maxRefused is the number of refused connections of one user at a time that receive the reason. Each counts for at
	// least refusedFor, open or not: so a user who reconnects repeatedly costs little more than the kernel's work.
	maxRefused = 8
	refusedFor = time.Second
	// maxUnnamed is the number of open connections of all users who may send no request.
	maxUnnamed = 64
)

// noUser, (uid_t) -1, stands for callers that the kernel does not identify, and for all users who may send no request:
// a process can act as tens of thousands of users (/etc/subuid), and must not be able to use all connections by that.
const noUser = math.MaxUint32

// place is where a connection or a request counts.
type place byte

const (
	amongAdmitted place = iota // connections
	amongRefused               // connections
	amongRunning               // requests
	amongReadOn                // requests whose clients have left
	places
)

// usage is the present use of one user.
type usage struct {
	counts   [places]int
	full     time.Time // when the whole burst will be available again
	expiring bool      // a timer will call update
}

// update calls change with a user's usage. A user who counts nowhere is removed: at once, or by a timer when the whole
// burst is available, as for a new user.
func (p *Policy) update(uid uint32, change func(u *usage)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.users[uid]
	if u == nil {
		u = &usage{}
		p.users[uid] = u
	}
	change(u)
	if u.counts != [places]int{} || u.expiring {
		return
	}
	if rest := time.Until(u.full); rest > 0 {
		u.expiring = true
		time.AfterFunc(rest, func() { p.update(uid, func(u *usage) { u.expiring = false }) })
		return
	}
	delete(p.users, uid)
}

// enter counts one more of the user at a place, and returns what undoes that; nil if the user's limit, or that of all
// users together, is reached.
func (p *Policy) enter(uid uint32, at place, limit, total int) (leave func()) {
	p.update(uid, func(u *usage) {
		n := u.counts[at]
		if reached(n, limit) || reached(p.counts[at], total) || at == amongAdmitted && reached(n+p.counts[at], p.cfg.Limits.MaxConnections) {
			return
		}
		p.count(u, at, 1)
		leave = func() { p.leave(uid, at) }
	})
	return leave
}

func (p *Policy) leave(uid uint32, at place) { p.update(uid, func(u *usage) { p.count(u, at, -1) }) }

// count counts n more at a place. p.mu must be held.
func (p *Policy) count(u *usage, at place, n int) {
	u.counts[at] += n
	p.counts[at] += n
}

func reached(n, limit int) bool { return limit > 0 && n >= limit }

// begin counts a request, or returns the denial.
func (p *Policy) begin(uid uint32) (denial *apierror.Error) {
	l := &p.cfg.Limits
	p.update(uid, func(u *usage) {
		switch {
		case !p.Open():
			denial = apierror.Newf(apierror.Expired, 0, "This proxy has served its time or its number of requests, and ends.")
		case reached(p.counts[amongRunning], l.MaxConcurrent):
			denial = apierror.Newf(apierror.TooManyRequests, 1, "Too many requests are running. Try again; the limit is --max-concurrent.").
				Meeting("Requests", int64(l.MaxConcurrent), 0)
		case reached(u.counts[amongRunning], l.MaxConcurrentPerUser):
			denial = apierror.Newf(apierror.TooManyRequests, 1, "Too many requests of uid %d are running. Try again; the limit is --max-concurrent-per-user.", uid).
				Meeting("Requests", int64(l.MaxConcurrentPerUser), 0)
		default:
			if wait := l.take(u); wait > 0 {
				denial = apierror.Newf(apierror.RateLimited, int(math.Ceil(wait.Seconds())), "Uid %d sends requests faster than --rate allows. Try again later.", uid).
					Meeting("Requests", int64(l.Burst), 0)
				return
			}
			p.count(u, amongRunning, 1)
			p.Admitted.Add(1)
		}
	})
	return denial
}

// Open reports whether another request may be admitted, that is, whether no limit of the service is reached.
func (p *Policy) Open() bool {
	limit := p.cfg.Limits.MaxRequests
	return (limit <= 0 || p.Admitted.Load() < limit) && (p.expires.IsZero() || time.Until(p.expires) > 0)
}

// take uses one request of the user's burst, or returns the time until one is available. One becomes available after
// each interval, of a year at most, since a longer one may overflow a Duration.
func (l *Limits) take(u *usage) (wait time.Duration) {
	if l.Rate == 0 {
		return 0
	}
	interval := time.Duration(min(math.Ceil(float64(time.Second)/l.Rate), float64(365*24*time.Hour)))
	missing := max(time.Until(u.full), 0) + interval
	if wait = missing - time.Duration(l.Burst)*interval; wait <= 0 {
		u.full = time.Now().Add(missing)
	}
	return wait
}
