// Package relay forwards requests on a closed list of routes to the upstream, and
// the responses to the clients as they arrive.
package relay

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/responses-api-proxy/responses-api-proxy/internal/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/dump"
	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
)

// Request is a request of a client, as the server hands it over. It owns its head.
type Request struct {
	// Head points into the server's buffer. Release makes it nil: whatever is
	// needed later must have been copied.
	Head *http1.Request
	// Buffer has the head.
	Buffer HeadBuffer
	// Body is what follows the head. Its Read blocks, with the server's time
	// limit on a client that has stopped sending. io.EOF means that all of it was
	// there.
	Body upstream.Body
	// Session is the connection's. Without one the request is refused.
	Session *policy.Session
	// Outcome is set once Serve has returned, or panicked.
	Outcome Outcome
}

// HeadBuffer has the bytes of a head.
type HeadBuffer interface {
	// ReleaseHead is called once no one reads the head any more. The body is not
	// being read meanwhile.
	ReleaseHead()
}

// Release gives the head's buffer back. Further calls do nothing.
func (r *Request) Release() {
	if r.Head != nil {
		r.Head = nil
		r.Buffer.ReleaseHead()
	}
}

// Outcome is what came of a request, for its record: the fields of the same names
// of audit.Entry.
type Outcome struct {
	Route                     string
	Code                      apierror.Code
	Streamed                  bool
	Model                     string
	Tokens                    bool
	InputTokens, OutputTokens int64
	RequestID                 string
	Upstream, Reused          bool
}

// ResponseWriter writes the response to one request.
type ResponseWriter interface {
	// Head takes the response's head; length is as in package http1. The server
	// may hold it back until Write or Flush.
	Head(status int, fields []http1.Field, length int64)
	// Write takes a piece of the body. It blocks for as long as the client does
	// not read.
	Write(p []byte) error
	// Flush sends what is held back.
	Flush() error
	// Leave ends the client's part in an exchange that goes on without it: its
	// connection is closed, and counts no more. Every write fails from then on.
	// It may be called from any goroutine, more than once, and does not block.
	Leave()
	// Hijack takes the head of a 101, but for Upgrade and Connection, sends it,
	// and hands over the connection, of which nothing is used for HTTP any more.
	Hijack(fields []http1.Field) (UpgradedConn, error)
}

// Upstream sends requests to the one destination.
type Upstream interface {
	Do(ctx context.Context, r *upstream.Request) (*upstream.Response, error)
}

// Config configures a Relay.
type Config struct {
	// Upstream is where allowed requests go. Required.
	Upstream Upstream
	// OnUnauthorized is called when the upstream responds with status 401, before
	// the response is passed on; nil does nothing. It must not block.
	OnUnauthorized func()
	// Routes are the routes; nil means POST /v1/responses alone.
	Routes *RouteSet
	// Shutdown is called once the response to GET /shutdown has been handed to
	// the server; nil means that the route is closed.
	Shutdown func()
	// ReadUsage reads what responses cost also where no budget depends on it, for
	// their records.
	ReadUsage bool
	// ReadOn limits what is read of responses whose clients have left.
	ReadOn ReadOn
	// Dump takes what passes; nil takes nothing.
	Dump *dump.Dir
	// Log takes each error that a client received, or would have, and the client;
	// nil drops them. It must not block.
	Log func(who audit.Caller, e *apierror.Error)
}

// Relay serves requests. Its methods may be used concurrently.
type Relay struct {
	cfg     Config
	owners  *owners // nil where no response can be requested again
	readers *readers
	running context.Context // of what outlives its client
	stop    context.CancelFunc
}

// New returns a Relay. It fails if the Upstream is missing.
func New(cfg Config) (*Relay, error) {
	if cfg.Upstream == nil {
		return nil, errors.New("BUG: a relay without an upstream")
	}
	if cfg.Log == nil {
		cfg.Log = func(audit.Caller, *apierror.Error) {}
	}
	if cfg.Routes == nil {
		cfg.Routes, _ = NewRouteSet(nil, responsesPath, 0) // cannot fail: nothing is opened
	}
	p := &Relay{cfg: cfg, readers: newReaders(cfg.ReadOn)}
	p.running, p.stop = context.WithCancel(context.Background())
	if cfg.Routes.open[retrieve] {
		p.owners = newOwners(maxOwned)
	}
	return p, nil
}

