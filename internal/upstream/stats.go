package upstream

import (
	"context"
	"errors"
	"sync/atomic"
)

// Stats are sums since the client was made: of connections that were begun, by what came of them.
type Stats struct {
	// Connected could carry requests; the others never did.
	Connected, Unreachable, TLSFailed, Timeouts int64
	// GivenUp were still being made when their request ended.
	GivenUp int64
}

// Stats returns the sums of this moment.
func (c *Client) Stats() Stats {
	s := &c.stats
	return Stats{s.connected.Load(), s.unreachable.Load(), s.tlsFailed.Load(), s.timeouts.Load(), s.givenUp.Load()}
}

type counts struct{ connected, unreachable, tlsFailed, timeouts, givenUp atomic.Int64 }

// dialed counts a connection by what came of it.
func (c *counts) dialed(ctx context.Context, err error) {
	var e *Error
	switch {
	case err == nil:
		c.connected.Add(1)
	case ctx.Err() != nil:
		c.givenUp.Add(1)
	case errors.As(err, &e) && e.Kind == TLSFailed:
		c.tlsFailed.Add(1)
	case errors.As(err, &e) && e.Kind == Timeout:
		c.timeouts.Add(1)
	default:
		c.unreachable.Add(1)
	}
}
