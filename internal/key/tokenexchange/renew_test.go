package tokenexchange

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/secret"
)

// plan is an Exchanger whose exchanges follow a plan, in a synctest bubble.
type plan struct {
	*Exchanger
	begun   time.Time
	mu      sync.Mutex
	at      []time.Duration // when exchanges began
	reports []string
	length  time.Duration
	takes   time.Duration
	err     error
}

func newPlan(t *testing.T, length time.Duration) *plan {
	p := &plan{begun: time.Now(), length: length}
	p.Exchanger = &Exchanger{hint: make(chan struct{}, 1), cancel: func() {}, cfg: Config{Key: emptyKey(t), Report: p.report}}
	p.exchange = p.once
	return p
}

func (p *plan) report(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reports = append(p.reports, line)
}

// once installs token-N.
func (p *plan) once(ctx context.Context) (time.Time, error) {
	begun := time.Now()
	p.mu.Lock()
	p.at = append(p.at, begun.Sub(p.begun))
	n, takes, fails := len(p.at), p.takes, p.err
	p.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	}
	if fails != nil {
		return time.Time{}, fails
	}
	expires := begun.Add(p.length)
	return expires, p.install(fmt.Appendf(nil, "token-%d", n), expires)
}

// set defines the result of the next exchanges.
func (p *plan) set(takes time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.takes, p.err = takes, err
}

func (p *plan) count() int {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.at)
}

func (p *plan) start(t *testing.T) {
	t.Helper()
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
}

func (p *plan) serves(t *testing.T, token string) {
	t.Helper()
	synctest.Wait()
	want := secret.ErrWiped.Error()
	if token != "" {
		want = bearer(token)
	}
	if got := lineOf(p.cfg.Key); got != want {
		t.Errorf("after %v the key is %q, want %q", time.Since(p.begun), got, want)
	}
}

// TestRenewsBeforeTheEnd: a renewal is min(60 s, 10 %) before the end, or up to a quarter of that earlier.
func TestRenewsBeforeTheEnd(t *testing.T) {
	for length, margin := range map[time.Duration]time.Duration{
		10 * time.Second: time.Second, 100 * time.Second: 10 * time.Second, 600 * time.Second: time.Minute,
		time.Hour: time.Minute, 30 * 24 * time.Hour: time.Minute,
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newPlan(t, length)
			p.start(t)
			for i := range 20 {
				p.serves(t, fmt.Sprintf("token-%d", i+1))
				end := p.begun.Add(p.at[i] + length)
				time.Sleep(time.Until(end.Add(-margin - margin/4 - time.Millisecond)))
				if n := p.count(); n != i+1 {
					t.Fatalf("%v: %d exchanges, too early", length, n)
				}
				time.Sleep(time.Until(end.Add(-margin + time.Millisecond)))
				if n := p.count(); n != i+2 {
					t.Fatalf("%v: %d exchanges, too late", length, n)
				}
			}
			if len(p.reports) > 0 {
				t.Errorf("%v: %q", length, p.reports)
			}
		})
	}
}

// TestTokensThatExpireAtOnce: exchanges have a minimum distance.
func TestTokensThatExpireAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlan(t, time.Second)
		p.set(3*time.Second, nil)
		p.start(t)
		time.Sleep(40 * time.Second)
		if n := p.count(); n < 8 || n > 11 {
			t.Errorf("%d exchanges of 3 s in 43 s", n)
		}
	})
}

