package relay

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
	"github.com/responses-api-proxy/responses-api-proxy/internal/websocket"
)

// tunnelIdle is how long a WebSocket may be without a byte either way. It is as
// long as OpenAI lets one live at all: a model may think, and a person be away,
// for longer than any shorter time that we could choose, and peers that are
// gone are found without it.
const tunnelIdle = time.Hour

// UpgradedConn is a client's connection that has become a WebSocket.
type UpgradedConn interface {
	websocket.Side
	// Draining is closed when the service is about to end.
	Draining() <-chan struct{}
}

// websocket makes a request a tunnel, or answers it.
func (p *Relay) websocket(ctx context.Context, r *Request, a ResponseWriter, w routeMatch) error {
	switch {
	case !p.cfg.Open.open[websocketRoute]:
		return p.Refuse(a, WebsocketNotSupported, "")
	case r.Visitor.Metered():
		return p.Refuse(a, WebsocketNotMetered, "")
	}
	handshake, wrong := websocket.Parse(r.Head)
	if wrong != nil {
		return p.refuseHandshake(a, wrong)
	}
	lease, d := r.Visitor.Begin(r.Head, w.spends())
	if d != nil {
		return p.Deny(a, d)
	}
	bill := p.newExchange(r, a, w, lease)
	defer bill.settle()
	bill.entry.Upstream = true
	fields := requestFields(nil, r.Head.Fields)
	res, err := p.cfg.Upstream.Do(ctx, &upstream.Request{Method: w.method(), Target: w.target, Upgrade: true, Fields: withoutTokens(fields)})
	if err != nil {
		return p.failed(a, err, bill)
	}
	defer res.Close()
	if res.Head.Status != 101 {
		return p.answer(res, a, bill)
	}
	if err := handshake.Check(&res.Head); err != nil {
		return p.Refuse(a, UpstreamMalformed, err.Error())
	}
	bill.begin(&res.Head)
	return p.join(ctx, r, a, res)
}

// join switches both connections and lets the bytes flow.
func (p *Relay) join(ctx context.Context, r *Request, a ResponseWriter, res *upstream.Response) error {
	stream, err := res.Switch()
	if err != nil {
		return p.cut(a, err)
	}
	line, err := a.Hijack(answerFields(nil, res.Head.Fields))
	if err != nil {
		return left(a)
	}
	end := websocket.Run(websocket.Config{
		Client: line, Upstream: stream, Stop: line.Draining(), Deadline: r.Visitor.Expires(), Idle: tunnelIdle, ClientLeft: ctx.Done(),
	})
	switch end {
	case websocket.ClientLeft:
		return left(a)
	case websocket.UpstreamLeft:
		p.log(a, UpstreamClosed, "the upstream ended a WebSocket without a close frame")
	case websocket.UpstreamMalformed:
		p.log(a, UpstreamMalformed, "the upstream sent what is no WebSocket frame")
	case websocket.ClientMalformed:
		p.log(a, WebsocketMalformed, "the client sent what is no WebSocket frame")
	default:
		return nil
	}
	return ErrAbort
}

// refuseHandshake says what is wrong. The answer to another version names ours
// (RFC 6455, section 4.4).
func (p *Relay) refuseHandshake(a ResponseWriter, wrong *http1.Error) error {
	p.log(a, WebsocketMalformed, wrong.Reason)
	fields := errorFields
	if wrong.Status == 426 {
		fields = append(fields[:1:1], http1.Field{Name: []byte("Upgrade"), Value: []byte("websocket")},
			http1.Field{Name: []byte("Connection"), Value: []byte("Upgrade")},
			http1.Field{Name: []byte("Sec-WebSocket-Version"), Value: []byte("13")})
	}
	message := fmt.Sprintf("%s: %s.", refusals[WebsocketMalformed].message, wrong.Reason)
	return respond(a, wrong.Status, fields, body(WebsocketMalformed, invalid, message))
}

// tokenPrefix begins what a browser's client sends as a subprotocol in place of
// an Authorization field, which it cannot set.
var tokenPrefix = []byte("openai-insecure-api-key")

// withoutTokens drops credentials among the subprotocols: the only one that the
// upstream sees is ours.
func withoutTokens(fields []http1.Field) []http1.Field {
	kept := fields[:0]
	for _, f := range fields {
		if isVariant(f.Name, "sec-websocket-protocol") {
			if f.Value = withoutToken(f.Value); len(f.Value) == 0 {
				continue
			}
		}
		kept = append(kept, f)
	}
	return kept
}

func withoutToken(list []byte) (kept []byte) {
	http1.Tokens(list, func(protocol []byte) {
		switch {
		case len(protocol) >= len(tokenPrefix) && bytes.EqualFold(protocol[:len(tokenPrefix)], tokenPrefix):
		case kept == nil:
			kept = append([]byte{}, protocol...)
		default:
			kept = append(append(kept, ", "...), protocol...)
		}
	})
	return kept
}
