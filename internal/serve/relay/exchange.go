package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/upstream"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/dump"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/usage"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/websocket"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// exchange is one request and its response. It owns the request's head, the lease and every buffer, and releases all
// of them in finish. Its own memory serves other requests afterwards.
type exchange struct {
	*Request
	onSent    func() // calls Release, whatever the request
	relay     *Relay
	w         ResponseWriter
	route     *route
	target    []byte               // the upstream's; nil stands for the usual one
	handshake *websocket.Handshake // nil unless it is to become a WebSocket
	lease     *policy.Lease        // nil until the request is admitted

	out    upstream.Request // on its way up
	buffer *buffer          // of out.Start; nil if there is none
	model  *modelCheck      // nil where every model is allowed

	requestDump, responseDump *dump.File // nil where nothing is dumped

	received  atomic.Int64 // bytes of the request's body
	meter     *usage.Meter // nil where tokens do not matter
	messages  *messages    // of a WebSocket; nil where tokens do not matter
	owned     *owned       // the response that the exchange is about; nil if it is not known
	whole     bool         // the response was read to its end
	ended     bool         // the lease is released
	outliving outliving
}

var exchanges = sync.Pool{New: func() any {
	x := &exchange{}
	x.onSent = func() { x.Release() }
	return x
}}

// recycle lets the memory of an exchange that is finished serve others, unless a goroutine of its own may have it still.
func (x *exchange) recycle() {
	if x.outliving.abort == nil && x.handshake == nil {
		*x = exchange{onSent: x.onSent}
		exchanges.Put(x)
	}
}

func (x *exchange) serve(ctx context.Context) error {
	defer x.finish()
	e := x.admit()
	switch {
	case e != nil:
	case x.route.use == policy.Shutdown:
		x.w.Head(200, nil, 0)
		err := x.w.Flush()
		x.relay.cfg.Shutdown()
		return err
	default:
		e = x.forward(ctx)
	}
	switch {
	case e == nil:
		return nil
	case x.Entry.Status == 0 && e.Code != apierror.ClientLeft:
		return x.relay.Refuse(x.Request, x.w, e)
	}
	x.relay.record(x.Request, e)
	return ErrAbort
}

// finish releases what the exchange holds, and completes its record. It must be called once, also after a panic.
func (x *exchange) finish() {
	x.endOutliving()
	x.Release()
	x.releaseBuffer()
	x.observeEnd()
}

func (x *exchange) releaseBuffer() {
	x.buffer.giveBack()
	x.buffer, x.out.Start = nil, nil
}

// admit finds the request's route, and acquires a lease. Without one nothing goes upstream.
func (x *exchange) admit() *apierror.Error {
	route, target, id := x.relay.routes.find(x.Head)
	x.route, x.target, x.Entry.Route = route, target, route.name
	refusal, use := x.checkRoute(), x.route.use
	if refusal != nil && use != policy.Shutdown {
		use = policy.Nothing
	}
	lease, denial := x.Session.Admit(x.Head, use)
	switch {
	case denial != nil:
		return denial
	case refusal != nil:
		return refusal
	case lease == nil:
		return apierror.New(apierror.InternalError, "a request without a lease")
	}
	x.lease = lease
	return cmp.Or(x.checkResponse(id), x.beginModel())
}

// checkRoute returns why the route refuses every such request.
func (x *exchange) checkRoute() (refusal *apierror.Error) {
	switch {
	case x.route.use == policy.Nothing, x.route.use == policy.Shutdown && x.relay.cfg.Shutdown == nil:
		return x.relay.routeNotAllowed(x.Head)
	case !x.route.is(upgrades):
		return nil
	case !x.relay.routes.opens(x.route):
		return apierror.New(apierror.WebsocketNotSupported, "")
	}
	if x.Session.Metered() { // compressed messages could not be read
		x.Head.Fields = without(x.Head.Fields, "sec-websocket-extensions")
	}
	x.handshake, refusal = websocket.Parse(x.Head)
	return refusal
}

// checkResponse returns why the request must not be made of the response with that id; nil if it names none.
func (x *exchange) checkResponse(id []byte) *apierror.Error {
	if id != nil {
		x.owned = x.relay.owners.find(keyOfResponse(id), x.lease.Caller().UID)
	}
	switch {
	case id != nil && x.owned == nil:
		return apierror.New(apierror.ResponseNotFound, "")
	case !x.route.is(hasBody) && x.Head.Length != 0:
		return apierror.OfHead(&http1.Error{Status: 400, Reason: "a GET or DELETE has no body here"})
	case x.route.is(canEnd):
		x.owned.touched.Store(true)
	}
	return nil
}

// forward returns why the exchange fails, before or after the response has begun.
func (x *exchange) forward(ctx context.Context) *apierror.Error {
	if err := x.prepare(); err != nil {
		return ofUpstream(&upstream.Error{Kind: upstream.BodyFailed, Cause: err})
	}
	if ctx.Err() != nil { // nothing has been sent, and nothing will be
		return apierror.Left
	}
	res, err := x.send(x.outlive(ctx))
	if err != nil {
		return ofUpstream(err)
	}
	defer res.Close()
	switch status := res.Head.Status; {
	case status == 101 && x.handshake != nil:
		return x.tunnel(ctx, res)
	case status >= 300 && status < 400 && status != 304:
		e := apierror.New(apierror.UpstreamRedirect, fmt.Sprintf("status %d", status))
		e.Hint = "correct --upstream-url"
		return e
	}
	return x.pass(res)
}

