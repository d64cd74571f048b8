// Package policy decides who may use the key: by the user that the kernel reports, by signs of a browser, and by
// limits. Each connection has a [Session]; each request on it gets one [Lease] or one denial. A nil Session permits
// nothing.
package policy

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/budget"
	"github.com/responses-api-proxy/responses-api-proxy/internal/peer"
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
	tcp      *peer.TCP   // nil without TCP, or if the users of TCP connections cannot be determined
	timer    *time.Timer // of ExpireAfter
	once     sync.Once   // calls Expired
	unknown  atomic.Int64

	mu          sync.Mutex
	connections [places]int
	running     int   // requests
	admitted    int64 // requests
	users       map[uint32]*usage
}

// New returns a policy. It returns an error if the kernel cannot identify callers although a decision depends on it.
func New(cfg Config) (p *Policy, err error) {
	l := &cfg.Limits
	p = &Policy{cfg: cfg, users: map[uint32]*usage{}}
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

// Unknown returns the number of connections that were refused because the kernel did not identify their users.
func (p *Policy) Unknown() int64 { return p.unknown.Load() }

// Open reports whether another request may be admitted, that is, whether no limit of the service is reached.
func (p *Policy) Open() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.expired()
}

// Admitted returns the number of admitted requests.
func (p *Policy) Admitted() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.admitted
}

// Expires returns when the service ends by ExpireAfter; zero if it does not.
func (p *Policy) Expires() time.Time { return p.expires }

// checkExpired calls Expired, once, if no request runs and none will be admitted.
func (p *Policy) checkExpired() {
	p.mu.Lock()
	over := p.running == 0 && p.expired()
	p.mu.Unlock()
	if over && p.cfg.Expired != nil {
		p.once.Do(p.cfg.Expired)
	}
}
