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
	stop func() bool // clear; a field, to avoid an allocation for each request

	mu sync.Mutex
	f  func() // to be called at the end; nil if there is none
}

func newClientContext() *clientContext {
	c := &clientContext{}
	c.Context, c.end = context.WithCancel(context.Background())
	c.stop = c.clear
	return c
}

// cancel ends the context.
func (c *clientContext) cancel() {
	c.end()
	c.mu.Lock()
	f := c.f
	c.f = nil
	c.mu.Unlock()
	if f != nil {
		go f()
	}
}

// AfterFunc is what context.AfterFunc describes, for one f at a time: stop must be called, or f have been, before the
// next call.
func (c *clientContext) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	c.f = f
	c.mu.Unlock()
	if c.Err() != nil && c.clear() { // cancel did not find f
		go f()
	}
	return c.stop
}

// clear reports whether there was an f, and was not called.
func (c *clientContext) clear() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	had := c.f != nil
	c.f = nil
	return had
}
