package relay

import (
	"context"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/apierror"
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
	x.observeHead(&res.Head)
	stream, err := res.Switch()
	if err != nil {
		return x.abort(ofUpstream(err))
	}
	conn, err := x.w.Hijack(responseFields(nil, res.Head.Fields))
	if err != nil {
		return x.clientGone()
	}
	switch websocket.Run(websocket.Config{
		Client: conn, Upstream: stream, Stop: conn.Draining(), Deadline: x.lease.Expires(), Idle: tunnelIdle, ClientLeft: ctx.Done(),
	}) {
	case websocket.ClientLeft:
		return x.clientGone()
	case websocket.UpstreamLeft:
		return x.abort(apierror.New(apierror.UpstreamClosed, "the upstream ended a WebSocket without a close frame"))
	case websocket.UpstreamMalformed:
		return x.abort(apierror.New(apierror.UpstreamMalformed, "the upstream sent what is no WebSocket frame"))
	case websocket.ClientMalformed:
		return x.abort(apierror.New(apierror.WebsocketMalformed, "the client sent what is no WebSocket frame"))
	}
	return nil
}
