package main

import (
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/sandbox"
)

// components are the parts of the service that are open. A function that opens one adds to these lists at once what the
// part needs and how it is closed: so what is open is closed in the reverse order, wherever opening ends.
type components struct {
	needs   sandbox.Policy // for what they use once the sandbox is in force
	starts  []func() error // called in the sandbox, before clients can find the service
	hangups []func()       // called at each SIGHUP; must not wait
	closers []func()
}

func (all *components) onStart(start func() error) { all.starts = append(all.starts, start) }
func (all *components) onHangup(hangup func())     { all.hangups = append(all.hangups, hangup) }
func (all *components) onClose(close func())       { all.closers = append(all.closers, close) }

// directory returns the directory of path's last name, for needs. filepath.Dir would remove "link/..", which the kernel
// resolves to another directory.
func directory(path string) string {
	if dir, _ := filepath.Split(path); strings.Contains(dir, "..") {
		return dir
	}
	return filepath.Dir(path)
}

// start starts them in order, until one fails.
func (all *components) start() error {
	for _, start := range all.starts {
		if err := start(); err != nil {
			return err
		}
	}
	return nil
}

// close closes them, the last one first. Calling it again does nothing.
func (all *components) close() {
	for _, close := range slices.Backward(all.closers) {
		close()
	}
	all.closers = nil
}

// handleSIGHUP opens the files again that may have been renamed, and reloads the key, at each SIGHUP until stop is
// called.
func (s *service) handleSIGHUP() (stop func()) {
	if len(hangupSignals) == 0 {
		return func() {}
	}
	if len(s.hangups) == 0 {
		s.onHangup(func() { s.errs.Info("SIGHUP received, and there is nothing to reload") })
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, hangupSignals...)
	go func() {
		for range c {
			for _, hangup := range s.hangups {
				hangup()
			}
		}
	}()
	return func() {
		signal.Ignore(hangupSignals...) // nothing is sent to c any more
		close(c)
	}
}
