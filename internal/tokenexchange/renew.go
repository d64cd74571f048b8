package tokenexchange

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
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
		x.stopExpiry()
		return err
	}
	ctx, x.cancel = context.WithCancel(context.WithoutCancel(ctx))
	x.done = make(chan struct{})
	go func() {
		defer close(x.done)
		x.run(ctx, first)
	}()
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
	if x.cancel != nil { // started
		x.cancel()
		<-x.done
		x.stopExpiry()
	}
	x.tokens.Close()
	x.identity.Close() // nil if there is none
}

// run renews the token of which serves is the lifetime, and its successors. It alone exchanges, so that there is never
// more than one exchange.
func (x *Exchanger) run(ctx context.Context, serves lifetime) {
	failures := 0
	wait := serves.untilRenewal()
	for x.wait(ctx, wait) {
		next, err := x.exchange(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			if failures > 0 {
				x.cfg.Report("the access token has been renewed")
			}
			failures, wait = 0, next.untilRenewal()
		default:
			wait = retryAfter(failures)
			failures++
			x.cfg.Report(fmt.Sprintf("cannot renew the access token: %v; the next try is in %v", err, wait.Round(time.Second)))
		}
	}
}

// wait waits until the next exchange is due. It is false when ctx has ended.
func (x *Exchanger) wait(ctx context.Context, d time.Duration) bool {
	begun := time.Now()
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
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

// jitter is a time from 0 up to d.
func jitter(d time.Duration) time.Duration { return rand.N(d + 1) }

// install puts token into the key's place until it expires.
func (x *Exchanger) install(token []byte, l lifetime) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	err := x.cfg.Key.Set(func(room []byte) (int, error) {
		if len(token) > len(room) {
			return 0, errRoom
		}
		return copy(room, token), nil
	})
	switch {
	case errors.Is(err, secret.ErrBadBytes):
		return errAnswer
	case err != nil:
		return err
	}
	if x.expiry != nil {
		x.expiry.Stop()
	}
	x.installed++
	which := x.installed
	x.expiry = time.AfterFunc(time.Until(l.expires), func() { x.expire(which) })
	return nil
}

// expire wipes the token that was installed as that one, unless it has been replaced.
func (x *Exchanger) expire(which int) {
	x.mu.Lock()
	current := x.installed == which && x.expiry != nil
	if current {
		x.cfg.Key.Forget()
	}
	x.mu.Unlock()
	if current {
		x.cfg.Report("the access token has expired; requests cannot be served until it is renewed")
	}
}

func (x *Exchanger) stopExpiry() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.expiry != nil {
		x.expiry.Stop()
		x.expiry = nil
	}
}
