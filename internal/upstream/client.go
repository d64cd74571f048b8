// Package upstream is the way to the one destination: connections, TLS, and the writer that puts the API key on the
// wire and nowhere else.
package upstream

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"

	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
)

// Config says where to and with what.
type Config struct {
	// Target is the destination. Required.
	Target *Target
	// Key is the credential. Required.
	Key *secret.Key
	// LegacyTLS speaks TLS 1.2, with AEAD cipher suites only, in place of 1.3.
	LegacyTLS bool
	// Roots are the trusted certificate authorities; nil means those of the system, SSL_CERT_FILE and SSL_CERT_DIR.
	Roots *x509.CertPool
	// Users may be the upstream on this host if it is reached by plain http, as root and the user that runs the process
	// when New is called always may. A process of any other user is sent nothing.
	Users []uint32
}

// Client sends requests to its Endpoint, the target. Its methods may be used concurrently.
type Client struct {
	*Endpoint
	key  *secret.Key
	line []byte // request line and Host of a POST to the target
	host []byte // what follows the target of any other request
	pool pool

	mu    sync.Mutex // of stats
	stats Stats
}

// Stats are sums since the client was made: of connections that were begun, by what came of them.
type Stats struct {
	// Connected could carry requests; the others never did.
	Connected, Unreachable, TLSFailed, Timeouts int64
	// GivenUp were still being made when their request ended.
	GivenUp int64
}

// New prepares a client and reads all files that it needs. It connects to nothing.
func New(cfg Config) (*Client, error) {
	e, err := newEndpoint(cfg)
	if err != nil {
		return nil, err
	}
	host := " HTTP/1.1\r\nhost: " + cfg.Target.Host + "\r\n"
	c := &Client{Endpoint: e, key: cfg.Key, line: []byte("POST " + cfg.Target.Path + host), host: []byte(host)}
	if c.Room() < 0 {
		e.Close()
		return nil, fmt.Errorf("--upstream-url is too long: there is room for about %d characters", len(c.line)+c.Room())
	}
	return c, nil
}

// Path is the target's: where a Request without a Target of its own goes.
func (c *Client) Path() string { return c.target.Path }

// Room is how many bytes longer than the Client's own a request's method and target may be together: request line and
// credential share one record.
func (c *Client) Room() int { return maxSecretRecord - c.key.MaxLen() - len(c.line) }

// Stats returns the sums of this moment.
func (c *Client) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// Close closes the connections that wait for another request. Over plain http to this host no other connection can be
// made then.
func (c *Client) Close() {
	c.pool.close()
	c.Endpoint.Close()
}

// Do sends r and returns the answer once its head is there; the upstream may take as long as it likes. When ctx ends,
// the connection is closed at once. A request of which the upstream may have seen a byte is never sent again. Errors
// are of type *Error.
func (c *Client) Do(ctx context.Context, r *Request) (*Response, error) {
	for {
		if ctx.Err() != nil {
			return nil, cancelled(ctx, nil)
		}
		cn, reused, err := c.connectionFor(ctx, r)
		if err != nil {
			return nil, cancelled(ctx, err)
		}
		before := cn.taken.Load()
		res, err := c.exchange(ctx, cn, r)
		if err == nil {
			res.Reused = reused
			return res, nil
		}
		// The pooled connection was dead and took nothing: the next one is as good as the first.
		if reused && cn.taken.Load() == before && r.Rest == nil && ctx.Err() == nil && isKind(err, Closed) {
			continue
		}
		var e *Error
		if err = cancelled(ctx, err); errors.As(err, &e) {
			e.Reused = reused
		}
		return nil, err
	}
}

// connectionFor takes a pooled connection or makes a new one.
func (c *Client) connectionFor(ctx context.Context, r *Request) (cn *conn, reused bool, err error) {
	if !r.Upgrade {
		if cn := c.pool.get(); cn != nil {
			return cn, true, nil
		}
	}
	cn, err = c.dial(ctx)
	c.count(ctx, err)
	return cn, false, err
}

// count counts a connection that was begun, by what came of it.
func (c *Client) count(ctx context.Context, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.stats.Connected++
	case ctx.Err() != nil:
		c.stats.GivenUp++
	case isKind(err, TLSFailed):
		c.stats.TLSFailed++
	case isKind(err, Timeout):
		c.stats.Timeouts++
	default:
		c.stats.Unreachable++
	}
}

// exchange sends r on cn and reads the head of the answer. cn belongs to the answer, or is closed on an error, and on a
// panic.
func (c *Client) exchange(ctx context.Context, cn *conn, r *Request) (*Response, error) {
	res := &Response{c: cn, client: c, request: r}
	res.unwatch = context.AfterFunc(ctx, cn.close)
	answered := false
	defer func() {
		if !answered {
			res.Close()
		}
	}()
	before := cn.taken.Load()
	left, err := c.sendHead(ctx, cn, r)
	switch {
	case errors.Is(err, secret.ErrWiped):
		return nil, &Error{Kind: Internal, Cause: err}
	case isKind(err, Internal):
		return nil, err
	case err != nil && cn.taken.Load() == before:
		return nil, fail(Closed, "sending the request: %w", err)
	case err == nil:
		r.Fields = nil
		if r.Sent != nil {
			r.Sent()
		}
		if len(left) > 0 || r.Rest != nil {
			res.copyBody(left)
		}
	}
	// After a failed write there may still be an answer, such as 413.
	if err := res.readHead(); err != nil {
		return nil, err
	}
	if err != nil {
		res.reuse = false
	}
	answered = true
	return res, nil
}
