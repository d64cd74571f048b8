package main

import (
	"errors"
	"io"
	"os"
	"os/signal"
)

// onHangup does what a SIGHUP asks for, as long as the service runs: it opens
// files again, which something has renamed, and reads another key.
func (s *service) onHangup() (stop func()) {
	if len(hangupSignals) == 0 || len(s.appendFolders()) == 0 && s.opts.keyFD == 0 {
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
				s.rotate()
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

// rotate reads another key, in the background: it may be long in coming.
func (s *service) rotate() {
	if s.opts.keyFD == 0 {
		return
	}
	if !s.rotating.CompareAndSwap(false, true) {
		s.errs.line("still waiting for a key on --key-fd; write it there, one line")
		return
	}
	go func() {
		defer s.rotating.Store(false)
		rewind(s.opts.keyFD)
		switch err := s.key.Replace(s.opts.keyFD); {
		case err == nil:
			s.errs.line("another key is in use")
		case errors.Is(err, io.EOF):
			s.errs.line("the old key stays in use: nothing came from --key-fd; write the key there first, then send SIGHUP")
		default:
			s.errs.line("the old key stays in use: " + err.Error())
		}
	}()
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