// prepare makes the request that goes upstream, in place of the client's, and reads the body's start.
func (x *exchange) prepare() (err error) {
	if x.handshake == nil {
		x.requestDump = x.relay.cfg.Dump.Request(x.Head.Method, x.Head.Target, x.Head.Fields)
	}
	if x.Head.Length == 0 {
		x.requestDump.End(true)
	}
	fields := requestFields(x.Head.Fields[:0], x.Head.Fields)
	switch {
	case x.handshake != nil:
		fields = withoutTokens(fields)
	case x.mustInspect():
		fields = requestIdentity(fields)
	}
	x.out = upstream.Request{
		Method: x.route.method, Target: x.target, Upgrade: x.handshake != nil,
		Fields: fields, Length: x.Head.Length, Sent: x.onSent, // as soon as it can be: the response may be long in coming
	}
	x.buffer, err = readStart(&x.out, x, x.model != nil)
	if err == nil && x.model != nil && !x.model.found {
		return refused{unreadable(`"model" is missing, or not in the first %d bytes`, maxMemory)}
	}
	return err
}

func (x *exchange) send(ctx context.Context) (*upstream.Response, error) {
	x.Entry.Upstream = true
	res, err := x.relay.cfg.Upstream.Do(ctx, &x.out)
	if err != nil {
		var e *upstream.Error
		x.Entry.Reused = errors.As(err, &e) && e.Reused
		return nil, err
	}
	x.Entry.Reused = res.Reused
	if status := res.Head.Status; x.relay.cfg.OnRejected != nil && (status == 401 || status == 403 || status == 429) {
		x.relay.cfg.OnRejected(status)
	}
	if res.Sent() { // the stream may last for long
		x.releaseBuffer()
	}
	return res, nil
}

// pass passes the response on. It flushes whenever the upstream makes it wait, so that nothing is ever held back: not
// the head, not an event. The last piece leaves together with the body's end, which the server adds.
func (x *exchange) pass(res *upstream.Response) *apierror.Error {
	x.observeHead(&res.Head)
	x.w.Head(res.Head.Status, responseFields(res.Head.Fields[:0], res.Head.Fields), res.Head.Length)
	for {
		piece, err := res.Buffered()
		if len(piece) == 0 && err == nil {
			if x.w.Flush() != nil {
				return x.readOn(res)
			}
			piece, err = res.Next()
		}
		x.observePiece(piece)
		if err == io.EOF {
			x.whole = true
			x.observeEnd() // before the client can have all of it, and send the next request
		}
		if len(piece) > 0 && x.w.Write(piece) != nil {
			return x.readOn(res)
		}
		switch {
		case err == io.EOF: // and nothing that wraps it: a truncated body must not look like an end
			return nil
		case err != nil:
			return ofUpstream(err)
		}
	}
}

// tunnelIdle is how long a WebSocket may be without a byte either way. It is as long as OpenAI lets one live at all:
// a model may think, and a person be away, for longer than any shorter time that we could choose, and peers that are
// gone are found without it.
const tunnelIdle = time.Hour

// tunnel checks the upstream's handshake, switches both connections, and lets the bytes flow.
func (x *exchange) tunnel(ctx context.Context, res *upstream.Response) *apierror.Error {
	if err := x.handshake.Check(&res.Head); err != nil {
		return apierror.New(apierror.UpstreamMalformed, err.Error())
	}
	x.observeHead(&res.Head)
	stream, err := res.Hijack()
	if err != nil {
		return ofUpstream(err)
	}
	conn, draining, err := x.w.Hijack(responseFields(nil, res.Head.Fields))
	if err != nil {
		return apierror.Left
	}
	cfg := websocket.Config{
		Client: conn, Upstream: stream, Stop: draining, Deadline: x.lease.Expires(), Idle: tunnelIdle, ClientLeft: ctx.Done(),
	}
	if x.lease.Metered() {
		x.messages = &messages{x: x, meter: usage.NewEvents()}
		cfg.ReadClient, cfg.ReadUpstream = x.messages.fromClient, x.messages.fromUpstream
	}
	end := websocket.Run(cfg)
	if x.messages != nil && x.messages.denial != nil {
		x.relay.record(x.Request, x.messages.denial)
		return nil
	}
	return end
}

// codes maps what can go wrong on the way to the upstream, besides upstream.Cancelled.
var codes = map[upstream.Kind]apierror.Code{
	upstream.Unreachable: apierror.UpstreamUnreachable,
	upstream.Untrusted:   apierror.UpstreamNotTrusted,
	upstream.TLSFailed:   apierror.UpstreamTLS,
	upstream.Timeout:     apierror.UpstreamTimeout,
	upstream.Closed:      apierror.UpstreamClosed,
	upstream.Malformed:   apierror.UpstreamMalformed,
	upstream.BodyFailed:  apierror.IncompleteBody,
	upstream.Internal:    apierror.InternalError,
}

// ofUpstream returns the error of a failed exchange with the upstream.
func ofUpstream(err error) *apierror.Error {
	if body, ok := errors.AsType[refused](err); ok {
		return body.why
	}
	e, ok := errors.AsType[*upstream.Error](err)
	switch {
	case !ok:
		return apierror.New(apierror.InternalError, "an error of an unknown kind")
	case e.Kind == upstream.Cancelled:
		return apierror.Left
	case e.Kind == upstream.BodyFailed && errors.Is(err, os.ErrDeadlineExceeded):
		return apierror.New(apierror.RequestTimeout, "the body stalled")
	}
	failed := apierror.New(codes[e.Kind], e.Error())
	failed.Hint = e.Hint
	return failed
}
