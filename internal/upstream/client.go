// Package upstream is the way to the one destination: connections, TLS, and the writer that puts the API key on the
// wire and nowhere else.
package upstream

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"

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

// Client sends requests to the target. Its methods may be used concurrently.
type Client struct {
	dialer *dialer
	key    *secret.Key
	prefix []byte // request line and Host of a POST to the target
	host   []byte // what follows the target of any other request
	pool   pool
	stats  counts
}

// New prepares a client and reads all files that it needs. It connects to nothing.
func New(cfg Config) (*Client, error) {
	d, err := newDialer(cfg.Target, cfg.LegacyTLS, cfg.Roots, cfg.Users)
	if err != nil {
		return nil, err
	}
	host := " HTTP/1.1\r\nhost: " + cfg.Target.Host + "\r\n"
	c := &Client{dialer: d, key: cfg.Key, prefix: []byte("POST " + cfg.Target.Path + host), host: []byte(host)}
	if room := maxSecretRecord - cfg.Key.MaxLen(); len(c.prefix) > room {
		d.guard.close()
		return nil, fmt.Errorf("--upstream-url is too long: there is room for about %d characters", room)
	}
	return c, nil
}

// Path is the target's: where a Request without a Target of its own goes.
func (c *Client) Path() string { return c.dialer.target.Path }

// Room is how many bytes longer than the Client's own a request's method and target may be together: request line and
// credential share one record.
func (c *Client) Room() int { return maxSecretRecord - c.key.MaxLen() - len(c.prefix) }

// Port is the only TCP port that the client connects to: the target's, or the forward proxy's.
func (c *Client) Port() uint16 { return c.dialer.port() }

// Unguarded reports whether plain http to this host may bring the key to any user who takes the upstream's port: the
// system does not report who it is.
func (c *Client) Unguarded() bool {
	g := c.dialer.guard
	return g != nil && g.blind()
}

// Close closes the connections that wait for another request. Over plain http to this host no other connection can be
// made then.
func (c *Client) Close() {
	c.pool.close()
	c.dialer.guard.close()
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
	cn, err = c.dialer.dial(ctx)
	c.stats.dialed(ctx, err)
	return cn, false, err
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
	w := &writer{conn: cn, key: c.key, prefix: c.begin(r)}
	if len(w.prefix) > maxSecretRecord-c.key.MaxLen() {
		return nil, fail(Internal, "bug: the request line is too long for the credential's record")
	}
	left, err := w.start(ctx, r)
	switch {
	case errors.Is(err, secret.ErrWiped):
		return nil, &Error{Kind: Internal, Cause: err}
	case err != nil && cn.taken.Load() == before:
		return nil, fail(Closed, "sending the request: %w", err)
	case err == nil:
		r.Fields = nil
		if r.Sent != nil {
			r.Sent()
		}
		if len(left) > 0 || r.Rest != nil {
			res.copyBody(w, left)
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

func isKind(err error, kind Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == kind
}

// cancelled lets the caller's own end take precedence over what came of it.
func cancelled(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fail(Cancelled, "the request was cancelled: %w", context.Cause(ctx))
	}
	return err
}
