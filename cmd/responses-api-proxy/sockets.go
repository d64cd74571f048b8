package main

import (
	"errors"
	"net"
	"path/filepath"

	"github.com/responses-api-proxy/responses-api-proxy/internal/listen"
	"github.com/responses-api-proxy/responses-api-proxy/internal/systemd"
)

// sockets are the listeners that clients come to.
type sockets struct {
	listeners []net.Listener
	tcp, unix bool // what is among them
	port      int  // of the TCP listener, if there is one
}

// listen opens the sockets that clients come to, or takes those that systemd
// has opened.
func (s *service) listen() error {
	sockets, err := systemd.Sockets()
	if err != nil {
		return err
	}
	for _, socket := range sockets {
		s.onClose(func() { socket.Listener.Close() })
	}
	for _, socket := range sockets {
		if err := s.take(socket); err != nil {
			return err
		}
	}
	if len(s.listeners) > 0 {
		return nil
	}
	for _, a := range s.opts.listen {
		if err := s.listenOn(a); err != nil {
			return err
		}
	}
	return nil
}

// listenOn opens a socket for clients.
func (s *service) listenOn(a listen.Address) error {
	if a.Path == "" {
		l, err := listen.TCP(a)
		if err != nil {
			return err
		}
		s.onClose(func() { l.Close() }) // again, after a drain: that changes nothing
		s.add(l)
		return nil
	}
	users := &s.opts.users
	l, err := listen.Unix(listen.UnixConfig{Path: a.Path, Users: users.UIDs, Groups: users.GIDs, Everyone: users.Empty()})
	if err != nil {
		return err
	}
	s.needs.Remove = append(s.needs.Remove, filepath.Dir(a.Path))
	s.onClose(func() { l.Close() })
	s.add(l)
	return nil
}

// take takes a socket of systemd's.
func (s *service) take(socket systemd.Socket) error {
	_, tcp := socket.Listener.Addr().(*net.TCPAddr)
	switch {
	case socket.Name == systemd.Metrics && s.opts.metrics != "":
		return errors.New("systemd passes a socket for metrics, and --metrics names another; leave one out")
	case socket.Name == systemd.Metrics:
		s.metricsListener = socket.Listener
		return nil
	case s.opts.given["port"] || s.opts.given["listen"]:
		return errors.New("systemd passes the sockets to listen on; leave --port and --listen out")
	case tcp && s.tcp:
		return errors.New("systemd passes two TCP sockets for requests, and clients are told one port; keep one")
	}
	s.add(socket.Listener)
	return nil
}

// address is where clients find the proxy: over a unix socket any name will do.
func (s *sockets) address() string {
	for _, l := range s.listeners {
		if _, ok := l.Addr().(*net.TCPAddr); ok {
			return l.Addr().String()
		}
	}
	return "localhost"
}

func (s *sockets) add(l net.Listener) {
	s.listeners = append(s.listeners, l)
	if _, ok := l.Addr().(*net.TCPAddr); ok {
		s.tcp, s.port = true, listen.Port(l)
		return
	}
	s.unix = true
}
