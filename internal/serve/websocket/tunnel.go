package websocket

import (
	"cmp"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
)

const (
	// replyTimeout is the maximum time for a peer to reply to a close frame, and to close its side after the other has.
	replyTimeout = 5 * time.Second
	// leaveTimeout is the maximum time to forward the bytes of a client that has disconnected.
	leaveTimeout = time.Second

	bufferSize = 16 << 10 // of each direction
)

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// Side is one of the two connections. Read may be called concurrently with all other methods, Write and CloseWrite
// concurrently with Interrupt.
type Side interface {
	io.Reader
	io.Writer
	// CloseWrite closes the direction towards the peer.
	CloseWrite() error
	// Interrupt makes every present and future Read and Write fail.
	Interrupt()
}

// Config describes a tunnel and its limits.
type Config struct {
	Client, Upstream Side
	// Stop, when closed, ends the tunnel cleanly: both peers get a close frame with status 1001 after the frame that is
	// being sent to them.
	Stop <-chan struct{}
	// Deadline does the same at a time; zero means none.
	Deadline time.Time
	// Idle does the same after that time without a byte from either side; zero means never.
	Idle time.Duration
	// ClientLeft is closed when the client has closed at least its side. If it is nil, Read detects that.
	ClientLeft <-chan struct{}
	// ReadClient and ReadUpstream receive the payload of each side's data frames in pieces, the client's masked; last
	// reports that a piece ends a message. If one returns a denial, no further frame of that side is forwarded, and
	// both peers get a close frame with status 1008 and its code. Frames with an extension or a wrong mask, which
	// cannot be read, are malformed. nil reads nothing. The calls for one side do not overlap.
	ReadClient, ReadUpstream func(piece []byte, last bool) (denial *apierror.Error)
}

// tunnel is the state that both directions share.
type tunnel struct {
	Config
	up, down       *direction
	running        sync.WaitGroup
	ending         atomic.Pointer[ending]
	received, sent atomic.Int32 // close frames
	late           sync.Once
	expires        *time.Timer          // by Deadline or Idle
	ended          chan *apierror.Error // has space for the first
}

// Run copies in both directions until the tunnel ends, and returns when all of its goroutines have. It interrupts both
// sides; the caller closes them. Each direction is limited by its reader, and has a buffer of fixed size. The error is
// nil if both peers have sent close frames, or the tunnel was stopped.
func Run(cfg Config) *apierror.Error {
	t := &tunnel{Config: cfg, expires: time.NewTimer(cfg.remaining()), ended: make(chan *apierror.Error, 1)}
	t.up = &direction{tunnel: t, from: cfg.Client, to: cfg.Upstream, masked: true, read: cfg.ReadClient, left: apierror.Left,
		malformed: apierror.New(apierror.WebsocketMalformed, "the client sent what is no WebSocket frame")}
	t.down = &direction{tunnel: t, from: cfg.Upstream, to: cfg.Client, read: cfg.ReadUpstream,
		left:      apierror.New(apierror.UpstreamClosed, "the upstream ended a WebSocket without a close frame"),
		malformed: apierror.New(apierror.UpstreamMalformed, "the upstream sent what is no WebSocket frame")}
	t.running.Go(t.up.copy)
	t.running.Go(t.down.copy)
	end := t.supervise()
	cfg.Client.Interrupt()
	cfg.Upstream.Interrupt()
	t.running.Wait()
	return end
}

// remaining returns the time until the tunnel expires if no byte arrives.
func (c *Config) remaining() time.Duration {
	d := cmp.Or(c.Idle, math.MaxInt64)
	if !c.Deadline.IsZero() {
		d = min(d, time.Until(c.Deadline))
	}
	return d
}

// supervise returns when the tunnel must end, and how it ended.
func (t *tunnel) supervise() *apierror.Error {
	for {
		select {
		case <-t.Stop:
			t.stop(goingAway, "")
			t.Stop = nil
		case <-t.expires.C:
			t.stop(goingAway, "")
			t.finishWithin(replyTimeout) // even within a frame
		case <-t.ClientLeft:
			t.finishWithin(leaveTimeout)
			t.ClientLeft = nil
		case end := <-t.ended:
			return end
		}
	}
}

// ending is the content of both close frames; nil while frames pass.
type ending struct {
	status uint16
	reason string
}

