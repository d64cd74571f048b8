package policy

import (
	"cmp"
	"net"
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
)

// Session is one connection. A nil Session may send no request.
type Session struct {
	policy  *Policy
	caller  Caller
	unnamed bool            // it may send no request at all
	denial  *apierror.Error // of all its requests; nil if each is decided on
	place   place
	since   time.Time // it has had the place
	closed  atomic.Bool
}

// Connect determines who is at the other end of nc, once, and counts the
// connection. It does not block. Where it matters who that is, it must be known.
// The session must be closed once nc is closed.
func (p *Policy) Connect(nc net.Conn) *Session {
	s := &Session{policy: p, since: time.Now()}
	_, s.caller.TCP = nc.(*net.TCPConn)
	if p.peers != nil {
		// An unidentified peer must not be treated as uid 0 or charged against root's limits.
		if s.caller = p.peers.caller(nc); !s.caller.Known && p.needsUID() {
			p.unknown.Add(1)
			s.deny(apierror.Newf(apierror.UserNotAllowed, 0, "The kernel does not say whose connection this is (it may be half closed). It matters here: connect again, and keep the connection open until the answer is there."))
			return s
		}
	}
	s.unnamed = !p.cfg.Users.Empty() && !p.cfg.Users.admits(s.caller)
	limit := p.cfg.Limits.MaxConnectionsPerUser
	if s.unnamed {
		limit = min(cmp.Or(limit, maxUnnamed), maxUnnamed)
	}
	s.place = p.counts.connect(s.charged(), limit)
	switch {
	case s.place == amongAdmitted:
	case s.unnamed:
		s.deny(s.forbidden("--allow-user"))
	default:
		s.deny(apierror.Newf(apierror.TooManyConnections, 1, "Uid %d has too many connections open. Close some; the limit is --max-connections-per-user.", s.caller.UID))
	}
	return s
}

// deny denies all requests of the session.
func (s *Session) deny(e *apierror.Error) {
	s.denial, s.place = e, s.policy.counts.refuse(s.charged())
}

// Denial returns why the session may send no request; nil if each is decided on.
func (s *Session) Denial() *apierror.Error { return s.denial }

// Silent reports whether the connection must be closed without a response: too
// many connections of the same user are open only to receive a denial.
func (s *Session) Silent() bool { return s.place == nowhere }

// charged returns the user whose connection it is among the counted ones.
func (s *Session) charged() uint32 {
	if s.unnamed || !s.caller.Known {
		return noUser
	}
	return s.caller.UID
}

// Close releases the connection's place. Further calls do nothing.
func (s *Session) Close() {
	if s.place == nowhere || s.closed.Swap(true) {
		return
	}
	release := func() { s.policy.counts.disconnect(s.charged(), s.place) }
	if rest := refusedFor - time.Since(s.since); s.place == amongRefused && rest > 0 {
		time.AfterFunc(rest, release)
		return
	}
	release()
}

// Caller returns who is at the other end.
func (s *Session) Caller() Caller { return s.caller }

// Metered reports whether the tokens of responses must be counted.
func (s *Session) Metered() bool { return s == nil || s.policy.cfg.Budget != nil }

// Use is what a request is for.
type Use byte

const (
	// Nothing is a request that will be refused by its route. It is decided only
	// whether the session may send requests at all; the lease holds nothing.
	Nothing Use = iota
	// Shutdown stops the proxy, for which it takes more than calling it. Its lease
	// holds nothing.
	Shutdown
	// Free is a request that cannot cost tokens: no budget limits it.
	Free
	// Spend is a request that can cost tokens.
	Spend
)

// Admit decides on the request with the given head: it returns either a lease,
// which must be released, or a denial. It does not keep head.
func (s *Session) Admit(head *http1.Request, use Use) (*Lease, *apierror.Error) {
	if s == nil {
		return nil, apierror.New(apierror.InternalError, "a request without a session")
	}
	if d := s.check(head, use == Shutdown); d != nil {
		return nil, d
	}
	p, l := s.policy, &Lease{Session: s}
	if use != Free && use != Spend {
		l.released.Store(true)
		return l, nil
	}
	if limit := p.cfg.Limits.MaxBody; limit > 0 && head.Length > limit {
		return nil, l.TooLarge()
	}
	if l.reserved = use == Spend && p.cfg.Budget != nil; l.reserved {
		if d := p.reserve(s.caller.UID); d != nil {
			return nil, d
		}
	}
	if d := p.counts.begin(s.caller.UID); d != nil {
		if l.reserved {
			p.cfg.Budget.Settle(s.caller.UID, 0)
		}
		return nil, d
	}
	l.running.Store(true)
	return l, nil
}

// check decides whether the session may send head at all: by the user, and by
// where it comes from.
func (s *Session) check(head *http1.Request, stopping bool) *apierror.Error {
	if s.denial != nil {
		return s.denial
	}
	cfg := &s.policy.cfg
	if s.caller.TCP && cfg.Origin != nil {
		if d := cfg.Origin.check(head, stopping); d != nil {
			return d
		}
	}
	if !cfg.Users.Empty() && !cfg.Users.admits(s.caller) {
		return s.forbidden("--allow-user")
	}
	if stopping && !cfg.ShutdownUsers.Empty() && !cfg.ShutdownUsers.admits(s.caller) {
		return s.forbidden("--shutdown-user")
	}
	return nil
}

func (s *Session) forbidden(flag string) *apierror.Error {
	return apierror.Newf(apierror.UserNotAllowed, 0, "Uid %d may not do this. The proxy's operator can admit it with %s %d.", s.caller.UID, flag, s.caller.UID)
}

// Lease is one admitted request.
type Lease struct {
	*Session
	reserved bool        // a deposit of the budget
	running  atomic.Bool // it counts among the requests that run
	released atomic.Bool
}

// Detach frees the request's place among those that run before the lease is
// released: its client has left. Further calls do nothing. It may be called from
// any goroutine.
func (l *Lease) Detach() {
	if l.running.Swap(false) {
		l.policy.expire(l.policy.counts.end(l.caller.UID))
	}
}

// Release ends the lease with the tokens that the request cost. They are negative
// where an earlier request of the same user had been charged too much. Further
// calls do nothing.
func (l *Lease) Release(tokens int64) {
	if l.released.Swap(true) {
		return
	}
	switch b := l.policy.cfg.Budget; {
	case b == nil:
	case l.reserved:
		b.Settle(l.caller.UID, tokens)
	case tokens < 0:
		b.Refund(l.caller.UID, -tokens)
	default:
		b.Add(l.caller.UID, tokens)
	}
	l.Detach()
}

// Deposit returns what the request is charged, in tokens, if the response does
// not report what it cost; 0 if the lease has no part in a budget.
func (l *Lease) Deposit() int64 {
	if !l.reserved {
		return 0
	}
	return l.policy.cfg.Budget.Deposit()
}

// Expires returns when the service ends by its limits; zero if no limit sets it.
func (l *Lease) Expires() time.Time {
	after := l.policy.cfg.Limits.ExpireAfter
	if after == 0 {
		return time.Time{}
	}
	return l.policy.counts.begun.Add(after)
}

// MaxBody returns the size of the largest body in bytes; 0 means no limit.
func (l *Lease) MaxBody() int64 { return l.policy.cfg.Limits.MaxBody }

// TooLarge returns the denial of a body over MaxBody, for one whose size shows
// late.
func (l *Lease) TooLarge() *apierror.Error {
	return apierror.Newf(apierror.BodyTooLarge, 0, "The request's body is larger than %d bytes. The limit is --max-body.", l.MaxBody())
}
