package relay

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"sync/atomic"

	"github.com/responses-api-proxy/responses-api-proxy/internal/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/dump"
	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
	"github.com/responses-api-proxy/responses-api-proxy/internal/websocket"
)

// exchange is one request and its response. It owns the request's head, the lease
// and every buffer, and releases all of them in finish.
type exchange struct {
	*Request
	relay     *Relay
	w         ResponseWriter
	route     routeMatch
	handshake *websocket.Handshake // nil unless it is to become a WebSocket
	lease     *policy.Lease        // nil until the request is admitted

	out       upstream.Request // on its way up
	fields    *[]http1.Field   // of out; nil once they are given back
	buffer    *buffer          // of out.Start; nil if there is none
	body      receivedBody
	tooLarge  atomic.Bool
	outliving *outliving // nil if the exchange ends with its client

	account   account
	dump      *dump.Exchange // nil where nothing is dumped
	observers []observer
	list      [2]observer // the array of observers
	ended     bool        // observers have been told

	// For the outcome:
	code      apierror.Code
	requestID string
	streamed  bool
	sent      bool
	reused    bool
}

// observer sees a response as it passes.
type observer interface {
	head(h *http1.Response)
	piece(p []byte)
	end()
}

func (x *exchange) head(h *http1.Response) {
	for _, o := range x.observers {
		o.head(h)
	}
}

func (x *exchange) piece(p []byte) {
	for _, o := range x.observers {
		o.piece(p)
	}
}

// end feeds the end, once. It may come before the last piece is written.
func (x *exchange) end() {
	if x.ended {
		return
	}
	x.ended = true
	for _, o := range x.observers {
		o.end()
	}
}

// dumped is the dump as an observer.
type dumped struct{ *dump.Exchange }

func (d dumped) head(h *http1.Response) { d.Answer(h.Status, h.Fields) }
func (d dumped) piece(p []byte)         { d.Body(p) }
func (d dumped) end()                   { d.End() }

// finish releases what the exchange holds, and writes its outcome. It must be
// called once, also after a panic.
func (x *exchange) finish() {
	x.outliving.end()
	x.headSent()
	x.releaseBuffer()
	x.end()
	x.Outcome = Outcome{Route: x.route.id.String(), Code: x.code, Streamed: x.streamed, RequestID: x.requestID, Upstream: x.sent, Reused: x.reused}
	x.account.report(&x.Outcome)
}

// headSent releases what the head took: the response may be long in coming.
func (x *exchange) headSent() {
	if x.fields != nil {
		giveFields(x.fields)
		x.fields = nil
	}
	x.Release()
}

func (x *exchange) releaseBuffer() {
	x.buffer.giveBack()
	x.buffer = nil
}

// admit finds the request's route, and acquires a lease. Without one nothing goes
// upstream.
func (x *exchange) admit() *apierror.Error {
	x.route = x.relay.cfg.Routes.find(x.Head)
	refusal, use := x.checkRoute(), x.route.use()
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
	x.account.begin(x)
	x.observers = append(x.list[:0], &x.account)
	return x.checkResponse()
}

// checkRoute returns why the route refuses every such request.
func (x *exchange) checkRoute() *apierror.Error {
	switch {
	case x.route.id == none:
		return x.relay.routeNotAllowed("")
	case x.route.id == shutdown && x.relay.cfg.Shutdown == nil:
		return x.relay.routeNotAllowed("GET /shutdown needs --http-shutdown")
	case x.route.id != websocketRoute:
		return nil
	case !x.relay.cfg.Routes.open[websocketRoute]:
		return apierror.New(apierror.WebsocketNotSupported, "")
	case x.Session.Metered():
		return apierror.New(apierror.WebsocketNotMetered, "")
	}
	var malformed *http1.Error
	if x.handshake, malformed = websocket.Parse(x.Head); malformed != nil {
		return apierror.OfHandshake(malformed)
	}
	return nil
}

// checkResponse returns why the request must not be made of the response that it
// is about.
func (x *exchange) checkResponse() *apierror.Error {
	switch a := &x.account; {
	case x.route.response != nil && !a.owners.owns(a.response, a.uid):
		return apierror.New(apierror.ResponseNotFound, "")
	case x.route.bodyless() && x.Head.Length != 0:
		return apierror.OfHead(&http1.Error{Status: 400, Reason: "a GET or DELETE has no body here"})
	case x.route.id == cancel || x.route.id == remove:
		a.owners.interfere(a.response)
	}
	return nil
}

