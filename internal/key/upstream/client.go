// Package upstream sends requests to the one upstream: it makes connections and TLS sessions, and writes the API key to
// them and nowhere else.
package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/secret"
)

// Config describes the upstream and the credential.
type Config struct {
	// Target is the destination. Required.
	Target *Target
	// Key is the credential. Required.
	Key *secret.Key
	// LegacyTLS uses TLS 1.2, with AEAD cipher suites only, in place of 1.3.
	LegacyTLS bool
	// Roots are the trusted certificate authorities; nil means those of the system, SSL_CERT_FILE and SSL_CERT_DIR.
	Roots *x509.CertPool
	// Users are trusted as the user of an upstream on this host over plain http, besides root and the user that runs
	// the process when New is called. Nothing is sent to a process of any other user.
	Users []uint32
}

// Client sends requests to its Endpoint, the target. Its methods may be called concurrently.
type Client struct {
	*Endpoint
	key  *secret.Key
	line []byte // request line and Host of a POST to the target
	host []byte // the part after the target of any other request
	most int    // the length of a line, in bytes, with which the credential fits into one record
	pool pool

	mu    sync.Mutex // guards stats
	stats Stats
}

// Stats are totals since New: connections that were started, by result.
type Stats struct {
	// Connected connections could carry requests; the others never did.
	Connected, Unreachable, TLSFailed, Timeouts int64
	// GivenUp connections were not established when their request ended.
	GivenUp int64
}

// New prepares a client and reads all files that it needs. It makes no connections.
func New(cfg Config) (*Client, error) {
	e, err := NewEndpoint(cfg)
	if err != nil {
		return nil, err
	}
	if e.tls != nil {
		// A resumed handshake has neither certificate nor signature, which are most of its cost on both sides. An
		// Exchange resumes none: it would leave a copy of its first record, which may be the token, beside the
		// session's keys.
		e.tls.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	}
	host := " HTTP/1.1\r\nhost: " + cfg.Target.Host + "\r\n"
	c := &Client{Endpoint: e, key: cfg.Key, line: []byte("POST " + cfg.Target.Path + host), host: []byte(host)}
	c.most = maxSecretRecord - c.key.MaxLen()
	if c.Room() < 0 {
		e.Close()
		return nil, fmt.Errorf("--upstream-url is too long; shorten it to about %d characters", len(c.line)+c.Room())
	}
	return c, nil
}

// Path returns the target's path, to which a Request without a Target is sent.
func (c *Client) Path() string { return c.target.Path }

// Room returns how many bytes longer than the Client's own a request's method and target may be together: request line
// and credential share one record.
func (c *Client) Room() int { return c.most - len(c.line) }

// Stats returns the current totals.
func (c *Client) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// Close closes the idle connections. Over plain http to this host, no further connection can be made.
func (c *Client) Close() {
	c.pool.close()
	c.Endpoint.Close()
}

// Do sends r and returns the response when its head has arrived; it does not limit how long the upstream takes. When
// ctx ends, the connection is closed at once. A request of which the upstream may have received a byte is never sent
// again, because it may have been executed. Errors are of type *Error. r must not be used for another call before the
// response is closed.
func (c *Client) Do(ctx context.Context, r *Request) (*Response, error) {
	for {
		if ctx.Err() != nil {
			return nil, cancelled(ctx, nil)
		}
		cn, reused, err := c.connectionFor(ctx, r)
		if err != nil {
			return nil, cancelled(ctx, err)
		}
		res, err := c.exchange(ctx, cn, r, reused)
		if err == nil {
			return res, nil
		}
		// The pooled connection accepted no byte, so the request can be sent on another one.
		if reused && errors.Is(err, errNothingSent) && ctx.Err() == nil {
			continue
		}
		err = cancelled(ctx, err)
		if e, ok := errors.AsType[*Error](err); ok {
			e.Reused = reused
		}
		return nil, err
	}
}

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

// afterFunc is context.AfterFunc. If ctx has a method AfterFunc, which context.AfterFunc would use too, nothing is
// allocated here.
func afterFunc(ctx context.Context, f func()) (stop func() bool) {
	if c, ok := ctx.(interface{ AfterFunc(f func()) func() bool }); ok {
		return c.AfterFunc(f)
	}
	return context.AfterFunc(ctx, f)
}

// errNothingSent means that the connection has accepted no byte of the request.
var errNothingSent = errors.New("sending the request")

// exchange sends r on cn and reads the head of the response. cn then belongs to the response; on an error or a panic it
// is closed.
func (c *Client) exchange(ctx context.Context, cn *conn, r *Request, reused bool) (*Response, error) {
	res := &r.response
	*res = Response{} // not with its fields, which would need space in this frame, below that of the wait
	res.Reused, res.c, res.client, res.request, res.ctx = reused, cn, c, r, ctx
	res.unwatch = afterFunc(ctx, cn.abort)
	ok := false
	defer func() {
		if !ok {
			res.Close()
		}
	}()
	before := cn.bytesWritten.Load()
	err := res.begin()
	switch {
	case errors.Is(err, secret.ErrWiped):
		return nil, &Error{Kind: Internal, Cause: err}
	case isKind(err, Internal):
		return nil, err
	case err != nil && cn.bytesWritten.Load() == before:
		return nil, fail(Closed, "%w: %w", errNothingSent, err)
	}
	// After a failed write there may still be a response, such as 413.
	if err := res.readHead(); err != nil {
		return nil, err
	}
	if err != nil {
		res.reuse = false
	}
	ok = true
	return res, nil
}
