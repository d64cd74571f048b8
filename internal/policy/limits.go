package policy

import (
	"math"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/apierror"
)

// Limits says how much is served. Zero means no limit, everywhere.
type Limits struct {
	// MaxBody is the largest request body, in bytes.
	MaxBody int64
	// MaxConcurrent and MaxConcurrentPerUser limit the requests that run.
	MaxConcurrent, MaxConcurrentPerUser int
	// MaxConnectionsPerUser limits open connections, used or not.
	MaxConnectionsPerUser int
	// MaxRequests ends the service after so many admitted requests, ExpireAfter after so long.
	MaxRequests int64
	ExpireAfter time.Duration
	// Rate is the number of requests a second that each user may begin, in the long run; Burst how many at once.
	Rate  float64
	Burst int
}

const (
	// maxRefused is how many refused connections one user may have at a time that are sent the reason. Each counts for
	// refusedFor at least, open or not: so a user who connects again and again costs little more than the kernel's work.
	maxRefused = 8
	refusedFor = time.Second
	// maxUnnamed is how many connections may be open of users who may send no request at all.
	maxUnnamed = 64
)

// noUser, (uid_t) -1, stands for callers that the kernel does not identify, and for all users who may send no request: a
// process can be tens of thousands of users (/etc/subuid), and must not be able to take all connections by that.
const noUser = math.MaxUint32

// place is what a connection takes up among those of its user.
type place byte

const (
	nowhere       place = iota
	amongAdmitted       // up to a limit
	amongRefused        // up to maxRefused
	places
)

// usage is what one user has at the moment.
type usage struct {
	connections [places]int
	requests    int
	full        time.Time // when the rate has yielded what the user has spent of the burst
	expiring    bool      // a timer will call update
}

// update calls change with what a user has. One who has nothing open then is forgotten: at once, or by a timer when the
// burst is whole, as a new user's is.
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

// enter counts a connection at a place, and returns nowhere if it is one too many.
func (p *Policy) enter(uid uint32, at place, limit int) (got place) {
	p.update(uid, func(u *usage) {
		if !reached(u.connections[at], limit) {
			u.connections[at]++
			got = at
		}
	})
	return got
}

func reached(n, limit int) bool { return limit > 0 && n >= limit }

// begin counts a request, or returns why it must not begin.
func (p *Policy) begin(uid uint32) (denial *apierror.Error) {
	l := &p.cfg.Limits
	p.update(uid, func(u *usage) {
		switch {
		case p.expired():
			denial = apierror.Newf(apierror.Expired, 0, "This proxy has served its time or its number of requests, and ends.")
		case reached(p.running, l.MaxConcurrent):
			denial = apierror.Newf(apierror.TooManyRequests, 1, "Too many requests are running. Try again; the limit is --max-concurrent.")
		case reached(u.requests, l.MaxConcurrentPerUser):
			denial = apierror.Newf(apierror.TooManyRequests, 1, "Too many requests of uid %d are running. Try again; the limit is --max-concurrent-per-user.", uid)
		default:
			if wait := l.take(u); wait > 0 {
				denial = apierror.Newf(apierror.RateLimited, int(math.Ceil(wait.Seconds())), "Uid %d sends requests faster than --rate allows. Try again later.", uid)
				return
			}
			u.requests++
			p.running++
			p.admitted++
		}
	})
	return denial
}

// expired reports whether no request will be admitted any more. It needs p.mu.
func (p *Policy) expired() bool {
	limit := p.cfg.Limits.MaxRequests
	return limit > 0 && p.admitted >= limit || !p.expires.IsZero() && time.Until(p.expires) <= 0
}

// take takes one request of the user's burst, or returns how long it takes until there is one. Each is there again after
// an interval: of a year at most, since a longer time may not be a Duration.
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
