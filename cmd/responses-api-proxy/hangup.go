package main

import (
	"os"
	"os/signal"
)

// handleSIGHUP handles SIGHUP until stop is called: it opens again the files that
// may have been renamed, and reloads the key.
func (s *service) handleSIGHUP() (stop func()) {
	if len(hangupSignals) == 0 {
		return func() {}
	}
	calls := s.components.hangups()
	if len(calls) == 0 {
		calls = append(calls, func() { s.errs.Info("SIGHUP received, and there is nothing to reload") })
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, hangupSignals...)
	go func() {
		for range c {
			for _, call := range calls {
				call()
			}
		}
	}()
	return func() {
		signal.Ignore(hangupSignals...) // nothing is sent to c any more
		close(c)
	}
}
