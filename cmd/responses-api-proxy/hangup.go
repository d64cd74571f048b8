package main

import (
	"os"
	"os/signal"
)

// onHangup does what a SIGHUP asks for, as long as the service runs: it opens
// files again, which something has renamed.
func (s *service) onHangup() (stop func()) {
	if len(hangupSignals) == 0 || len(s.appendFolders()) == 0 {
		return func() {} // it stays ignored
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, hangupSignals...)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-c:
				s.reopen()
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Ignore(hangupSignals...)
		close(done)
	}
}

func (s *service) reopen() {
	if s.audit != nil {
		s.audit.Reopen()
	}
	if s.opts.logFile == "" {
		return
	}
	f, err := openLogFile(s.opts.logFile, s.opts.owner())
	if err != nil {
		s.errs.line("the old log file stays in use: " + err.Error())
		return
	}
	s.errs.to(f)
}
