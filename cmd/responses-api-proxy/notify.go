package main

import (
	"fmt"
	"strings"
	"time"
)

// tellSystemd says that the service is ready, and then, if systemd watches it,
// twice in each of its intervals that it is alive: that its engine still takes
// connections in.
func (s *service) tellSystemd() (stop func()) {
	var where []string
	for _, l := range s.listeners {
		where = append(where, l.Addr().String())
	}
	s.notifier.Ready("serving on " + strings.Join(where, " and "))
	interval := s.notifier.Watchdog()
	if interval <= 0 {
		return func() {}
	}
	ticker, done := time.NewTicker(interval/2), make(chan struct{})
	go func() {
		for {
			select {
			case <-ticker.C:
				s.notifier.Status(fmt.Sprintf("serving on %s; %d connections", strings.Join(where, " and "), s.engine.Connections()))
				s.notifier.Alive()
			case <-done:
				return
			}
		}
	}()
	return func() {
		ticker.Stop()
		close(done)
	}
}
