package websocket

import (
	"io"
	"sync"
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

// Side is one of the two connections. Read may run at the same time as everything else, Write and CloseWrite at the
// same time as Interrupt.
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
	// Stop, when closed, ends the tunnel in good order: both peers get a close frame with status 1001 as soon as the
	// frame that they are getting is whole.
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

// event is what has happened in one direction. There are few of each, so that a channel takes all of them.
type event struct {
	kind int
	end  End // of ended and endedAfterClose
}

const (
	closeReceived   = iota // from the peer that is read from
	closeSent              // by us, to the peer that is written to
	writeFailed            // the peer that is written to is leaving
	ended                  // the tunnel ends
	endedAfterClose        // the same, and in good order if it was stopped

	maxEvents = 2 * 4 // of both directions: each of the first three once, and one of the last two
)

// direction is one of the two.
type direction struct {
	from, to  Side
	masked    bool // our close frame to to
	left      End  // if from ends without a close frame
	malformed End  // if from's bytes are not frames
	events    chan<- event
	idle      *time.Timer // to be restarted with every byte; nil if there is none
	idleTime  time.Duration

	mu       sync.Mutex
	frames   frameTracker
	stopping bool // a close frame is to be added at the next boundary
	done     bool // nothing more may be written: a close frame was, or a write failed
	closed   bool // from has sent a close frame
}

// Run copies both ways until the tunnel ends, and returns when nothing of it runs any more. It interrupts both sides;
// closing them is the caller's. Each direction is held up by its reader, and takes a buffer of fixed size.
func Run(cfg Config) End {
	events := make(chan event, maxEvents)
	up := &direction{from: cfg.Client, to: cfg.Upstream, masked: true, left: ClientLeft, malformed: ClientMalformed, events: events}
	down := &direction{from: cfg.Upstream, to: cfg.Client, left: UpstreamLeft, malformed: UpstreamMalformed, events: events}
	t := &tunnel{}
	if cfg.Idle > 0 {
		timer := time.NewTimer(cfg.Idle)
		defer timer.Stop()
		t.idle = timer.C
		up.idle, down.idle, up.idleTime, down.idleTime = timer, timer, cfg.Idle, cfg.Idle
	}
	t.stop = func() { // does not wait for a peer that does not read
		t.running.Go(up.stop)
		t.running.Go(down.stop)
	}
	t.running.Go(up.copy)
	t.running.Go(down.copy)
	end := t.supervise(cfg, events)
	cfg.Client.Interrupt()
	cfg.Upstream.Interrupt()
	t.running.Wait()
	return end
}

// tunnel is what only the goroutine of Run uses.
type tunnel struct {
	running        sync.WaitGroup
	stop           func()
	idle, late     <-chan time.Time
	received, sent int // close frames
}

// supervise returns when the tunnel must end.
func (t *tunnel) supervise(cfg Config, events <-chan event) (end End) {
	var deadline <-chan time.Time
	if !cfg.Deadline.IsZero() {
		deadline = time.After(time.Until(cfg.Deadline))
	}
	for end == 0 {
		select {
		case <-cfg.Stop:
			t.stop()
			cfg.Stop = nil
		case <-deadline:
			t.stop()
			t.hurry(replyTimeout) // whatever frame is under way
		case <-t.idle:
			t.stop()
			t.hurry(replyTimeout) // whatever frame is under way
		case <-cfg.ClientLeft:
			t.hurry(leaveTimeout)
			cfg.ClientLeft = nil
		case <-t.late:
			end = ClientLeft
			if t.received+t.sent > 0 {
				end = Closed
			}
		case e := <-events:
			end = t.handle(e)
		}
	}
	return end
}

// hurry ends the tunnel after d, unless something else does before.
func (t *tunnel) hurry(d time.Duration) {
	if t.late == nil {
		t.late = time.After(d)
	}
}

// handle returns how the tunnel ends by an event, or 0 if it does not.
func (t *tunnel) handle(e event) End {
	switch e.kind {
	case closeReceived:
		if t.received++; t.received == 2 {
			return Closed
		}
		t.hurry(replyTimeout)
	case closeSent:
		if t.sent++; t.sent == 2 {
			t.hurry(replyTimeout)
		}
	case writeFailed: // the other direction will notice, if it has time
		t.hurry(leaveTimeout)
	case endedAfterClose:
		if t.sent > 0 {
			return Closed
		}
		return e.end
	case ended:
		return e.end
	}
	return 0
}

// copy passes on what comes until one of the two sides ends.
func (d *direction) copy() {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	defer clear(*buf) // of what an upstream may have echoed
	for {
		n, err := d.from.Read(*buf)
		if n > 0 {
			if d.idle != nil {
				d.idle.Reset(d.idleTime)
			}
			if d.pass((*buf)[:n]) != nil {
				d.events <- event{ended, d.malformed}
				return
			}
		}
		if err != nil {
			d.readEnd()
			return
		}
	}
}

// readEnd passes on that from has ended its side. Without a close frame before it, that is no half-close: the peer has
// left.
func (d *direction) readEnd() {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		d.to.CloseWrite() // best effort: to may have ended as well
	case d.done:
		d.events <- event{endedAfterClose, d.left}
	default:
		d.events <- event{ended, d.left}
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
			d.done = true // what follows it is dropped
			d.events <- event{kind: closeReceived}
		}
	}
	d.write(p)
	d.sendClose()
	return nil
}

// write sends p, unless nothing more may be written. It needs d.mu.
func (d *direction) write(p []byte) {
	if d.done || len(p) == 0 {
		return
	}
	if _, err := d.to.Write(p); err != nil {
		d.done = true
		d.events <- event{kind: writeFailed}
	}
}

// sendClose adds a close frame if that is due here and now. It needs d.mu.
func (d *direction) sendClose() {
	if d.stopping && !d.done && d.frames.boundary() {
		d.write(closeFrame(d.masked))
		d.done = true
		d.events <- event{kind: closeSent}
	}
}

// stop adds a close frame as soon as it can.
func (d *direction) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopping = true
	d.sendClose()
}
