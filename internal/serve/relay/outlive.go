package relay

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/upstream"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
)

// ReadOn limits how much is read of responses whose clients have left, under a budget: the cost of a response is in its
// last event. Zero means the default.
type ReadOn struct {
	// Time limits how long a response is read on. The default is 10 minutes.
	Time time.Duration
	// Bytes limits how much of its body is read on. The default is 64 MiB.
	Bytes int64
	// PerUser and Total limit how many are read on at a time. The defaults are 8 and 128.
	PerUser, Total int
}

// outliving is the part of an exchange under a budget that does not end when its client leaves: the client gives up
// what it holds, and the response is read on.
type outliving struct {
	abort   context.CancelFunc // ends the upstream's side; nil if the exchange ends with its client
	unwatch func() bool
	once    sync.Once   // for leave, unless the exchange has ended before
	end     func()      // ends the counting of a response that is read on; nil if none is
	timer   *time.Timer // ends the response; nil if none is read on
}

// outlive returns the context of the upstream's side of an exchange. It is ctx, which ends when the client leaves,
// unless the exchange has a deposit. Responses inside a WebSocket are not read on.
func (x *exchange) outlive(ctx context.Context) (up context.Context) {
	if x.lease.Deposit() == 0 || x.handshake != nil {
		return ctx
	}
	up, x.outliving.abort = context.WithCancel(x.relay.running)
	x.outliving.unwatch = context.AfterFunc(ctx, x.leave)
	return up
}

// leave gives up what the client holds. Either the response is read on from here, within limits, or it is aborted.
// Further calls do nothing.
func (x *exchange) leave() {
	x.outliving.once.Do(func() {
		o, limits := &x.outliving, &x.relay.cfg.ReadOn
		if o.end = x.lease.ReadOn(limits.PerUser, limits.Total); o.end != nil {
			o.timer = time.AfterFunc(limits.Time, o.abort)
		} else {
			o.abort()
		}
		x.w.Leave()
		x.lease.Detach()
	})
}

// endOutliving ends the upstream's side. It waits for leave where that has begun.
func (x *exchange) endOutliving() {
	o := &x.outliving
	if o.abort == nil {
		return
	}
	o.unwatch()
	o.once.Do(func() {})
	o.abort()
	if o.end != nil {
		o.timer.Stop()
		o.end()
	}
}

// readOn ends the relay of a response whose client has left: at once, or under a budget when the response has been
// read, or must not be read on.
func (x *exchange) readOn(res *upstream.Response) *apierror.Error {
	if x.outliving.abort == nil {
		return apierror.Left
	}
	x.leave()
	var err error
	for read := int64(0); read <= x.relay.cfg.ReadOn.Bytes && err == nil; {
		var piece []byte
		piece, err = res.Next()
		x.observePiece(piece)
		read += int64(len(piece))
	}
	x.whole = err == io.EOF
	return apierror.Left
}
