package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/systemd"
)

// notifyReady notifies systemd that the service is ready, and then, if the unit
// has a watchdog, twice in each of its intervals that the service is alive: that
// its engine still accepts connections.
func (s *service) notifyReady() (stop func()) {
	var where []string
	for _, l := range s.listeners {
		where = append(where, l.Addr().String())
	}
	if err := s.notifier.Notify(systemd.Ready, "serving on "+strings.Join(where, " and ")); err != nil {
		s.errs.Error("systemd does not know that this is ready, and may end it", "reason", err)
	}
	interval := s.notifier.Watchdog()
	if interval <= 0 {
		return func() {}
	}
	ticker := time.NewTicker(interval / 2)
	go func() { // waits for good once the ticker is stopped: the program ends then
		for range ticker.C {
			s.notifier.Notify(systemd.Alive, fmt.Sprintf("serving on %s; %d connections", strings.Join(where, " and "), s.engine.Connections()))
		}
	}()
	return ticker.Stop
}
