package relay

import (
	"bytes"
	"context"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/apierror"
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

// tunnel checks the upstream's handshake, switches both connections, and lets the
// bytes flow.
func (x *exchange) tunnel(ctx context.Context, res *upstream.Response) error {
	if err := x.handshake.Check(&res.Head); err != nil {
		return x.refuse(apierror.New(apierror.UpstreamMalformed, err.Error()))
	}
	x.inspect(&res.Head)
	stream, err := res.Switch()
	if err != nil {
		return x.abort(err)
	}
	conn, err := x.w.Hijack(responseFields(nil, res.Head.Fields))
	if err != nil {
		return x.clientGone()
	}
	end := websocket.Run(websocket.Config{
		Client: conn, Upstream: stream, Stop: conn.Draining(), Deadline: x.lease.Expires(), Idle: tunnelIdle, ClientLeft: ctx.Done(),
	})
	switch end {
	case websocket.ClientLeft:
		return x.clientGone()
	case websocket.UpstreamLeft:
		x.log(apierror.New(apierror.UpstreamClosed, "the upstream ended a WebSocket without a close frame"))
	case websocket.UpstreamMalformed:
		x.log(apierror.New(apierror.UpstreamMalformed, "the upstream sent what is no WebSocket frame"))
	case websocket.ClientMalformed:
		x.log(apierror.New(apierror.WebsocketMalformed, "the client sent what is no WebSocket frame"))
	default:
		return nil
	}
	return ErrAbort
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
