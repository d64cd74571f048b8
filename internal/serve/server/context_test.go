package server

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// TestClientContextCallsOnce: f is called when the context ends, before or after AfterFunc, unless stop came before;
// stop reports which.
func TestClientContextCallsOnce(t *testing.T) {
	for _, test := range []struct {
		name    string
		act     func(c *clientContext, f func()) (stopped bool)
		stopped bool
		calls   int32
	}{
		{"ends later", func(c *clientContext, f func()) bool { stop := c.AfterFunc(f); c.cancel(); return stop() }, false, 1},
		{"has ended", func(c *clientContext, f func()) bool { c.cancel(); return c.AfterFunc(f)() }, false, 1},
		{"stopped", func(c *clientContext, f func()) bool { ok := c.AfterFunc(f)(); c.cancel(); return ok }, true, 0},
		{"stopped twice", func(c *clientContext, f func()) bool { stop := c.AfterFunc(f); stop(); return stop() }, false, 0},
		{"for a derived context", func(c *clientContext, f func()) bool {
			derived, cancel := context.WithCancel(c)
			defer cancel()
			context.AfterFunc(derived, f)
			c.cancel()
			return false
		}, false, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var calls atomic.Int32
				c := newClientContext()
				stopped := test.act(c, func() { calls.Add(1) })
				synctest.Wait()
				if stopped != test.stopped || calls.Load() != test.calls || (c.Err() == nil) != (test.name == "stopped twice") {
					t.Errorf("stop returned %v, %d calls, error %v", stopped, calls.Load(), c.Err())
				}
			})
		})
	}
}

// TestClientContextRace: of stop's result and the call exactly one comes, whenever the context ends.
func TestClientContextRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 1000 {
			var n atomic.Int32
			c := newClientContext()
			go c.cancel()
			if c.AfterFunc(func() { n.Add(1) })() {
				n.Add(1)
			}
			if synctest.Wait(); n.Load() != 1 {
				t.Fatalf("%d, want 1", n.Load())
			}
		}
	})
}

func TestClientContextAllocatesNothing(t *testing.T) {
	c := newClientContext()
	defer c.cancel()
	f := func() {}
	if n := testing.AllocsPerRun(100, func() { c.AfterFunc(f)() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
