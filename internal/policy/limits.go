package policy

import (
	"math"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/apierror"
)

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

// place is the limit under which a connection counts.
type place byte

const (
	nowhere       place = iota
	amongAdmitted       // up to a limit
	amongRefused        // up to maxRefused
	places
)

// usage is the present use of one user.
type usage struct {
	connections [places]int
	requests    int
	full        time.Time // when the whole burst will be available again
	expiring    bool      // a timer will call update
}

// update calls change with a user's usage. A user without open connections and requests is removed: at once, or by a
// timer when the whole burst is available, as for a new user.
func (p *Policy) update(uid uint32, change func(u *usage)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.users[uid]
	if u == nil {
		u = &usage{}
		p.users[uid] = u
	}
	change(u)
	if u.connections != [places]int{} || u.requests > 0 || u.expiring {
		return
	}
	if rest := time.Until(u.full); rest > 0 {
		u.expiring = true
		time.AfterFunc(rest, func() { p.update(uid, func(u *usage) { u.expiring = false }) })
		return
	}
	delete(p.users, uid)
}

// enter counts a connection at a place, and returns nowhere if the limit is reached.
func (p *Policy) enter(uid uint32, at place, limit int) (got place) {
	p.update(uid, func(u *usage) {
		n := u.connections[at]
		if reached(n, limit) || at == amongAdmitted && reached(n+p.connections[at], p.cfg.Limits.MaxConnections) {
			return
		}
		u.connections[at]++
		p.connections[at]++
		got = at
	})
	return got
}

// leave undoes enter.
func (p *Policy) leave(uid uint32, at place) {
	p.update(uid, func(u *usage) {
		u.connections[at]--
		p.connections[at]--
	})
}

func reached(n, limit int) bool { return limit > 0 && n >= limit }

// begin counts a request, or returns the denial.
func (p *Policy) begin(uid uint32) (denial *apierror.Error) {
	l := &p.cfg.Limits
	p.update(uid, func(u *usage) {
		switch {
		case p.expired():
			denial = apierror.Newf(apierror.Expired, 0, "This proxy has served its time or its number of requests, and ends.")
		case reached(p.running, l.MaxConcurrent):
			denial = apierror.Newf(apierror.TooManyRequests, 1, "Too many requests are running. Try again; the limit is --max-concurrent.").
				Meeting("Requests", int64(l.MaxConcurrent), 0)
		case reached(u.requests, l.MaxConcurrentPerUser):
			denial = apierror.Newf(apierror.TooManyRequests, 1, "Too many requests of uid %d are running. Try again; the limit is --max-concurrent-per-user.", uid).
				Meeting("Requests", int64(l.MaxConcurrentPerUser), 0)
		default:
			if wait := l.take(u); wait > 0 {
				denial = apierror.Newf(apierror.RateLimited, int(math.Ceil(wait.Seconds())), "Uid %d sends requests faster than --rate allows. Try again later.", uid).
					Meeting("Requests", int64(l.Burst), 0)
				return
			}
			u.requests++
			p.running++
			p.admitted++
		}
	})
	return denial
}

// expired reports whether no further request will be admitted. p.mu must be held.
func (p *Policy) expired() bool {
	limit := p.cfg.Limits.MaxRequests
	return limit > 0 && p.admitted >= limit || !p.expires.IsZero() && time.Until(p.expires) <= 0
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
