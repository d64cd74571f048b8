package tokenexchange

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	maxMargin = time.Minute // before a token's end at which it is renewed
	// hintPause is the time after an exchange in which Renew does nothing: what is refused then was mostly sent with
	// the old token, or would be with the next one.
	hintPause            = 30 * time.Second
	firstRetry, maxRetry = time.Second, time.Minute
	// minPause is between exchanges even where tokens expire at once.
	minPause = time.Second
)

// Start exchanges tokens for the first time, within ctx, and then keeps the access token fresh until Close. It tries
// once: a mistake in the configuration would not go away.
func (x *Exchanger) Start(ctx context.Context) error {
	first, err := x.exchange(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		x.run(ctx, first)
	}()
	x.stop = func() {
		cancel()
		<-done
	}
	return nil
}

// Renew says that the upstream has refused the access token. It leads to one exchange at most, however often it is
// called while the responses to it come in, and to none soon after the last one. It does not block.
func (x *Exchanger) Renew() {
	select {
	case x.hint <- struct{}{}:
	default:
	}
}

// Close ends the renewal and waits for an exchange that is under way to break off. The access token stays in its place,
// whose owner wipes it.
func (x *Exchanger) Close() {
	if x.stop != nil {
		x.stop()
	}
	x.stopExpiry()
	x.tokens.endpoint.Close()
	x.identity.endpoint.Close() // nil if there is none
}

// run renews the token of which serves is the lifetime, and its successors. It alone exchanges, so that there is never
// more than one exchange.
func (x *Exchanger) run(ctx context.Context, serves lifetime) {
	failures, wait := 0, serves.untilRenewal()
	for x.wait(ctx, wait) {
		next, err := x.exchange(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait = retryAfter(failures)
			failures++
			x.cfg.Report(fmt.Sprintf("cannot renew the access token: %v; the next try is in %v", err, wait.Round(time.Second)))
			continue
		case failures > 0:
			x.cfg.Report("the access token has been renewed")
		}
		failures, wait = 0, next.untilRenewal()
	}
}

// wait waits until the next exchange is due. It is false when ctx has ended.
func (x *Exchanger) wait(ctx context.Context, d time.Duration) bool {
	for begun, due := time.Now(), time.After(d); ; {
		select {
		case <-ctx.Done():
			return false
		case <-due:
			return true
		case <-x.hint:
			if time.Since(begun) >= hintPause {
				return true
			}
		}
	}
}

// untilRenewal is the time until min(60 s, 10 %) before the end, or up to a quarter of that earlier, so that many
// proxies that were started together do not stay together.
func (l lifetime) untilRenewal() time.Duration {
	margin := min(maxMargin, l.length/10)
	return max(time.Until(l.expires)-margin-jitter(margin/4), minPause)
}

// retryAfter doubles with each failure, and varies by a fifth.
func retryAfter(failures int) time.Duration {
	d := min(firstRetry<<min(failures, 10), maxRetry)
	return d - jitter(d/5)
}

// jitter returns a time from 0 up to d.
func jitter(d time.Duration) time.Duration { return rand.N(d + 1) }

// install puts token into the key's place until it expires.
func (x *Exchanger) install(token []byte, l lifetime) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.cfg.Key.Set(func(room []byte) (int, error) { return copy(room, token), nil }); err != nil {
		return err
	}
	if x.expiry != nil {
		x.expiry.Stop()
	}
	x.expires, x.expiry = l.expires, time.AfterFunc(time.Until(l.expires), x.expire)
	return nil
}

// expire wipes the access token, unless it has been replaced by one that serves longer.
func (x *Exchanger) expire() {
	x.mu.Lock()
	expired := !x.expires.IsZero() && !time.Now().Before(x.expires)
	if expired {
		x.cfg.Key.Forget()
	}
	x.mu.Unlock()
	if expired {
		x.cfg.Report("the access token has expired; requests cannot be served until it is renewed")
	}
}

func (x *Exchanger) stopExpiry() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.expires = time.Time{}
	if x.expiry != nil {
		x.expiry.Stop()
	}
}
