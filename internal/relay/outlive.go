package relay

import (
	"cmp"
	"context"
	"io"
	"sync"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
)

// ReadOn limits what is read of responses whose clients have left, under a
// budget: a response says at its end what it cost. Zero means the default.
type ReadOn struct {
	// Time limits how long a response is read on. The default is 10 minutes.
	Time time.Duration
	// Bytes limits how much of its body is read on. The default is 64 MiB.
	Bytes int64
	// PerUser and Total limit how many are read on at a time. The defaults are
	// 8 and 128.
	PerUser, Total int
}

// readers counts the responses that are read on.
type readers struct {
	limits ReadOn

	mu    sync.Mutex
	total int
	users map[uint32]int
}

func newReaders(l ReadOn) *readers {
	return &readers{users: map[uint32]int{}, limits: ReadOn{
		Time:    cmp.Or(l.Time, 10*time.Minute),
		Bytes:   cmp.Or(l.Bytes, 64<<20),
		PerUser: cmp.Or(l.PerUser, 8),
		Total:   cmp.Or(l.Total, 128),
	}}
}

// add counts n more of a user's, 1 or -1, or reports that there are too many.
func (r *readers) add(uid uint32, n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n > 0 && (r.total >= r.limits.Total || r.users[uid] >= r.limits.PerUser) {
		return false
	}
	r.total += n
	if r.users[uid] += n; r.users[uid] == 0 {
		delete(r.users, uid)
	}
	return true
}

// outliving is the part of an exchange under a budget that does not end when its
// client leaves: the client gives up what it holds, and the response is read on.
// A nil outliving is of an exchange that ends with its client.
type outliving struct {
	x       *exchange
	abort   context.CancelFunc // ends the upstream's side
	unwatch func() bool

	once  sync.Once   // for leave or end, whichever comes first
	timer *time.Timer // ends a response that is read on, and counted; nil if none is
}

// outlive returns the context of the upstream's side of an exchange. It is ctx,
// which ends when the client leaves, unless the exchange has a deposit.
func (x *exchange) outlive(ctx context.Context) context.Context {
	if x.lease.Deposit() == 0 {
		return ctx
	}
	up, abort := context.WithCancel(x.relay.running)
	x.outliving = &outliving{x: x, abort: abort}
	x.outliving.unwatch = context.AfterFunc(ctx, x.outliving.leave)
	return up
}

// leave gives up what the client holds. Either the response is read on from
// here, within limits, or it is aborted. Further calls do nothing.
func (o *outliving) leave() {
	o.once.Do(func() {
		if r := o.x.relay.readers; r.add(o.x.lease.Caller().UID, 1) {
			o.timer = time.AfterFunc(r.limits.Time, o.abort)
		} else {
			o.abort()
		}
		o.x.w.Leave()
		o.x.lease.Detach()
	})
}

// end ends the exchange. It waits for leave where that has begun.
func (o *outliving) end() {
	if o == nil {
		return
	}
	o.unwatch()
	o.once.Do(func() {})
	o.abort()
	if o.timer != nil {
		o.timer.Stop()
		o.x.relay.readers.add(o.x.lease.Caller().UID, -1)
	}
}

// readOn ends the relay of a response whose client has left: at once, or under a
// budget when the response has been read, or must not be read on.
func (x *exchange) readOn(res *upstream.Response) error {
	if x.outliving == nil {
		return x.clientGone()
	}
	x.outliving.leave()
	for read := int64(0); read <= x.relay.readers.limits.Bytes; {
		piece, err := res.Next()
		x.observePiece(piece)
		read += int64(len(piece))
		if err != nil {
			x.account.whole = err == io.EOF
			break
		}
	}
	return x.clientGone()
}
