package websocket

import (
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// replyPatience is how long a peer may take to answer a close frame, and to
	// be done once the other has ended its side.
	replyPatience = 5 * time.Second
	// leavePatience is how long what a client has sent may take to be passed on
	// once it has left.
	leavePatience = time.Second

	bufferSize = 16 << 10 // of each direction
)

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// Side is one of the two connections. Read may run at the same time as
// everything else, Write and CloseWrite at the same time as Interrupt.
type Side interface {
	io.Reader
	io.Writer
	// CloseWrite tells the peer that nothing more will come.
	CloseWrite() error
	// Interrupt makes every Read and Write fail that runs or is to come.
	Interrupt()
}

// Config says what to tunnel, and for how long.
type Config struct {
	Client, Upstream Side
	// Stop, when closed, ends the tunnel in good order: both peers get a close
	// frame with status 1001 as soon as the frame that they are getting is whole.
	Stop <-chan struct{}
	// Deadline does the same; zero means none.
	Deadline time.Time
	// Idle does the same after so long without a byte from either side; zero
	// means never.
	Idle time.Duration
	// ClientLeft, when closed, says that the client has at least ended its side.
	// It may be nil: then that is noticed where it is read from.
	ClientLeft <-chan struct{}
}

// End is how a tunnel has ended.
type End int

// The ends. All but Closed are ends without close frames from both peers.
const (
	// Closed: both peers have said so, or it was stopped.
	Closed End = iota + 1
	// ClientLeft: the client's connection ended.
	ClientLeft
	// UpstreamLeft: the upstream's connection ended.
	UpstreamLeft
	// ClientMalformed: the client sends what are no frames.
	ClientMalformed
	// UpstreamMalformed: the upstream does.
	UpstreamMalformed
)

// tunnel is two directions and what they share.
type tunnel struct {
	cfg      Config
	up, down way
	active   atomic.Int64 // when the last byte came, as nanoseconds since begun
	begun    time.Time
	idle     *time.Timer
	over     chan struct{} // closed with the first reason to end
	others   sync.WaitGroup

	mu       sync.Mutex
	end      End
	hurrying *time.Timer
	said     int // peers that have sent a close frame
	sent     int // peers to which one was sent by us
}

// way is one direction.
type way struct {
	t        *tunnel
	from, to Side
	masked   bool // what we add to it
	left     End  // if from ends without a word
	nonsense End  // if from sends what are no frames

	mu       sync.Mutex
	frames   follower
	stopping bool // a close frame is to be added at the next boundary
	done     bool // nothing more may be written: a close frame was, or it failed
	closed   bool // from has sent a close frame
}

// Run copies both ways until the tunnel ends, and returns when nothing of it
// runs any more. It interrupts both sides; closing them is the caller's. Each
// direction is held up by its reader, and takes a buffer of fixed size.
func Run(cfg Config) End {
	t := &tunnel{cfg: cfg, begun: time.Now(), over: make(chan struct{})}
	t.up = way{t: t, from: cfg.Client, to: cfg.Upstream, masked: true, left: ClientLeft, nonsense: ClientMalformed}
	t.down = way{t: t, from: cfg.Upstream, to: cfg.Client, left: UpstreamLeft, nonsense: UpstreamMalformed}
	t.others.Go(t.watch)
	if cfg.Idle > 0 {
		t.mu.Lock()
		t.idle = time.AfterFunc(cfg.Idle, t.checkIdle)
		t.mu.Unlock()
		defer t.idle.Stop()
	}
	t.others.Go(t.down.copy)
	t.up.copy()
	t.others.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hurrying != nil {
		t.hurrying.Stop()
	}
	return t.end
}

// watch waits for whatever ends the tunnel from outside.
func (t *tunnel) watch() {
	var deadline <-chan time.Time
	if !t.cfg.Deadline.IsZero() {
		timer := time.NewTimer(time.Until(t.cfg.Deadline))
		defer timer.Stop()
		deadline = timer.C
	}
	stop, left := t.cfg.Stop, t.cfg.ClientLeft
	for {
		select {
		case <-stop:
			t.stop()
			stop = nil
		case <-deadline:
			t.stop()
			t.hurry(replyPatience) // whatever frame is under way: nobody else ends it
		case <-left:
			t.hurry(leavePatience)
			left = nil
		case <-t.over:
			return
		}
	}
}

