package upstream

import (
	"sync"
	"time"
)

const (
	// idleLimit is shorter than the idle time-outs of common edges (nginx 75 s, AWS ALB 60 s), so that we close a
	// connection before they do.
	idleLimit = 45 * time.Second
	// sweepEvery bounds how long a connection that the upstream has closed stays open on our side.
	sweepEvery = 5 * time.Second
	maxIdle    = 256
)

// pool keeps connections between requests. The zero value is ready.
type pool struct {
	mu     sync.Mutex
	conns  []*conn // the longest idle first
	timer  *time.Timer
	closed bool
}

// get returns the connection that was used last and is still open, or nil.
func (p *pool) get() *conn {
	for {
		c := p.pop()
		if c == nil || c.quiet() {
			return c
		}
		c.close()
	}
}

func (p *pool) pop() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.conns)
	if n == 0 {
		return nil
	}
	c := p.conns[n-1]
	p.conns[n-1] = nil
	p.conns = p.conns[:n-1]
	return c
}

// put keeps c, which must have nothing unread.
func (p *pool) put(c *conn) {
	c.in.shrink()
	c.idle = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.conns) >= maxIdle {
		c.close()
		return
	}
	p.conns = append(p.conns, c)
	if p.timer == nil {
		p.timer = time.AfterFunc(sweepEvery, p.sweep)
	}
}

// sweep closes what is idle for too long or dead, and comes again as long as anything is left.
func (p *pool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := p.conns[:0]
	for _, c := range p.conns {
		if time.Since(c.idle) < idleLimit && c.quiet() {
			kept = append(kept, c)
			continue
		}
		c.close()
	}
	clear(p.conns[len(kept):])
	p.conns = kept
	if len(kept) == 0 || p.closed {
		p.timer = nil
		return
	}
	p.timer.Reset(sweepEvery)
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.conns {
		c.close()
	}
	clear(p.conns)
	p.conns = nil
}
