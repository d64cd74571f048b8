package upstream

import (
	"context"
	"sync"
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
	c.stats.mu.Lock()
	defer c.stats.mu.Unlock()
	return c.stats.sums
}

type counts struct {
	mu   sync.Mutex
	sums Stats
}

// dialed counts a connection by what came of it.
func (c *counts) dialed(ctx context.Context, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.sums.Connected++
	case ctx.Err() != nil:
		c.sums.GivenUp++
	case isKind(err, TLSFailed):
		c.sums.TLSFailed++
	case isKind(err, Timeout):
		c.sums.Timeouts++
	default:
		c.sums.Unreachable++
	}
}