// checkIdle stops a tunnel in which nothing has moved for long, and looks again
// later at any other.
func (t *tunnel) checkIdle() {
	quiet := time.Since(t.begun) - time.Duration(t.active.Load())
	if quiet < t.cfg.Idle {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.idle.Reset(t.cfg.Idle - quiet)
		return
	}
	t.stop()
	t.hurry(replyPatience) // whatever frame is under way
}

// stop has both peers told. It does not wait for one that does not read.
func (t *tunnel) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.end == 0 { // so that watch still runs, and others is waited for
		t.others.Go(t.up.stop)
		t.others.Go(t.down.stop)
	}
}

// finish ends the tunnel; the first reason counts.
func (t *tunnel) finish(why End) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.end != 0 {
		return
	}
	t.end = why
	close(t.over)
	t.cfg.Client.Interrupt()
	t.cfg.Upstream.Interrupt()
}

// hurry ends the tunnel after d, unless something else does before.
func (t *tunnel) hurry(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hurrying == nil && t.end == 0 {
		t.hurrying = time.AfterFunc(d, func() { t.finish(t.overdue()) })
	}
}

// overdue is why a tunnel ends that should have ended by itself.
func (t *tunnel) overdue() End {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.said+t.sent == 0 {
		return ClientLeft
	}
	return Closed
}

// spoke counts a peer that has sent its close frame. When both have, all is
// said.
func (t *tunnel) spoke() {
	t.mu.Lock()
	t.said++
	both := t.said == 2
	t.mu.Unlock()
	if both {
		t.finish(Closed)
		return
	}
	t.hurry(replyPatience)
}

// told counts a peer that was sent a close frame of ours.
func (t *tunnel) told() {
	t.mu.Lock()
	t.sent++
	both := t.sent == 2
	t.mu.Unlock()
	if both {
		t.hurry(replyPatience)
	}
}

// copy passes on what comes until one of the two sides ends.
func (w *way) copy() {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	defer clear(*buf) // of what an upstream may have echoed
	for {
		n, err := w.from.Read(*buf)
		if n > 0 {
			w.t.active.Store(int64(time.Since(w.t.begun)))
			if w.pass((*buf)[:n]) != nil {
				w.t.finish(w.nonsense)
				return
			}
		}
		if err != nil {
			w.ended()
			return
		}
	}
}

// ended passes on that from has ended its side. Without a close frame before it
// that is no half-close, but somebody who has left.
func (w *way) ended() {
	w.mu.Lock()
	closed, done := w.closed, w.done
	w.mu.Unlock()
	switch {
	case closed:
		w.to.CloseWrite() // best effort: to may have ended as well
		w.t.hurry(replyPatience)
	case done && w.t.stopped():
		w.t.finish(Closed)
	default:
		w.t.finish(w.left)
	}
}

// stopped tells that close frames were sent by us.
func (t *tunnel) stopped() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sent > 0
}

// pass writes p, or as much of it as the peer is still to get. It fails where p
// is no frame.
func (w *way) pass(p []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for at := 0; at < len(p); {
		if w.due() { // after which nothing is written any more
			w.write(p[:at])
			w.sayGoodbye()
		}
		n, closing, err := w.frames.next(p[at:])
		if err != nil {
			return err
		}
		at += n
		if closing && !w.closed {
			w.closed = true
			w.write(p[:at])
			w.done = true // what follows it is for nobody
			w.t.spoke()
		}
	}
	w.write(p)
	if w.due() {
		w.sayGoodbye()
	}
	return nil
}

// due tells that a close frame is to be added here and now. It needs w.mu, as
// all below do.
func (w *way) due() bool { return w.stopping && !w.done && w.frames.boundary() }

// sayGoodbye adds the close frame.
func (w *way) sayGoodbye() {
	w.write(closeFrame(w.masked))
	w.done = true
	w.t.told()
}

// write sends p. A peer that cannot be written to is leaving: the other
// direction will notice, if it has time.
func (w *way) write(p []byte) {
	if w.done || len(p) == 0 {
		return
	}
	if _, err := w.to.Write(p); err != nil {
		w.done = true
		w.t.hurry(leavePatience)
	}
}

// stop adds a close frame as soon as it can.
func (w *way) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopping = true
	if w.due() {
		w.sayGoodbye()
	}
}
