package main

import (
	"fmt"
	"os"

	"github.com/responses-api-proxy/responses-api-proxy/internal/dump"
)

// openLogFile opens --log-file at its end. A new one is given to owner, unless
// that is -1.
func openLogFile(path string, owner int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|noFollow, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open --log-file: %w; name a file, not a link, in a folder that is there", err)
	}
	if st, err := f.Stat(); err == nil && owner >= 0 && st.Mode().IsRegular() && st.Size() == 0 {
		f.Chown(owner, -1) // best effort: it may be nobody's to give
	}
	return f, nil
}

// openLog prepares for --log-file: the start lines still go to where standard
// error was, and nobody who waits for its end, or for that of standard output,
// has to wait for us afterwards.
func (s *service) openLog() error {
	if s.opts.logFile == "" {
		return nil
	}
	f, err := openLogFile(s.opts.logFile, s.opts.owner())
	if err != nil {
		return err
	}
	before, err := detach(s.opts.audit == "-")
	if err != nil {
		f.Close()
		return fmt.Errorf("cannot let go of standard error: %w", err)
	}
	s.errs.to(before)
	s.logFile = f
	return nil
}

// switchLog is called after the start lines.
func (s *service) switchLog() {
	if s.logFile != nil {
		s.errs.to(s.logFile)
	}
}

// openDump opens --dump-dir.
func (s *service) openDump() (err error) {
	if s.opts.dumpDir == "" {
		return nil
	}
	s.dump, err = dump.Open(dump.Config{Dir: s.opts.dumpDir, MaxBytes: s.opts.dumpMax, Owner: s.opts.owner(), Report: func(err error) { s.errs.line(err.Error()) }})
	return err
}
