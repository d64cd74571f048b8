package policy

import (
	"math"
	"sync"
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
	// MaxRequests ends the service after so many admitted requests.
	MaxRequests int64
	// ExpireAfter ends the service after so long.
	ExpireAfter time.Duration
	// Rate is the number of requests a second that each user may begin, in the
	// long run; Burst how many at once.
	Rate  float64
	Burst int
}

// maxRefused is how many refused connections one user may have at a time that
// are sent the reason. Each counts for refusedFor at least, open or not: so a
// user who connects again and again costs little more than the kernel's work.
const (
	maxRefused = 8
	refusedFor = time.Second
)

// maxUnnamed is how many connections may be open of users who may send no
// request at all.
const maxUnnamed = 64

// noUser, (uid_t) -1, stands for callers that the kernel does not identify, and
// for all users who may send no request: a process can be tens of thousands of
// users (/etc/subuid), and must not be able to take all connections by that.
const noUser = math.MaxUint32

// place is what a connection takes up among those of its user.
type place byte

const (
	nowhere       place = iota
	amongAdmitted       // up to a limit
	amongRefused        // up to maxRefused
)

// usage is what one user has at the moment.
type usage struct {
	connections, requests int
	refused               int     // connections
	tokens                float64 // of the rate's bucket
	filled                time.Time
	expiring              bool // a timer will call forget
}

// counters keep what the limits are about. The zero value is not ready.
type counters struct {
	limits Limits
	now    func() time.Time
	begun  time.Time

	mu       sync.Mutex
	running  int
	admitted int64
	users    map[uint32]*usage
}

func newCounters(l Limits) *counters {
	return &counters{limits: l, now: time.Now, begun: time.Now(), users: map[uint32]*usage{}}
}

// user needs c.mu.
func (c *counters) user(uid uint32) *usage {
	u := c.users[uid]
	if u == nil {
		u = &usage{tokens: float64(c.limits.Burst), filled: c.now()}
		c.users[uid] = u
	}
	return u
}

// forget drops a user of whom nothing is open: at once, or by a timer when the
// rate's bucket is full, as a new user's is. It needs c.mu.
func (c *counters) forget(uid uint32, u *usage) {
	if u.connections > 0 || u.refused > 0 || u.requests > 0 || u.expiring {
		return
	}
	c.refill(u)
	missing := float64(c.limits.Burst) - u.tokens
	if c.limits.Rate == 0 || missing <= 0 {
		delete(c.users, uid)
		return
	}
	u.expiring = true
	time.AfterFunc(c.wait(missing), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		u.expiring = false
		c.forget(uid, u)
	})
}

// connect counts a connection, unless it is one too many.
func (c *counters) connect(uid uint32, limit int) place {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.user(uid)
	if reached(u.connections, limit) {
		return nowhere
	}
	u.connections++
	return amongAdmitted
}

// refuse counts a refused connection, unless it is one too many.
func (c *counters) refuse(uid uint32) place {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.user(uid)
	if reached(u.refused, maxRefused) {
		return nowhere
	}
	u.refused++
	return amongRefused
}

// disconnect gives a place back.
func (c *counters) disconnect(uid uint32, p place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.user(uid)
	switch p {
	case amongAdmitted:
		u.connections--
	case amongRefused:
		u.refused--
	}
	c.forget(uid, u)
}

func reached(n, limit int) bool { return limit > 0 && n >= limit }

// begin counts a request, or says why it must not begin.
func (c *counters) begin(uid uint32) *apierror.Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.user(uid)
	switch {
	case c.expired():
		return apierror.Newf(apierror.Expired, 0, "This proxy has served its time or its number of requests, and ends.")
	case reached(c.running, c.limits.MaxConcurrent):
		return apierror.Newf(apierror.TooManyRequests, 1, "Too many requests are running. Try again; the limit is --max-concurrent.")
	case reached(u.requests, c.limits.MaxConcurrentPerUser):
		return apierror.Newf(apierror.TooManyRequests, 1, "Too many requests of uid %d are running. Try again; the limit is --max-concurrent-per-user.", uid)
	}
	if wait := c.take(u); wait > 0 {
		return apierror.Newf(apierror.RateLimited, int(math.Ceil(wait.Seconds())), "Uid %d sends requests faster than --rate allows. Try again later.", uid)
	}
	u.requests++
	c.running++
	c.admitted++
	return nil
}

// expired needs c.mu.
func (c *counters) expired() bool {
	return c.limits.MaxRequests > 0 && c.admitted >= c.limits.MaxRequests ||
		c.limits.ExpireAfter > 0 && c.now().Sub(c.begun) >= c.limits.ExpireAfter
}

// take takes one from the user's bucket, or returns how long it takes until
// there is one. It needs c.mu.
func (c *counters) take(u *usage) time.Duration {
	if c.limits.Rate == 0 {
		return 0
	}
	c.refill(u)
	if u.tokens < 1 {
		return c.wait(1 - u.tokens)
	}
	u.tokens--
	return 0
}

// refill adds what the rate has yielded since the last call. It needs c.mu.
func (c *counters) refill(u *usage) {
	now := c.now()
	u.tokens = min(float64(c.limits.Burst), u.tokens+now.Sub(u.filled).Seconds()*c.limits.Rate)
	u.filled = now
}

// wait returns how long the rate takes to yield tokens, more than 0 of them: a
// year at most, since a longer time may not be a Duration.
func (c *counters) wait(tokens float64) time.Duration {
	const year = 365 * 24 * time.Hour
	return time.Duration(min(math.Ceil(tokens/c.limits.Rate*float64(time.Second)), float64(year)))
}

// over tells that no request runs, and none will be admitted any more.
func (c *counters) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running == 0 && c.expired()
}

// end counts a request off; last tells that it was the last one ever.
func (c *counters) end(uid uint32) (last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.user(uid)
	u.requests--
	c.running--
	c.forget(uid, u)
	return c.running == 0 && c.expired()
}