// TestRetries: failed exchanges become rarer, the old token is valid to its end and not longer, and a new one is used
// at once.
func TestRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlan(t, 100*time.Second)
		p.start(t)
		p.set(0, errors.New("GitHub OIDC token request rejected (HTTP 500)"))
		time.Sleep(100*time.Second - time.Millisecond)
		p.serves(t, "token-1")
		time.Sleep(2 * time.Millisecond)
		p.serves(t, "")
		time.Sleep(400 * time.Second)
		p.serves(t, "")
		for i := range len(p.at) - 2 {
			gap, want := p.at[i+2]-p.at[i+1], min(time.Second<<i, time.Minute)
			if gap > want || gap < want*4/5-time.Millisecond {
				t.Errorf("try %d came after %v, want about %v", i+2, gap, want)
			}
		}
		p.set(0, nil)
		tries := p.count()
		time.Sleep(time.Minute)
		if n := p.count(); n != tries+1 {
			t.Errorf("%d tries, want %d", n, tries+1)
		}
		p.serves(t, fmt.Sprintf("token-%d", tries+1))
		all := strings.Join(p.reports, "\n")
		if strings.Count(all, "cannot renew the access token: GitHub OIDC token request rejected (HTTP 500); next attempt in ") != tries-1 ||
			strings.Count(all, "access token expired") != 1 || !strings.HasSuffix(all, "access token renewed") {
			t.Errorf("reports:\n%s", all)
		}
		time.Sleep(20 * time.Second) // the new token's expiry has its own timer
		p.serves(t, fmt.Sprintf("token-%d", tries+1))
	})
}

// TestExpiresDuringAnExchange: a token that expires during an exchange is not used.
func TestExpiresDuringAnExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlan(t, 100*time.Second)
		p.start(t)
		p.set(50*time.Second, nil)
		time.Sleep(99 * time.Second)
		p.serves(t, "token-1")
		time.Sleep(2 * time.Second)
		p.serves(t, "")
		time.Sleep(40 * time.Second)
		p.serves(t, "token-2")
		if n := p.count(); n != 2 {
			t.Errorf("%d exchanges", n)
		}
	})
}

// TestRenew: one exchange for a burst of refusals, whenever they arrive.
func TestRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlan(t, time.Hour)
		p.start(t)
		p.set(2*time.Second, nil)
		burst := func() {
			var callers sync.WaitGroup
			for range 100 {
				callers.Go(p.Renew)
			}
			callers.Wait()
		}
		burst()
		time.Sleep(hintPause - time.Second)
		burst()
		if n := p.count(); n != 1 {
			t.Errorf("%d exchanges right after the first", n)
		}
		time.Sleep(2 * time.Second)
		for range 20 { // before, during and after the exchange
			burst()
			time.Sleep(time.Second)
		}
		if n := p.count(); n != 2 {
			t.Errorf("%d exchanges after one burst", n)
		}
		p.serves(t, "token-2")
		for range 100 { // refused permanently: one exchange in each hintPause
			burst()
			time.Sleep(time.Second)
		}
		if n := p.count(); n < 4 || n > 6 {
			t.Errorf("%d exchanges in 122 s of refusals", n)
		}
		time.Sleep(50 * time.Minute) // no further ones without refusals
		if n := p.count(); n > 6 {
			t.Errorf("%d exchanges without a reason", n)
		}
	})
}

func TestStartFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlan(t, time.Hour)
		p.set(0, errors.New("no"))
		if err := p.Start(t.Context()); err != p.err {
			t.Error(err)
		}
		p.Renew()
		time.Sleep(time.Hour)
		if n := p.count(); n != 1 {
			t.Errorf("%d tries", n)
		}
		p.Close()
	})
}

// TestClose cancels an exchange; none follows, and the key is unchanged. The end of Start's context does not end the
// renewal.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlan(t, 100*time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		if err := p.Start(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		p.set(time.Minute, nil)
		time.Sleep(95 * time.Second)
		if n := p.count(); n != 2 {
			t.Errorf("%d exchanges", n)
		}
		before := time.Now()
		p.Close()
		if d := time.Since(before); d != 0 {
			t.Errorf("Close took %v", d)
		}
		time.Sleep(time.Hour)
		p.serves(t, "token-1")
		if n := p.count(); n != 2 || len(p.reports) > 0 {
			t.Errorf("%d exchanges, %q", n, p.reports)
		}
	})
}

func TestRenewalAfterWipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlan(t, 10*time.Second)
		p.start(t)
		p.cfg.Key.Wipe()
		time.Sleep(time.Minute)
		p.serves(t, "")
	})
}