// stop ends both directions with a close frame at their next boundaries, unless they end already. It does not wait for
// a peer that does not read.
func (t *tunnel) stop(status uint16, reason string) {
	if t.ending.CompareAndSwap(nil, &ending{status, reason}) {
		t.running.Go(t.up.stop)
		t.running.Go(t.down.stop)
	}
}

// finish ends the tunnel, unless it has ended.
func (t *tunnel) finish(end *apierror.Error) {
	select {
	case t.ended <- end:
	default:
	}
}

// finishWithin ends the tunnel after d, unless it has been called before.
func (t *tunnel) finishWithin(d time.Duration) {
	t.late.Do(func() {
		time.AfterFunc(d, func() {
			if t.received.Load()+t.sent.Load() > 0 {
				t.finish(nil)
			}
			t.finish(apierror.Left)
		})
	})
}

// direction is one of the two directions.
type direction struct {
	*tunnel
	from, to  Side
	masked    bool            // from's frames are, and our close frame to to
	left      *apierror.Error // the end if from closes without a close frame
	malformed *apierror.Error // the end if from's bytes are not frames
	read      func(piece []byte, last bool) (denial *apierror.Error)

	mu     sync.Mutex
	frames frameTracker
	silent bool // nothing more may be written: a close frame was, or a write failed
	closed bool // from has sent a close frame
}

// copy forwards what arrives until one of the two sides ends.
func (d *direction) copy() {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	defer clear(*buf) // an upstream may have echoed the key
	defer func() {
		if recover() != nil { // no peer's data may end the process
			d.finish(apierror.New(apierror.InternalError, "panic while a WebSocket's frames were read"))
		}
	}()
	for {
		n, err := d.from.Read(*buf)
		if n > 0 {
			d.expires.Reset(d.remaining())
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

// readEnd handles the end of from's side. Without a close frame before it, the peer has disconnected.
func (d *direction) readEnd() {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		d.to.CloseWrite() // best effort: to may have ended too
	case d.silent && d.sent.Load() > 0:
		d.finish(nil) // cleanly: it was stopped
	default:
		d.finish(d.left)
	}
}

// pass writes p, or the part of it that precedes a close frame. It returns an error if p is not a frame.
func (d *direction) pass(p []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for at := 0; at < len(p); {
		if d.ending.Load() != nil && d.frames.boundary() {
			d.write(p[:at])
			d.sendClose() // nothing is written after that
		}
		n, closing, err := d.frames.next(p[at:])
		if err != nil {
			return err
		}
		at += n
		if err := d.observe(); err != nil {
			return err
		}
		if closing && !d.closed {
			d.closed = true
			d.write(p[:at])
			d.silent = true // what follows a close frame is dropped
			if d.received.Add(1) == 2 {
				d.finish(nil)
			}
			d.finishWithin(replyTimeout)
		}
	}
	d.write(p)
	d.sendClose()
	return nil
}

// observe reads the bytes that frames has just consumed, unless they belong to a control frame. d.mu must be held.
func (d *direction) observe() error {
	f := &d.frames
	if d.read == nil || d.silent || f.payload == nil || f.header[0]&control != 0 {
		return nil
	}
	if f.header[0]&reserved != 0 || f.masked() != d.masked {
		return errFrame
	}
	if denial := d.read(f.payload, f.boundary() && f.header[0]&fin != 0); denial != nil {
		d.tunnel.stop(policyViolation, string(denial.Code)) // before the next frame
		d.finishWithin(replyTimeout)
	}
	return nil
}

// write sends p, unless nothing more may be written. d.mu must be held.
func (d *direction) write(p []byte) {
	if d.silent || len(p) == 0 {
		return
	}
	if _, err := d.to.Write(p); err != nil {
		d.silent = true
		d.finishWithin(leaveTimeout) // the other direction detects it, given time
	}
}

// sendClose adds a close frame if one is due at this boundary. d.mu must be held.
func (d *direction) sendClose() {
	if e := d.ending.Load(); e != nil && !d.silent && d.frames.boundary() {
		d.write(closeFrame(d.masked, e.status, e.reason))
		d.silent = true
		if d.sent.Add(1) == 2 {
			d.finishWithin(replyTimeout)
		}
	}
}

// stop adds the close frame now, if no frame is under way.
func (d *direction) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sendClose()
}