// Cut ends all exchanges that do not end with their clients, and all that are
// still to come. It does not wait for them.
func (p *Relay) Cut() { p.stop() }

// ErrAbort is returned by Serve when the response is incomplete: the server must
// end the connection so that the client cannot take it for complete.
var ErrAbort = errors.New("the response is incomplete")

// Serve responds to one request. ctx ends when the client leaves.
func (p *Relay) Serve(ctx context.Context, r *Request, w ResponseWriter) error {
	x := &exchange{Request: r, relay: p, w: w}
	defer x.finish()
	if e := x.admit(); e != nil {
		return x.refuse(e)
	}
	if x.route.id == shutdown {
		w.Head(200, nil, 0)
		err := w.Flush()
		p.cfg.Shutdown()
		return err
	}
	return x.forward(ctx)
}

// Refuse responds with e to a request that is not served.
func (p *Relay) Refuse(r *Request, w ResponseWriter, e *apierror.Error) error {
	r.Outcome.Code = e.Code
	p.log(r.Session, e)
	return respond(w, e)
}

func (p *Relay) log(s *policy.Session, e *apierror.Error) { p.cfg.Log(caller(s), e) }

// routeNotAllowed returns an error whose message names the open routes.
func (p *Relay) routeNotAllowed(detail string) *apierror.Error {
	e := apierror.New(apierror.RouteNotAllowed, detail)
	e.Message = p.cfg.Routes.sentence
	return e
}

// forward sends the request on and relays the response.
func (x *exchange) forward(ctx context.Context) error {
	if err := x.prepare(); err != nil {
		return x.bodyFailed(err)
	}
	if ctx.Err() != nil { // nothing has been sent, and nothing will be
		return x.clientGone()
	}
	up := x.outlive(ctx)
	res, err := x.send(up)
	if err != nil {
		return x.failed(err)
	}
	defer res.Close()
	switch status := res.Head.Status; {
	case status == 101 && x.handshake != nil:
		return x.tunnel(ctx, res)
	case status >= 300 && status < 400 && status != 304:
		return x.refuse(redirected(status))
	}
	return x.pass(res)
}

// pass passes the response on. It flushes whenever the upstream makes it wait, so
// that nothing is ever held back: not the head, not an event. The last piece
// leaves together with the body's end, which the server adds.
func (x *exchange) pass(res *upstream.Response) error {
	x.passHead(res)
	for {
		piece, err := res.Buffered()
		if len(piece) == 0 && err == nil {
			if x.w.Flush() != nil {
				return x.readOn(res)
			}
			piece, err = res.Next()
		}
		x.piece(piece)
		if err == io.EOF {
			x.account.whole = true
			x.end() // before the client can have all of it, and send the next request
		}
		if len(piece) > 0 && x.w.Write(piece) != nil {
			return x.readOn(res)
		}
		switch {
		case err == io.EOF: // and nothing that wraps it: a truncated body must not look like an end
			return nil
		case err != nil:
			return x.abort(err)
		}
	}
}

// passHead shows the response's head to the observers, and passes it on.
func (x *exchange) passHead(res *upstream.Response) {
	x.inspect(&res.Head)
	fields := takeFields()
	*fields = responseFields(*fields, res.Head.Fields)
	x.w.Head(res.Head.Status, *fields, res.Head.Length)
	giveFields(fields)
	res.Head.Fields = nil // or they would keep its buffer for as long as the stream lasts
}

// maxRequestID is how much of an x-request-id is kept, in bytes.
const maxRequestID = 128

var eventStream = []byte("text/event-stream")

// inspect copies what the record needs of the head.
func (x *exchange) inspect(h *http1.Response) {
	id, kind := value(h, "x-request-id"), value(h, "content-type")
	x.requestID = string(id[:min(len(id), maxRequestID)])
	x.streamed = len(kind) >= len(eventStream) && bytes.EqualFold(kind[:len(eventStream)], eventStream)
	x.head(h)
}
