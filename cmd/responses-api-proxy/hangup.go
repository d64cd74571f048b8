package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync/atomic"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key"
	"github.com/responses-api-proxy/responses-api-proxy/internal/sandbox"
)

// onHangup does what a SIGHUP asks for, as long as the service runs: it opens
// files again, which something has renamed, and reads another key.
func (s *service) onHangup() (stop func()) {
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

// A rotation reads other keys from --key-fd.
type rotation struct {
	fd      int
	key     *key.Key
	errs    *errorLog
	newKey  func()
	pending atomic.Int32 // how many keys have been asked for that are not there yet
}

// openKeyFD prepares for --key-fd.
func (s *service) openKeyFD() error {
	fd := s.opts.keyFD
	if err := checkKeyFD(fd); err != nil {
		return err
	}
	r := &rotation{fd: fd, key: s.key, errs: s.errs, newKey: s.rejections.newKey}
	s.components.add(component{
		needs:  func(p *sandbox.Policy) { p.SetFlags = append(p.SetFlags, fd) }, // for rewind
		hangup: r.rotate,
	})
	return nil
}

// rotate reads another key, in the background: it may be long in coming. A SIGHUP that comes before it is there stands for
// one more key: would it be dropped, its key would stay in the FIFO, and every later rotation would bring the key of the
// one before.
func (r *rotation) rotate() {
	if r.pending.Add(1) > 1 {
		r.errs.warning("still waiting for a key on --key-fd; write it there, one line")
		return
	}
	go func() {
		for again := true; again; {
			err := r.replaceKey()
			again = r.pending.Add(-1) > 0 // before the line: its reader may send the next
			if err != nil {
				r.errs.warning(err.Error())
			} else {
				r.errs.Info("API key reloaded")
			}
		}
	}()
}

func (r *rotation) replaceKey() error {
	rewind(r.fd)
	switch err := r.key.Replace(r.fd); {
	case err == nil:
		r.newKey()
		return nil
	case errors.Is(err, io.EOF):
		return errors.New("API key not reloaded: nothing came from --key-fd, and the old key stays in use; write the key there first, then send SIGHUP")
	default:
		return fmt.Errorf("API key not reloaded: %w", err)
	}
}
