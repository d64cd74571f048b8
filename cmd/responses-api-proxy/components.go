package main

import (
	"slices"

	"github.com/responses-api-proxy/responses-api-proxy/internal/sandbox"
)

// A component is something that the service has opened. Each function may be nil.
type component struct {
	needs  func(*sandbox.Policy) // adds what the component uses once the sandbox is in force
	start  func() error          // called in the sandbox, before clients can find the service
	hangup func()                // called at each SIGHUP; must not wait
	close  func()                // gives back what was opened
}

// components are in the order in which they were opened. A function that opens one adds it at once, so that those that
// are open are closed in the reverse order, wherever opening ends.
type components []component

func (all *components) add(c component) { *all = append(*all, c) }

// need adds what the components use to p.
func (all components) need(p *sandbox.Policy) {
	for _, c := range all {
		if c.needs != nil {
			c.needs(p)
		}
	}
}

// start starts them in order, until one fails.
func (all components) start() error {
	for _, c := range all {
		if c.start == nil {
			continue
		}
		if err := c.start(); err != nil {
			return err
		}
	}
	return nil
}

// hangups returns what SIGHUP is for; nothing if it has no use.
func (all components) hangups() (calls []func()) {
	for _, c := range all {
		if c.hangup != nil {
			calls = append(calls, c.hangup)
		}
	}
	return calls
}

// close closes them, the last one first. Calling it again does nothing.
func (all *components) close() {
	for _, c := range slices.Backward(*all) {
		if c.close != nil {
			c.close()
		}
	}
	*all = nil
}
