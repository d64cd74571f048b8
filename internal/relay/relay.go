// Package proxy decides what may pass and relays it: the closed list of routes,
// the header rules, and the answer's bytes as they come.
package relay

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/responses-api-proxy/responses-api-proxy/internal/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/dump"
	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
)

// Request is a request of a client, as the serving engine hands it over.
type Request struct {
	// Head is valid until the answer's HeadSent, or its first Flush after the
	// body was read.
	Head *http1.Request
	// Body is what follows the head. Its Read blocks, with a time limit of the
	// engine's own on a client that has stopped sending. io.EOF means that all
	// of it was there.
	Body upstream.Body
	// Visitor is who sends it; nil may do everything.
	Visitor *policy.Visitor
}

// ResponseWriter is where the answer to one request goes.
type ResponseWriter interface {
	// HeadSent notes that the request's Head is needed no more. It must not be
	// called while Body is being read.
	HeadSent()
	// Head takes the answer's head; length is as in package http1. The engine
	// may hold it back until Write or Flush.
	Head(status int, fields []http1.Field, length int64)
	// Write takes a piece of the body. It blocks for as long as the client
	// does not read.
	Write(p []byte) error
	// Flush sends what is held back.
	Flush() error
	// Leave ends the client's part in an exchange that goes on without it: its
	// connection is closed, and counts no more. Every write fails from then on.
	// It may be called from any goroutine, more than once, and does not block.
	Leave()
	// Switch takes the head of a 101, but for Upgrade and Connection, sends it,
	// and hands over the connection, of which nothing is used for HTTP any more.
	Hijack(fields []http1.Field) (UpgradedConn, error)
	// Entry is the record of the exchange. The engine keeps time, status and
	// bytes, the proxy the rest.
	Entry() *audit.Entry
}

// Upstream sends requests to the one destination.
type Upstream interface {
	Do(ctx context.Context, r *upstream.Request) (*upstream.Response, error)
}

// Config says what a Proxy works with.
type Config struct {
	// Upstream is where allowed requests go. Required.
	Upstream Upstream
	// Open are the routes; nil means POST /v1/responses alone.
	Open *RouteSet
	// Shutdown is called once the answer to GET /shutdown has been handed to
	// the engine; nil means that the route is closed.
	Shutdown func()
	// ReadUsage reads what answers cost also where no budget depends on it, for
	// their records.
	ReadUsage bool
	// ReadOn limits what is read of responses whose clients have left.
	ReadOn ReadOn
	// Dump takes what passes; nil takes nothing.
	Dump *dump.Dir
	// Log takes one line for each error that a client was told of, and the
	// client; nil drops them. It must not block.
	Log func(e *audit.Entry, line string)
}

// Relay serves requests. Its methods may be used concurrently.
type Relay struct {
	cfg     Config
	owners  *owners // nil where nobody may ask for a response again
	readers *readers
	running context.Context // of what outlives its client
	stop    context.CancelFunc
}

// New returns a Relay.
func New(cfg Config) *Relay {
	if cfg.Log == nil {
		cfg.Log = func(*audit.Entry, string) {}
	}
	if cfg.Open == nil {
		cfg.Open, _ = NewRouteSet(nil, responsesPath, 0) // cannot fail: nothing is opened
	}
	p := &Relay{cfg: cfg, readers: newReaders(cfg.ReadOn)}
	p.running, p.stop = context.WithCancel(context.Background())
	if cfg.Open.open[retrieve] {
		p.owners = newOwners(maxOwned)
	}
	return p
}

// Cut ends all exchanges that do not end with their clients, and all that are
// still to come. It does not wait for them.
func (p *Relay) Cut() { p.stop() }

// ErrAbort is returned by Serve when the answer is incomplete: the engine must
// end the connection so that the client cannot take it for whole.
var ErrAbort = errors.New("the answer is incomplete")

