package tokenexchange

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	maxMargin = time.Minute // latest time before a token's end at which it is renewed
	// hintPause is the time after an exchange in which Renew has no effect: requests that are refused then were mostly
	// sent with the old token, or a new one would be refused too.
	hintPause            = 30 * time.Second
	firstRetry, maxRetry = time.Second, time.Minute
	// minPause is the minimum time between exchanges, even if tokens expire at once.
	minPause = time.Second
)

// Start performs the first exchange, within ctx, and then keeps the access token valid until Close. It does not retry
// the first exchange: a mistake in the configuration would persist.
func (x *Exchanger) Start(ctx context.Context) error {
	first, err := x.exchange(ctx)
	if err != nil {
		return err
	}
	ctx, x.cancel = context.WithCancel(context.WithoutCancel(ctx))
	x.renewal.Go(func() { x.run(ctx, first) })
	return nil
}

// Renew reports that the upstream refused the access token. It starts at most one exchange, however often it is called
// while responses to the old token arrive, and none shortly after the last one. It does not block.
func (x *Exchanger) Renew() {
	select {
	case x.hint <- struct{}{}:
	default:
	}
}

// Close ends the renewal and waits for a running exchange to be cancelled. The access token stays installed; the owner
// of Key wipes it.
func (x *Exchanger) Close() {
	x.cancel()
	x.renewal.Wait()
	if x.expiry != nil {
		x.expiry.Stop()
	}
	x.tokens.endpoint.Close()
	x.identity.endpoint.Close() // nil without an identity provider
}

// run renews the token that expires then, and its successors. After each failure in a row it waits twice as long, less
// up to a fifth. It is the only goroutine that exchanges, so that exchanges never overlap.
func (x *Exchanger) run(ctx context.Context, expires time.Time) {
	retry, wait := firstRetry, untilRenewal(expires)
	for x.wait(ctx, wait) {
		expires, err := x.exchange(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait = retry - jitter(retry/5)
			retry = min(2*retry, maxRetry)
			x.cfg.Report(fmt.Sprintf("cannot renew the access token: %v; next attempt in %v", err, wait.Round(time.Second)))
			continue
		case retry > firstRetry:
			x.cfg.Report("access token renewed")
		}
		retry, wait = firstRetry, untilRenewal(expires)
	}
}

// wait waits until the next exchange is due. It returns false when ctx ends.
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

// untilRenewal returns the time until min(60 s, 10 %) before a new token expires, or up to a quarter of that earlier,
// so that proxies that started together do not renew together.
func untilRenewal(expires time.Time) time.Duration {
	left := max(time.Until(expires), 0)
	margin := min(maxMargin, left/10)
	return max(left-margin-jitter(margin/4), minPause)
}

// jitter returns a random duration from 0 to d.
func jitter(d time.Duration) time.Duration { return rand.N(d + 1) }

// install sets the key to token until that expires.
func (x *Exchanger) install(token []byte, expires time.Time) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.cfg.Key.Set(token); err != nil {
		return err
	}
	if x.expiry != nil {
		x.expiry.Stop()
	}
	x.expires, x.expiry = expires, time.AfterFunc(time.Until(expires), x.expire)
	return nil
}

// expire wipes the access token, unless a later one has replaced it.
func (x *Exchanger) expire() {
	x.mu.Lock()
	expired := !time.Now().Before(x.expires)
	if expired {
		x.cfg.Key.Forget()
	}
	x.mu.Unlock()
	if expired {
		x.cfg.Report("access token expired; requests cannot be served until it is renewed")
	}
}
