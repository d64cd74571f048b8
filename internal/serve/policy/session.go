package policy

import (
	"fmt"
	"math"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/peer"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// Session is one connection. A nil Session permits no request.
type Session struct {
	policy  *Policy
	caller  audit.Caller
	unnamed bool            // its user may send no request
	denial  *apierror.Error // of all requests; nil if each is decided individually
	leave   func()          // gives up its place among the connections; nil if it got none
	since   time.Time       // when it got its place
	closed  atomic.Bool
}

// Connect identifies the user at the other end of nc, once, and counts the connection. It does not block. If a decision
// depends on the user, an unidentified one is denied. The caller must close the session after nc.
func (p *Policy) Connect(nc net.Conn) *Session {
	s := &Session{policy: p, since: time.Now(), caller: p.identifyCaller(nc)}
	if !s.caller.Known && p.needsUID {
		// An unidentified peer must not be treated as uid 0 or charged against root's limits.
		p.Unknown.Add(1)
		s.deny(apierror.Newf(apierror.UserNotAllowed, 0, "The kernel does not say whose connection this is (it may be half closed). It matters here: connect again, and keep the connection open until the answer is there."))
		return s
	}
	s.unnamed = !p.cfg.Users.Empty() && !p.cfg.Users.admits(s.caller)
	limit := 0
	if s.unnamed {
		limit = maxUnnamed
	}
	s.leave = p.enter(s.charged(), amongAdmitted, limit, 0)
	switch {
	case s.leave != nil:
	case s.unnamed:
		s.deny(s.forbidden("--allow-user %d"))
	default:
		user := "Users whom the kernel does not report have"
		if s.caller.Known {
			user = fmt.Sprintf("Uid %d has", s.caller.UID)
		}
		s.deny(apierror.Newf(apierror.TooManyConnections, 1, "%s as many connections open as are free. Close some; the proxy's operator can raise the limit of open files (ulimit -n).", user))
	}
	return s
}

// identifyCaller never guesses: Known is false for a caller that the kernel does not identify.
func (p *Policy) identifyCaller(nc net.Conn) (who audit.Caller) {
	switch c := nc.(type) {
	case *net.TCPConn:
		if p.tcp != nil {
			uid, err := p.tcp.Owner(c)
			who.UID, who.Known = uid, err == nil
		}
	case *net.UnixConn:
		who.Unix = true
		cred, err := peer.OfUnix(c)
		who.UID, who.Groups, who.Known, who.PID = cred.UID, append(cred.Groups, cred.GID), err == nil, int(cred.PID)
		if p.cfg.Commands && err == nil {
			// If the process has ended, another one may have its pid by now. Without a name the text is "".
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cred.PID))
			who.Command = strings.TrimSuffix(string(name), "\n")
		}
	}
	return who
}

// deny denies all requests of the session.
func (s *Session) deny(e *apierror.Error) {
	s.denial, s.leave = e, s.policy.enter(s.charged(), amongRefused, maxRefused, 0)
}

// Denial returns the reason why the session may send no request; nil if each is decided individually.
func (s *Session) Denial() *apierror.Error { return s.denial }

// Silent reports whether the connection must be closed without a response, because too many connections of the same
// user are open only to receive a denial.
func (s *Session) Silent() bool { return s.leave == nil }

// charged returns the uid under which the connection is counted.
func (s *Session) charged() uint32 {
	if s.unnamed || !s.caller.Known {
		return noUser
	}
	return s.caller.UID
}

// Close releases the connection's place. Further calls do nothing.
func (s *Session) Close() {
	if s.leave == nil || s.closed.Swap(true) {
		return
	}
	if rest := refusedFor - time.Since(s.since); s.denial != nil && rest > 0 {
		time.AfterFunc(rest, s.leave)
		return
	}
	s.leave()
}

// Caller returns the user at the other end; the zero Caller for a nil Session.
func (s *Session) Caller() audit.Caller {
	if s == nil {
		return audit.Caller{}
	}
	return s.caller
}

// Metered reports whether the tokens of responses must be counted.
func (s *Session) Metered() bool { return s == nil || s.policy.cfg.Budget != nil }

// Use is the purpose of a request.
type Use byte

const (
	Nothing  Use = iota // refused by its route: admitted if the session may send requests; the lease holds nothing
	Shutdown            // stops the proxy; the lease holds nothing
	Free                // costs no tokens: no budget limits it
	Spend               // can cost tokens
)

// Admit decides on the request with the given head: it returns either a lease, which must be released, or a denial. It
// does not keep head.
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
	if d := l.CheckBody(head.Length); d != nil {
		return nil, d
	}
	if use == Spend && p.cfg.Budget != nil {
		if d := l.Reserve(); d != nil {
			return nil, d
		}
	}
	if d := p.begin(s.charged()); d != nil {
		l.Release(0)
		return nil, d
	}
	l.running.Store(true)
	return l, nil
}