// Serve answers one request. ctx ends when the client leaves.
func (p *Relay) Serve(ctx context.Context, r *Request, a ResponseWriter) error {
	w := p.cfg.Open.find(r.Head)
	a.Entry().Route = w.id.String()
	if d := r.Visitor.Visit(r.Head, w.id == shutdown); d != nil {
		return p.Deny(a, d)
	}
	switch w.id {
	case none:
		return p.Refuse(a, RouteNotAllowed, "")
	case shutdown:
		if p.cfg.Shutdown != nil {
			a.Head(200, nil, 0)
			err := a.Flush()
			p.cfg.Shutdown()
			return err
		}
		return p.Refuse(a, RouteNotAllowed, "GET /shutdown needs --http-shutdown")
	case websocketRoute:
		return p.websocket(ctx, r, a, w)
	}
	lease, d := r.Visitor.Begin(r.Head, w.spends())
	if d != nil {
		return p.Deny(a, d)
	}
	bill := p.newExchange(r, a, w, lease)
	defer bill.settle()
	switch {
	case w.response != nil && !p.owners.owns(bill.response, bill.uid()):
		return p.Refuse(a, ResponseNotFound, "")
	case w.bodyless() && r.Head.Length != 0:
		return p.RefuseSyntax(a, errHasBody)
	case w.id == cancel || w.id == remove:
		p.owners.interfere(bill.response)
	}
	return p.forward(ctx, r, a, w, bill)
}

var errHasBody = &http1.Error{Status: 400, Reason: "a GET or DELETE has no body here"}

// left notes that the client is gone: there is nobody to tell.
func left(a ResponseWriter) error {
	a.Entry().Code = string(ClientLeft)
	return ErrAbort
}

// forward sends the request on and relays the answer.
func (p *Relay) forward(ctx context.Context, r *Request, a ResponseWriter, w routeMatch, bill *exchange) error {
	out := &outgoing{fields: takeFields(), answer: a}
	defer out.giveFields()
	out.Request = upstream.Request{Method: w.method(), Target: w.target, Length: r.Head.Length, Sent: out.headSent}
	r.Body = bill.tap(p.cfg.Dump.Begin(bill.dumpUser(), r.Head.Method, r.Head.Target, r.Head.Fields), bill.watch(r.Body), r.Head.Length)
	*out.fields = bill.askPlain(requestFields(*out.fields, r.Head.Fields))
	out.Fields = *out.fields
	buf, err := readStart(&out.Request, r)
	defer func() { buf.giveBack() }()
	if err != nil {
		return p.bodyFailed(a, err, bill)
	}
	if ctx.Err() != nil { // nothing has been sent, and nothing will be
		return left(a)
	}
	bill.entry.Upstream = true
	ctx, bill.outliving = p.outlive(ctx, a, bill)
	defer bill.outliving.end()
	res, err := p.cfg.Upstream.Do(ctx, &out.Request)
	if err != nil {
		return p.failed(a, err, bill)
	}
	defer res.Close()
	if res.Sent() { // the stream may last for long
		buf.giveBack()
		buf = nil
	}
	return p.answer(res, a, bill)
}

// answer relays what the upstream says, unless it sends elsewhere.
func (p *Relay) answer(res *upstream.Response, a ResponseWriter, bill *exchange) error {
	if status := res.Head.Status; status >= 300 && status < 400 && status != 304 {
		return p.Refuse(a, UpstreamRedirect, fmt.Sprintf("status %d", status))
	}
	return p.relay(res, a, bill)
}

// relay passes the answer on. It flushes whenever the upstream makes it wait,
// so that nothing is ever held back: not the head, not an event. The last piece
// leaves together with the body's end, which the engine adds.
func (p *Relay) relay(res *upstream.Response, a ResponseWriter, bill *exchange) error {
	bill.begin(&res.Head)
	fields := takeFields()
	*fields = answerFields(*fields, res.Head.Fields)
	a.Head(res.Head.Status, *fields, res.Head.Length)
	giveFields(fields)
	res.Head.Fields = nil // or they would keep its buffer for as long as the stream lasts
	bill.entry.Reused = res.Reused
	for {
		piece, err := res.Buffered()
		if len(piece) == 0 && err == nil {
			if a.Flush() != nil {
				return p.clientLeft(res, a, bill)
			}
			piece, err = res.Next()
		}
		bill.write(piece)
		if err == io.EOF {
			bill.whole = true
			bill.settle() // before the client can have all of it, and send the next request
		}
		if len(piece) > 0 && a.Write(piece) != nil {
			return p.clientLeft(res, a, bill)
		}
		switch {
		case err == io.EOF: // and nothing that wraps it: a cut must not look like an end
			return nil
		case err != nil:
			return p.cut(a, err)
		}
	}
}
