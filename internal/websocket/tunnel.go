package websocket

import (
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// replyTimeout is how long a peer may take to reply to a close frame, and to end its side once the other has.
	replyTimeout = 5 * time.Second
	// leaveTimeout is how long bytes of a client that has left may take to be passed on.
	leaveTimeout = time.Second

	bufferSize = 16 << 10 // of each direction
)

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// Side is one of the two connections. Read may run at the same time as everything else, Write and CloseWrite at the same time as
// Interrupt.
type Side interface {
	io.Reader
	io.Writer
	// CloseWrite ends what the peer reads.
	CloseWrite() error
	// Interrupt makes every Read and Write fail that runs or is to come.
	Interrupt()
}

// Config is what to tunnel, and for how long.
type Config struct {
	Client, Upstream Side
	// Stop, when closed, ends the tunnel in good order: both peers get a close frame with status 1001 as soon as the frame that
	// they are getting is whole.
	Stop <-chan struct{}
	// Deadline does the same; zero means none.
	Deadline time.Time
	// Idle does the same after so long without a byte from either side; zero means never.
	Idle time.Duration
	// ClientLeft is closed when the client has at least ended its side. If it is nil, that is noticed by Read.
	ClientLeft <-chan struct{}
}

// End is how a tunnel has ended.
type End int

// The ends. All but Closed are ends without close frames from both peers.
const (
	Closed            End = iota + 1 // both peers have sent close frames, or the tunnel was stopped
	ClientLeft                       // the client's connection ended
	UpstreamLeft                     // the upstream's connection ended
	ClientMalformed                  // the client's bytes are not frames
	UpstreamMalformed                // the upstream's bytes are not frames
)

// tunnel is what both directions share.
type tunnel struct {
	up, down       *direction
	running        sync.WaitGroup
	received, sent atomic.Int32 // close frames
	late, over     sync.Once
	done           chan struct{} // closed when the tunnel must end
	end            End           // and how
}

// Run copies both ways until the tunnel ends, and returns when nothing of it runs any more. It interrupts both sides; closing
// them is the caller's. Each direction is held up by its reader, and takes a buffer of fixed size.
func Run(cfg Config) End {
	expired, passed := make(chan struct{}, 1), func() {}
	expire := func() {
		select {
		case expired <- struct{}{}:
		default:
		}
	}
	if !cfg.Deadline.IsZero() {
		defer time.AfterFunc(time.Until(cfg.Deadline), expire).Stop()
	}
	if cfg.Idle > 0 {
		idle := time.AfterFunc(cfg.Idle, expire)
		defer idle.Stop()
		passed = func() { idle.Reset(cfg.Idle) }
	}
	t := &tunnel{done: make(chan struct{})}
	t.up = &direction{tunnel: t, from: cfg.Client, to: cfg.Upstream, masked: true, left: ClientLeft, malformed: ClientMalformed, passed: passed}
	t.down = &direction{tunnel: t, from: cfg.Upstream, to: cfg.Client, left: UpstreamLeft, malformed: UpstreamMalformed, passed: passed}
	t.running.Go(t.up.copy)
	t.running.Go(t.down.copy)
	t.supervise(cfg, expired)
	cfg.Client.Interrupt()
	cfg.Upstream.Interrupt()
	t.running.Wait()
	return t.end
}

// supervise returns when the tunnel must end.
func (t *tunnel) supervise(cfg Config, expired <-chan struct{}) {
	for {
		select {
		case <-cfg.Stop:
			t.stop()
			cfg.Stop = nil
		case <-expired:
			t.stop()
			t.finishWithin(replyTimeout) // whatever frame is under way
		case <-cfg.ClientLeft:
			t.finishWithin(leaveTimeout)
			cfg.ClientLeft = nil
		case <-t.done:
			return
		}
	}
}

// stop does not wait for a peer that does not read.
func (t *tunnel) stop() {
	t.running.Go(t.up.stop)
	t.running.Go(t.down.stop)
}

// finish ends the tunnel, unless it has ended.
func (t *tunnel) finish(end End) {
	t.over.Do(func() {
		t.end = end
		close(t.done)
	})
}

// finishWithin ends the tunnel after d, unless it has been called before.
func (t *tunnel) finishWithin(d time.Duration) {
	t.late.Do(func() {
		time.AfterFunc(d, func() {
			if t.received.Load()+t.sent.Load() > 0 {
				t.finish(Closed)
			}
			t.finish(ClientLeft)
		})
	})
}

// direction is one of the two.
type direction struct {
	*tunnel
	from, to  Side
	masked    bool   // our close frame to to
	left      End    // if from ends without a close frame
	malformed End    // if from's bytes are not frames
	passed    func() // is called whenever bytes have come

	mu       sync.Mutex
	frames   frameTracker
	stopping bool // a close frame is to be added at the next boundary
	silent   bool // nothing more may be written: a close frame was, or a write failed
	closed   bool // from has sent a close frame
}

// copy passes on what comes until one of the two sides ends.
func (d *direction) copy() {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	defer clear(*buf) // of what an upstream may have echoed
	for {
		n, err := d.from.Read(*buf)
		if n > 0 {
			d.passed()
			if d.pass((*buf)[:n]) != nil {
				d.finish(d.malformed)
				return
			}
		}
		if err != nil {
			d.readEnd()
			return
		}
	}
}

// readEnd passes on that from has ended its side. Without a close frame before it, that is no half-close: the peer has left.
func (d *direction) readEnd() {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		d.to.CloseWrite() // best effort: to may have ended as well
	case d.silent && d.sent.Load() > 0:
		d.finish(Closed) // in good order: it was stopped
	default:
		d.finish(d.left)
	}
}

// pass writes p, or as much of it as the peer is still to get. It fails where p is no frame.
func (d *direction) pass(p []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for at := 0; at < len(p); {
		if d.stopping && d.frames.boundary() {
			d.write(p[:at])
			d.sendClose() // after which nothing is written any more
		}
		n, closing, err := d.frames.next(p[at:])
		if err != nil {
			return err
		}
		at += n
		if closing && !d.closed {
			d.closed = true
			d.write(p[:at])
			d.silent = true // what follows it is dropped
			if d.received.Add(1) == 2 {
				d.finish(Closed)
			}
			d.finishWithin(replyTimeout)
		}
	}
	d.write(p)
	d.sendClose()
	return nil
}

// write sends p, unless nothing more may be written. It needs d.mu.
func (d *direction) write(p []byte) {
	if d.silent || len(p) == 0 {
		return
	}
	if _, err := d.to.Write(p); err != nil {
		d.silent = true
		d.finishWithin(leaveTimeout) // the other direction will notice, if it has time
	}
}

// sendClose adds a close frame if that is due here and now. It needs d.mu.
func (d *direction) sendClose() {
	if d.stopping && !d.silent && d.frames.boundary() {
		d.write(closeFrame(d.masked))
		d.silent = true
		if d.sent.Add(1) == 2 {
			d.finishWithin(replyTimeout)
		}
	}
}

// stop adds a close frame as soon as it can.
func (d *direction) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopping = true
	d.sendClose()
}