// check decides whether the session may send head at all, by its user and its origin.
func (s *Session) check(head *http1.Request, stopping bool) *apierror.Error {
	if s.denial != nil {
		return s.denial
	}
	cfg := &s.policy.cfg
	if !s.caller.Unix && cfg.Origin != nil {
		if d := cfg.Origin.check(head, stopping); d != nil {
			return d
		}
	}
	if !cfg.Users.Empty() && !cfg.Users.admits(s.caller) {
		return s.forbidden("--allow-user %d")
	}
	if stopping && !cfg.ShutdownUsers.Empty() && !cfg.ShutdownUsers.admits(s.caller) {
		return s.forbidden("--http-shutdown=%d")
	}
	return nil
}

// forbidden returns the denial of a caller whom the flag, with the uid for its %d, would admit.
func (s *Session) forbidden(flag string) *apierror.Error {
	if s.policy.overflow && s.caller.UID == 65534 {
		return apierror.Newf(apierror.UserNotAllowed, 0, "Uid 65534 stands for every user whom the proxy's user namespace does not map, and cannot be admitted. Call it as a user whom that maps.")
	}
	const text = "Uid %d may not do this. The proxy's operator can admit it with "
	return apierror.Newf(apierror.UserNotAllowed, 0, text+flag+".", s.caller.UID, s.caller.UID)
}

// Lease is one admitted request.
type Lease struct {
	*Session
	deposit  int64       // for each response that may be under way; 0 without a budget
	deposits int         // that are reserved in the budget
	running  atomic.Bool // it counts as a running request
	released atomic.Bool
}

// Detach ends the counting of the request as running before the lease is released, because its client has disconnected.
// Further calls do nothing. It may be called from any goroutine.
func (l *Lease) Detach() {
	if l.running.Swap(false) {
		l.policy.leave(l.charged(), amongRunning)
		l.policy.checkExpired()
	}
}

// ReadOn counts the request among those whose responses are read on after their clients have left, of which there may
// be perUser of each user and total in all. It returns what undoes that, to be called once; nil if there are as many
// already.
func (l *Lease) ReadOn(perUser, total int) (end func()) {
	return l.policy.enter(l.charged(), amongReadOn, perUser, total)
}

// Release ends the lease with the tokens that the request cost, a negative number if an earlier request of the same
// user was charged too much. Further calls do nothing.
func (l *Lease) Release(tokens int64) {
	if l.released.Swap(true) {
		return
	}
	if b := l.policy.cfg.Budget; b != nil {
		b.Charge(l.caller.UID, l.deposits, tokens)
	}
	l.Detach()
}

// Reserve reserves a deposit: for the request, and another, as another request would, for each further response that it
// makes. It returns the denial of that. It must not be called without a budget, nor once the lease is released.
func (l *Lease) Reserve() *apierror.Error {
	b, uid := l.policy.cfg.Budget, l.caller.UID
	spent, ok := b.Reserve(uid)
	switch {
	case ok:
		l.deposit = b.Deposit()
		l.deposits++
		return nil
	case spent < b.Limit():
		return apierror.Newf(apierror.TooManyRequests, 1, "The running requests of uid %d may spend the rest of its budget of tokens. Try again when one of them has ended; the limit is --max-tokens-per-user.", uid).
			Meeting("Tokens", b.Limit(), b.Limit()-spent)
	}
	wait, when := 0, ""
	_, resets := b.Period()
	if !resets.IsZero() {
		wait, when = max(1, int(math.Ceil(time.Until(resets).Seconds()))), ", which resets at "+resets.Format(time.RFC3339)
	}
	e := apierror.Newf(apierror.BudgetExhausted, wait, "Uid %d has spent its budget of tokens (%d so far)%s. The proxy's operator can raise --max-tokens-per-user.", uid, spent, when)
	e.ResetsAt = resets
	return e.Meeting("Tokens", b.Limit(), 0)
}

// Renew settles the tokens that one of the responses cost, and reserves the last deposit anew. It returns the denial of
// any further response; the lease must be released all the same. The conditions are those of Reserve.
func (l *Lease) Renew(tokens int64) *apierror.Error {
	l.policy.cfg.Budget.Charge(l.caller.UID, 1, tokens)
	if l.deposits--; l.deposits > 0 {
		return nil
	}
	return l.Reserve()
}

// Deposit returns the tokens that the request is charged if its response does not report its usage; 0 without a budget.
func (l *Lease) Deposit() int64 { return l.deposit }

// BudgetSince returns when the sums of the budget started; the zero time without a budget.
func (l *Lease) BudgetSince() (since time.Time) {
	if b := l.policy.cfg.Budget; b != nil {
		since, _ = b.Period()
	}
	return since
}

// Expires returns when the service ends by its limits; zero if no limit sets it.
func (l *Lease) Expires() time.Time { return l.policy.expires }

// CheckBody returns the denial of a body of more than Limits.MaxBody bytes, and nil for a smaller one.
func (l *Lease) CheckBody(size int64) *apierror.Error {
	limit := l.policy.cfg.Limits.MaxBody
	if limit <= 0 || size <= limit {
		return nil
	}
	return apierror.Newf(apierror.BodyTooLarge, 0, "The request's body is larger than %d bytes. The limit is --max-body.", limit)
}
