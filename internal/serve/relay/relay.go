// Package relay forwards requests on a closed list of routes to the upstream, and the responses to the clients as
// they arrive.
package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/upstream"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/dump"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/websocket"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// Request is a request of a client, as the server hands it over. It owns its head.
type Request struct {
	// Head points into the server's buffer. Release makes it nil: whatever is needed later must have been copied.
	Head *http1.Request
	// Buffer has the bytes of the head. ReleaseHead is called once no one reads them any more. The body is not being
	// read meanwhile.
	Buffer interface{ ReleaseHead() }
	// Body is what follows the head. Its Read blocks, with the server's time limit on a client that has stopped
	// sending. io.EOF means that all of it was there.
	Body upstream.Body
	// Session is the connection's. Without one the request is refused.
	Session *policy.Session
	// Entry describes the exchange for the audit log. It is complete once Serve has returned or panicked.
	Entry audit.Entry
}

// Release gives the head's buffer back. Further calls do nothing.
func (r *Request) Release() {
	if r.Head != nil {
		r.Head = nil
		r.Buffer.ReleaseHead()
	}
}

// ResponseWriter writes the response to one request.
type ResponseWriter interface {
	// Head takes the response's head, and sets the Status of the request's Entry; length is as in package http1. The
	// server may hold it back until Write or Flush.
	Head(status int, fields []http1.Field, length int64)
	// Write takes a piece of the body. It blocks for as long as the client does not read.
	Write(p []byte) error
	// Flush sends what is held back.
	Flush() error
	// Leave ends the client's part in an exchange that goes on without it: its connection is closed, and counts no
	// more. Every write fails from then on. It may be called from any goroutine, more than once, and does not block.
	Leave()
	// Hijack takes the head of a 101, but for Upgrade and Connection, sends it, and hands over the connection, of
	// which nothing is used for HTTP any more. draining is closed when the service is about to end.
	Hijack(fields []http1.Field) (conn UpgradedConn, draining <-chan struct{}, err error)
}

// UpgradedConn is a client's connection that has become a WebSocket.
type UpgradedConn = websocket.Side

// Upstream sends requests to the one destination.
type Upstream interface {
	Do(ctx context.Context, r *upstream.Request) (*upstream.Response, error)
}

// Config configures a Relay.
type Config struct {
	// Upstream is where allowed requests go. Required.
	Upstream Upstream
	// OnRejected is called with the status when the upstream responds with 401, 403 or 429, before the response is
	// passed on; nil does nothing. It must not block.
	OnRejected func(status int)
	// Routes are the values of --allow-route; none means POST /v1/responses alone.
	Routes []string
	// Path is the upstream's, as in upstream.Target: the routes stand beside or below it. Room is how many bytes longer
	// than Path a target may be.
	Path string
	Room int
	// Address is where clients find the proxy, for messages; "" means HOST:PORT.
	Address string
	// Models are the models that requests may name, or beginnings of names with * behind them; none means every model.
	Models []string
	// Shutdown is called once the response to GET /shutdown has been handed to the server; nil means that the route
	// is closed.
	Shutdown func()
	// Records reads what only records need: the ID of the upstream's response, and what it cost where no budget depends
	// on that.
	Records bool
	// ReadOn limits what is read of responses whose clients have left.
	ReadOn ReadOn
	// Dump takes what passes; nil takes nothing.
	Dump *dump.Dir
	// Log takes each request that failed, and the error that its client received, or would have; nil drops them. The
	// request's Head is nil if it was released, or never read. Log must not block, and must not keep the request.
	Log func(r *Request, e *apierror.Error)
}

// Relay serves requests. Its methods may be used concurrently.
type Relay struct {
	cfg     Config
	routes  *routeSet
	owners  *owners         // nil where no response can be requested again
	running context.Context // of what outlives its client
	stop    context.CancelFunc
}

// New returns a Relay. It fails if the Upstream is missing. Its other errors are the operator's.
func New(cfg Config) (*Relay, error) {
	if cfg.Upstream == nil {
		return nil, errors.New("BUG: a relay without an upstream")
	}
	if cfg.Log == nil {
		cfg.Log = func(*Request, *apierror.Error) {}
	}
	cfg.Address = cmp.Or(cfg.Address, "HOST:PORT")
	open, err := newRouteSet(&cfg)
	if err != nil {
		return nil, err
	}
	on := &cfg.ReadOn
	on.Time, on.Bytes = cmp.Or(on.Time, 10*time.Minute), cmp.Or(on.Bytes, 64<<20)
	on.PerUser, on.Total = cmp.Or(on.PerUser, 8), cmp.Or(on.Total, 128)
	p := &Relay{cfg: cfg, routes: open}
	p.running, p.stop = context.WithCancel(context.Background())
	if slices.Contains(cfg.Routes, "retrieve") {
		p.owners = newOwners(maxOwned)
	}
	return p, nil
}

// Abort ends all exchanges that do not end with their clients, and all that are still to come. It does not wait for
// them.
func (p *Relay) Abort() { p.stop() }

// ErrAbort is returned by Serve when the response is incomplete: the server must end the connection so that the
// client cannot take it for complete.
var ErrAbort = errors.New("the response is incomplete")

// Serve responds to one request. ctx ends when the client leaves.
func (p *Relay) Serve(ctx context.Context, r *Request, w ResponseWriter) error {
	x := exchanges.Get().(*exchange)
	x.Request, x.relay, x.w = r, p, w
	err := x.serve(ctx)
	x.recycle() // not after a panic
	return err
}

// Refuse responds with e to a request that is not served.
func (p *Relay) Refuse(r *Request, w ResponseWriter, e *apierror.Error) error {
	p.record(r, e)
	body := e.Body()
	w.Head(e.Status, e.Fields(), int64(len(body)))
	return w.Write(body)
}

// record notes why a request fails, for its record and, unless its client has left, for the operator.
func (p *Relay) record(r *Request, e *apierror.Error) {
	if r.Entry.Code = string(e.Code); e.Code != apierror.ClientLeft {
		p.cfg.Log(r, e)
	}
}

// BaseURL returns the base URL for clients.
func (p *Relay) BaseURL() string { return "http://" + p.cfg.Address + p.routes.api.base }

// routeNotAllowed returns an error whose message names the open routes, and the flag that opens the route of h.
func (p *Relay) routeNotAllowed(h *http1.Request) *apierror.Error {
	e := apierror.New(apierror.RouteNotAllowed, "")
	e.Message = fmt.Sprintf("This proxy forwards exactly %s. Set the client's base URL to %s and use the %s.", p.routes.list(), p.BaseURL(), p.routes.api.name)
	e.Hint = "the client's base URL must be " + p.BaseURL()
	if string(h.Method) == "HEAD" && string(h.Target) == "/" {
		e.Hint = "Claude Code checks by it that the proxy can be reached; this is harmless"
	}
	flag := ""
	switch r, _ := routeOf(h); {
	case r.use == policy.Shutdown:
		flag = "--http-shutdown"
	case r.flag != "" && p.routes.api == &responsesAPI: // which opens it beside the routes that are open
		flag = "--allow-route " + r.flag
	}
	if flag != "" {
		e.Message += " The proxy's operator can allow this route with " + flag + "."
		e.Hint = flag + " allows it"
	}
	return e
}
