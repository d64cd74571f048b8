package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/admit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/budget"
	"github.com/responses-api-proxy/responses-api-proxy/internal/front"
	"github.com/responses-api-proxy/responses-api-proxy/internal/jail"
	"github.com/responses-api-proxy/responses-api-proxy/internal/listen"
	"github.com/responses-api-proxy/responses-api-proxy/internal/proxy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
)

// service is everything between the key and the clients.
type service struct {
	opts *options
	errs *errorLog

	stop  chan os.Signal
	ended chan struct{} // asked to end by GET /shutdown or by a limit

	listeners []net.Listener
	port      int // of the TCP listener, if there is one
	client    *upstream.Client
	gate      *admit.Gate
	book      *budget.Book
	engine    *front.Engine
	jail      *jail.Report
}

// open makes everything ready to serve, in the original's order of errors: URL,
// sockets, files. Clients may come as soon as server-info is there: the sockets
// already take their connections.
func (s *service) open(key *secret.Key, missing []string) error {
	target, err := upstream.ParseTarget(s.opts.upstreamURL, s.opts.insecureUpstream)
	if err != nil {
		return err
	}
	if err := s.listen(); err != nil {
		return err
	}
	s.client, err = upstream.New(upstream.Config{Target: target, Key: key, LegacyTLS: s.opts.legacyTLS})
	if err != nil {
		return err
	}
	if err := s.openGate(); err != nil {
		return err
	}
	if err := s.openEngine(); err != nil {
		return err
	}
	tell := func(_, _ int) error { return nil }
	if s.opts.serverInfo != "" {
		if tell, err = listen.PrepareInfo(s.opts.serverInfo); err != nil {
			return err
		}
	}
	// Everything is open that needs a file, a port or a privilege. From here on
	// the process can only serve; then clients may know of it.
	if err := s.enterJail(missing); err != nil {
		return err
	}
	return tell(s.port, os.Getpid())
}

// enterJail locks the process in. missing are the protections that harden could
// not find.
func (s *service) enterJail(missing []string) (err error) {
	o := s.opts
	if o.strict && len(missing) > 0 {
		return fmt.Errorf("--strict: this system does not offer %s", strings.Join(missing, ", "))
	}
	cfg := jail.Config{User: o.user, Ports: []uint16{s.client.Port()}, Off: o.noJail, Strict: o.strict}
	if o.budgetFile != "" {
		cfg.Write = []string{filepath.Dir(o.budgetFile)}
	}
	if o.socket != "" {
		cfg.Remove = []string{filepath.Dir(o.socket)}
	}
	s.jail, err = jail.Enter(cfg)
	return err
}

func (s *service) listen() error {
	if s.opts.tcp {
		l, err := listen.TCP(s.opts.port)
		if err != nil {
			return err
		}
		s.listeners = append(s.listeners, l)
		s.port = listen.Port(l)
	}
	if s.opts.socket == "" {
		return nil
	}
	users := &s.opts.users
	l, err := listen.Unix(listen.UnixConfig{Path: s.opts.socket, Users: users.UIDs(), Groups: users.GIDs(), Everyone: users.Empty()})
	if err != nil {
		return err
	}
	s.listeners = append(s.listeners, l)
	return nil
}

// openGate reads the budget and prepares to ask the kernel who calls.
func (s *service) openGate() (err error) {
	o := s.opts
	cfg := admit.Config{TCP: o.tcp, Users: o.users, ShutdownUsers: o.shutdownUsers, Limits: o.limits, Origin: admit.NewOrigin(s.port, o.hosts), Expired: s.end}
	if o.maxTokens > 0 {
		report := func(err error) { s.errs.line("the budget cannot be kept: " + err.Error()) }
		s.book, err = budget.Open(budget.Config{Limit: o.maxTokens, File: o.budgetFile, Also: o.becomes.UIDs(), Report: report})
		if err != nil {
			return err
		}
		cfg.Budget = s.book
	}
	s.gate, err = admit.New(cfg)
	return err
}

func (s *service) openEngine() (err error) {
	cfg := proxy.Config{Upstream: s.client, Log: s.errs.line}
	if s.opts.httpShutdown {
		cfg.Shutdown = s.end
	}
	s.engine, err = front.New(front.Config{Proxy: proxy.New(cfg), Gate: s.gate, Log: s.errs.line})
	return err
}

// end asks serve to end; it does not block.
func (s *service) end() {
	select {
	case s.ended <- struct{}{}:
	default: // asked already
	}
}

// announce says where the service is, and what it lacks.
func (s *service) announce(key *secret.Key, missing []string) {
	for _, l := range s.listeners {
		s.errs.print(fmt.Sprintf("listening on %s", l.Addr()))
	}
	if s.opts.users.Empty() {
		s.errs.line("every user of this host may call; --allow-user limits that")
	}
	kind, why := key.Memory()
	s.errs.line(fmt.Sprintf("protections: secret-memory=%s %s %s", kind, hardened(missing), s.jail))
	if s.opts.noJail {
		s.errs.line("warning: the jail is off: whoever takes this process over can do what its user can")
	}
	if kind != secret.MemfdSecret {
		s.errs.line(fmt.Sprintf("warning: the key lies in %s memory, which root can read (%v); --secret-memory=require refuses that", kind, why))
	}
	for _, m := range missing {
		s.errs.line("warning: this system does not offer the protection " + m)
	}
	if _, ok := os.LookupEnv("OPENAI_API_KEY"); ok {
		s.errs.line("warning: OPENAI_API_KEY stands in this process's environment, where root can read it; start it with env -u OPENAI_API_KEY")
	}
}

// hardened names what package harden has done.
func hardened(missing []string) string {
	words := []string{"dumpable=no", "core=no"}
	for _, m := range missing {
		switch m {
		case "not-dumpable":
			words[0] = "dumpable=yes"
		case "no-core":
			words[1] = "core=yes"
		}
	}
	return strings.Join(words, " ")
}

// serve serves until it is told to stop, and drains.
func (s *service) serve() int {
	served := make(chan error, len(s.listeners))
	for _, l := range s.listeners {
		go func() { served <- s.engine.Serve(l) }()
	}
	if d := s.opts.limits.ExpireAfter; d > 0 {
		// What runs then may go on for as long as after any other stop.
		defer time.AfterFunc(d+s.opts.drainTimeout, s.end).Stop()
	}
	select {
	case <-s.stop:
	case <-s.ended:
	case err := <-served:
		return s.errs.fatal(fmt.Errorf("cannot go on serving: %w", err))
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.opts.drainTimeout)
	defer cancel()
	go func() {
		<-s.stop
		cancel()
	}()
	if s.engine.Drain(ctx, s.listeners...) != nil {
		s.errs.line("stopped before all requests had ended; --drain-timeout gives them longer")
	}
	return 0
}

// close gives everything back, in the reverse order.
func (s *service) close() {
	if s.gate != nil {
		s.gate.Close()
	}
	if s.book != nil {
		if err := s.book.Close(); err != nil {
			s.errs.line("the budget could not be written: " + err.Error())
		}
	}
	if s.client != nil {
		s.client.Close()
	}
	for _, l := range s.listeners {
		l.Close() // again, after a drain: that changes nothing
	}
}
