package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/responses-api-proxy/responses-api-proxy/internal/dump"
	"github.com/responses-api-proxy/responses-api-proxy/internal/linelog"
)

// openLog prepares for --log-file: the start lines still go to where standard
// error was, but the descriptors of standard error and standard output are given
// back, so that a runner that waits for their end need not wait for us.
func (s *service) openLog() error {
	to, err := linelog.File(s.opts.logFile, s.opts.owner)
	if err != nil {
		return fmt.Errorf("cannot open --log-file: %w", err)
	}
	s.errs.next = to
	s.reopened("--log-file", s.opts.logFile, s.errs.Reopen)
	err = detach(2)
	if s.opts.audit != "-" {
		err = errors.Join(err, detach(1))
	}
	if err != nil {
		return fmt.Errorf("cannot give back standard output and standard error: %w", err)
	}
	return nil
}

// hideFaults leaves the log as the only writer to standard error. When the
// program faults, the runtime writes stacks with their arguments and registers
// there, and nothing else can prevent that: GOTRACEBACK does not hold for
// SIGTRAP, SIGILL and faults inside the runtime.
func (o *options) hideFaults() error {
	if o.protection == off {
		return nil // for debugging
	}
	if err := detach(2); err != nil {
		return fmt.Errorf("cannot hide what the runtime prints of faults: %w", err)
	}
	return nil
}

// reopened has SIGHUP open the file of a flag again, and warns if that could not be done after a rotation has renamed it.
func (s *service) reopened(flag, path string, reopen func()) {
	s.needs.Append = append(s.needs.Append, filepath.Dir(path))
	s.onHangup(reopen)
	uid, groups := os.Geteuid(), []int{os.Getegid()}
	if u := s.opts.runAs; u != nil {
		uid, groups = u.UID, []int{u.GID}
	} else if more, err := os.Getgroups(); err == nil {
		groups = append(groups, more...)
	}
	file, err := os.Stat(path)
	if dir := filepath.Dir(path); err == nil && file.Mode().IsRegular() && !mayCreate(dir, uid, groups) {
		s.warnings = append(s.warnings, fmt.Sprintf("SIGHUP will not open %s %s again after it was renamed: uid %d may not create files in %s; "+
			"chown that, or have the rotation create the file", flag, path, uid, dir))
	}
}

// openDump opens --dump-dir.
func (s *service) openDump() (err error) {
	s.dump, err = dump.Open(s.opts.dumpDir, s.opts.owner, s.errs.report)
	if err != nil {
		return err
	}
	s.needs.Write = append(s.needs.Write, s.opts.dumpDir)
	s.onClose(s.dump.Close)
	return nil
}
