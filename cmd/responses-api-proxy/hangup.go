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

// rotate reads another key, in the background: it may be long in coming. A
// SIGHUP that comes before it is there stands for one more key: would it be
// dropped, its key would stay in the FIFO, and every later rotation would bring
// the key of the one before.
func (s *service) rotate() {
	if s.opts.keyFD == 0 {
		return
	}
	if s.rotating.Add(1) > 1 {
		s.errs.line("still waiting for a key on --key-fd; write it there, one line")
		return
	}
	go func() {
		for again := true; again; {
			text := s.replaceKey()
			again = s.rotating.Add(-1) > 0 // before the line: who reads it may send the next
			s.errs.line(text)
		}
	}()
}

// replaceKey says what has come of it.
func (s *service) replaceKey() string {
	rewind(s.opts.keyFD)
	switch err := s.key.Replace(s.opts.keyFD); {
	case err == nil:
		return "another key is in use"
	case errors.Is(err, io.EOF):
		return "the old key stays in use: nothing came from --key-fd; write the key there first, then send SIGHUP"
	default:
		return "no other key was read: " + err.Error()
	}
}

func (s *service) reopen() {
	if s.audit != nil {
		s.audit.Reopen()
	}
	s.errs.Reopen()
}
