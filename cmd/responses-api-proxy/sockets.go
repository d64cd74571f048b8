package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/listen"
	"github.com/responses-api-proxy/responses-api-proxy/internal/host/systemd"
)

// sockets are the listeners that clients come to.
type sockets struct {
	listeners []net.Listener
	tcp, unix bool   // what is among them
	port      int    // of the TCP listener, if there is one
	address   string // where clients find the proxy; over a unix socket any name will do
}

// listen opens the sockets that clients come to, or takes those that systemd has opened.
func (s *service) listen() error {
	passed, metrics, err := systemd.Sockets()
	if err != nil {
		return err
	}
	if metrics != nil {
		s.metricsListener = metrics
		s.onStart(s.serveMetrics)
		s.onClose(func() { metrics.Close() })
		if s.opts.given["metrics"] {
			return errors.New("systemd passes a socket for metrics, and --metrics names another; leave one out")
		}
	}
	for _, l := range passed {
		s.onClose(func() { l.Close() })
		switch _, tcp := l.Addr().(*net.TCPAddr); {
		case s.opts.given["port"] || s.opts.given["listen"]:
			return errors.New("systemd passes the sockets to listen on; leave --port and --listen out")
		case tcp && s.tcp:
			return errors.New("systemd passes two TCP sockets for requests, and clients are told one port; keep one")
		}
		s.add(l)
	}
	if len(passed) > 0 {
		return nil
	}
	for _, a := range s.opts.listen {
		users := &s.opts.users
		l, err := s.listenOn(a, listen.UnixConfig{Users: users.UIDs, Groups: users.GIDs, Everyone: users.Empty()})
		if err != nil {
			return err
		}
		s.add(l)
	}
	return nil
}

// listenOn opens the socket at a; who is for a unix socket.
func (s *service) listenOn(a listen.Address, who listen.UnixConfig) (net.Listener, error) {
	l, err := listen.Listen(a, who)
	if err != nil {
		return nil, err
	}
	if a.Path != "" {
		s.needs.Remove = append(s.needs.Remove, directory(a.Path))
	}
	s.onClose(func() { l.Close() }) // again, after a drain: that changes nothing
	return l, nil
}

func (s *sockets) add(l net.Listener) {
	s.listeners = append(s.listeners, l)
	if tcp, ok := l.Addr().(*net.TCPAddr); ok {
		s.tcp, s.port, s.address = true, tcp.Port, tcp.String()
		return
	}
	s.unix = true
}

func (s *service) openNotifier() (err error) {
	if s.notifier, err = systemd.NewNotifier(); err != nil {
		return err
	}
	s.onClose(func() { s.notifier.Close() })
	return nil
}

// notifyReady notifies systemd that the service is ready, and then, if the unit has a watchdog, twice in each of its
// intervals that the service is alive. The status needs a lock of the engine, so that a deadlock there ends the
// reports.
func (s *service) notifyReady() {
	var where []string
	for _, l := range s.listeners {
		where = append(where, l.Addr().String())
	}
	status := "serving on " + strings.Join(where, " and ")
	if err := s.notifier.Notify(systemd.Ready, status); err != nil {
		s.errs.Error("systemd does not know that this is ready, and may end it", "reason", err)
	}
	if interval := s.notifier.Watchdog(); interval > 0 {
		go func() {
			for range time.Tick(interval / 2) {
				s.notifier.Notify(systemd.Alive, fmt.Sprintf("%s; %d connections", status, s.engine.Connections()))
			}
		}()
	}
}
