package server

import (
	"context"
	"sync"
)

// clientContext is a connection's context, which ends when the client leaves. Unlike those of package context it calls a
// function at its end without an allocation for each request: see AfterFunc.
type clientContext struct {
	context.Context
	end  context.CancelFunc
	stop func() bool // a field, to avoid an allocation for each request

	mu sync.Mutex
	f  func() // to be called at the end; nil if there is none
}

func newClientContext() *clientContext {
	c := &clientContext{}
	c.Context, c.end = context.WithCancel(context.Background())
	c.stop = func() bool { return c.set(nil) != nil }
	return c
}

// cancel ends the context.
func (c *clientContext) cancel() {
	c.end()
	if f := c.set(nil); f != nil {
		go f()
	}
}

// AfterFunc is what context.AfterFunc describes, for one f at a time: stop must be called, or f have been, before the
// next call.
func (c *clientContext) AfterFunc(f func()) (stop func() bool) {
	c.set(f)
	if c.Err() != nil && c.stop() { // cancel did not find f
		go f()
	}
	return c.stop
}

// set sets f, and returns the one before.
func (c *clientContext) set(f func()) (before func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, c.f = c.f, f
	return before
}