// prepare makes the request that goes upstream, and reads the body's start.
func (x *exchange) prepare() error {
	x.fields = takeFields()
	*x.fields = requestFields(*x.fields, x.Head.Fields)
	switch {
	case x.handshake != nil:
		*x.fields = withoutTokens(*x.fields)
	case x.account.mustInspect():
		*x.fields = askPlain(*x.fields)
	}
	x.out = upstream.Request{
		Method: x.route.method(), Target: x.route.target, Upgrade: x.handshake != nil,
		Fields: *x.fields, Length: x.Head.Length, Sent: x.headSent,
	}
	x.beginDump()
	x.body = receivedBody{Body: x.Body, x: x, left: x.Head.Length, limit: x.lease.MaxBody()}
	var err error
	x.buffer, err = readStart(&x.out, &x.body)
	return err
}

func (x *exchange) beginDump() {
	if x.handshake != nil {
		return
	}
	user := uint32(math.MaxUint32) // no user's uid
	if c := x.Session.Caller(); c.Known {
		user = c.UID
	}
	if x.dump = x.relay.cfg.Dump.Begin(user, x.Head.Method, x.Head.Target, x.Head.Fields); x.dump == nil {
		return
	}
	x.observers = append(x.observers, dumped{x.dump})
	if x.Head.Length == 0 {
		x.dump.RequestEnd(true)
	}
}

// send sends the request.
func (x *exchange) send(ctx context.Context) (*upstream.Response, error) {
	x.sent = true
	res, err := x.relay.cfg.Upstream.Do(ctx, &x.out)
	if err != nil {
		var e *upstream.Error
		x.reused = errors.As(err, &e) && e.Reused
		return nil, err
	}
	x.reused = res.Reused
	if res.Head.Status == 401 && x.relay.cfg.OnUnauthorized != nil {
		x.relay.cfg.OnUnauthorized()
	}
	if res.Sent() { // the stream may last for long
		x.releaseBuffer()
	}
	return res, nil
}

// log notes why the exchange fails, for its record and for the operator.
func (x *exchange) log(e *apierror.Error) {
	x.code = e.Code
	x.relay.log(x.Session, e)
}

func (x *exchange) refuse(e *apierror.Error) error {
	x.log(e)
	return respond(x.w, e)
}

// clientGone records that the client disconnected; no response can be sent.
func (x *exchange) clientGone() error {
	x.code = apierror.ClientLeft
	return ErrAbort
}

// bodyFailed responds to a client whose body did not come as announced.
func (x *exchange) bodyFailed(err error) error {
	switch {
	case x.tooLarge.Load():
		return x.refuse(x.lease.TooLarge())
	case errors.Is(err, os.ErrDeadlineExceeded):
		return x.refuse(apierror.New(apierror.RequestTimeout, "the body stalled"))
	}
	return x.refuse(apierror.New(apierror.IncompleteBody, ""))
}

// failed responds for an upstream that could not be reached, or did not respond.
func (x *exchange) failed(err error) error {
	if x.tooLarge.Load() {
		return x.refuse(x.lease.TooLarge())
	}
	if e := ofUpstream(err); e != nil {
		return x.refuse(e)
	}
	x.account.cancelled = true
	return x.clientGone()
}

// abort ends a response in the middle.
func (x *exchange) abort(err error) error {
	e := ofUpstream(err)
	if e == nil {
		return x.clientGone()
	}
	x.log(e)
	return ErrAbort
}

// codes maps what can go wrong on the way to the upstream. upstream.Cancelled has
// no code: the client has left.
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

// ofUpstream returns the error for the client; nil if there is no client any more.
func ofUpstream(err error) *apierror.Error {
	var e *upstream.Error
	if !errors.As(err, &e) {
		return apierror.New(apierror.InternalError, "an error of an unknown kind")
	}
	if e.Kind == upstream.Cancelled {
		return nil
	}
	return apierror.New(codes[e.Kind], e.Error())
}

// redirected is the error of an upstream that sends elsewhere.
func redirected(status int) *apierror.Error {
	return apierror.New(apierror.UpstreamRedirect, fmt.Sprintf("status %d", status))
}

// respond writes e as the response.
func respond(w ResponseWriter, e *apierror.Error) error {
	body := e.Body()
	w.Head(e.Status, e.Fields(), int64(len(body)))
	return w.Write(body)
}

// caller returns the session's user as recorded; a missing session has none.
func caller(s *policy.Session) audit.Caller {
	if s == nil {
		return audit.Caller{}
	}
	return s.Caller().Audit()
}
