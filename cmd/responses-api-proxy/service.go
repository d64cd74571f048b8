package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/listen"
	"github.com/responses-api-proxy/responses-api-proxy/internal/host/roots"
	"github.com/responses-api-proxy/responses-api-proxy/internal/host/sandbox"
	"github.com/responses-api-proxy/responses-api-proxy/internal/host/systemd"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/upstream"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/budget"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/dump"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/metrics"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/relay"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/server"
)

// service is everything between the key and the clients.
type service struct {
	opts    *options
	errs    *errorLog
	key     *key.Key
	keyFile *keyFile // nil if the key is not from a file
	components

	stop  chan os.Signal
	ended chan struct{} // receives when GET /shutdown or a limit ends the service

	sockets
	baseURL     string // for clients
	upstream    string // its URL, without the query
	client      *upstream.Client
	gate        *policy.Policy
	book        *budget.Ledger // nil without a budget
	engine      *server.Server
	serving     []func() error // each serves a listener until that is closed
	protections sandbox.Report // from the start, and then those of the sandbox
	warnings    []string       // for the start lines

	audit           *audit.Log
	metricsListener net.Listener
	metrics         *metrics.Metrics // nil without a listener
	dump            *dump.Dir
	notifier        *systemd.Notifier

	rejections rejections
	draining   atomic.Bool
}

func newService(opts *options, errs *errorLog, k *key.Key) *service {
	return &service{opts: opts, errs: errs, key: k, stop: make(chan os.Signal, 2), ended: make(chan struct{}, 1),
		rejections: rejections{log: errs, counts: map[int]int64{}}, sockets: sockets{address: "localhost"}}
}

// open makes everything ready to serve, in the original's order of errors: URL, sockets, files. Clients may come as
// soon as server-info is there: the sockets already take their connections.
func (s *service) open() error {
	cfg, err := s.upstreamConfig()
	if err != nil {
		return err
	}
	o := s.opts
	for _, step := range []struct {
		needed bool
		open   func() error
	}{
		{true, s.openNotifier},
		{true, func() (err error) { cfg.Roots, err = roots.From(o.caFile); return err }},
		{o.identity.enabled(), func() error { return s.exchange(cfg.Roots) }},
		{true, s.listen},
		{s.keyFile != nil, s.reloadable},
		{true, func() error { return s.openClient(cfg) }},
		{true, s.checkFileLimit},
		{o.logFile != "", s.openLog},
		{o.dumpDir != "", s.openDump},
		{o.audit != "", s.openAudit},
		{o.given["metrics"], s.openMetrics},
		{o.budget.Limit > 0, s.openBudget},
		{true, s.openGate},
		{true, s.openEngine},
		{o.serverInfo != "", s.openInfo},
	} {
		if step.needed {
			err = step.open()
		}
		if err != nil {
			return err
		}
	}
	// Everything is open that needs a file, a port or a privilege. From here on the process can only serve; the address
	// is published afterwards.
	s.needs.User, s.needs.Off = o.runAs, o.protection == off
	enforced, err := sandbox.Enforce(s.needs)
	if err == nil {
		err = s.opts.accept(enforced)
	}
	if err != nil {
		return err
	}
	s.protections = append(s.protections, enforced...)
	s.onClose(s.handleSIGHUP()) // before server-info shows other processes that it runs
	return s.start()
}

// upstreamConfig returns the configuration that follows from --upstream-url, but for the roots.
func (s *service) upstreamConfig() (upstream.Config, error) {
	target, err := upstream.ParseTarget(s.opts.upstreamURL, s.opts.upstreamTLS == off)
	if err != nil {
		return upstream.Config{}, err
	}
	users := &s.opts.upstreamUsers
	switch {
	case target.TLS && target.Insecure:
		return upstream.Config{}, errors.New("--upstream-tls off and an https --upstream-url contradict each other; leave the flag out")
	case target.TLS && !users.Empty():
		return upstream.Config{}, errors.New("--upstream-user is for a plain http --upstream-url; over https the certificate decides")
	}
	return upstream.Config{Target: target, LegacyTLS: s.opts.upstreamTLS == "1.2", Users: users.UIDs}, nil
}

func (s *service) openClient(cfg upstream.Config) (err error) {
	if s.client, err = s.key.Client(cfg); err != nil {
		return err
	}
	s.upstream = cfg.Target.Location()
	if !strings.HasSuffix(s.upstream, "/responses") && !strings.HasSuffix(s.upstream, "/messages") {
		s.warnings = append(s.warnings, fmt.Sprintf("--upstream-url ends in neither /responses nor /messages: requests go to POST %s; "+
			"that of OpenAI is %s", s.upstream, upstream.DefaultURL))
	}
	s.needs.Ports = append(s.needs.Ports, s.client.Port())
	s.onClose(s.client.Close)
	if !s.client.Unguarded() {
		return nil
	}
	return s.warn("this system does not report which user runs a plain-http upstream: any user who takes its port receives the key; use https")
}

// warn adds a warning to the start lines, or returns it as an error if --protection refuses what it warns of.
func (s *service) warn(text string) error {
	if err := fmt.Errorf("--protection %s: %s", s.opts.protection, text); s.opts.refuses(err) {
		return err
	}
	s.warnings = append(s.warnings, text)
	return nil
}

// checkFileLimit looks at what can make the audit, the log, sums and dumps stop without a full disk.
func (s *service) checkFileLimit() error {
	if limit := fileLimit(); limit >= 0 {
		return s.warn(fmt.Sprintf("files can grow to %d bytes only (RLIMIT_FSIZE), and audit, log, usage totals and dumps stop there; start it under ulimit -f unlimited", limit))
	}
	return nil
}

// openInfo opens --server-info. It is opened last, and so written last.
func (s *service) openInfo() error {
	path := s.opts.serverInfo
	if !s.tcp {
		return errors.New("--server-info tells a port, and systemd passes no TCP socket; leave it out")
	}
	info, err := listen.PrepareInfo(path)
	if err != nil {
		return err
	}
	s.needs.Remove, s.needs.Truncate = append(s.needs.Remove, directory(path)), append(s.needs.Truncate, info.FD())
	s.onStart(func() error { return info.Write(s.port, os.Getpid()) })
	s.onClose(info.Remove)
	return nil
}

// openBudget reads --budget-file, or begins without one.
func (s *service) openBudget() (err error) {
	o := s.opts
	cfg := o.budget
	cfg.Report = func(err error) { s.errs.Error("the budget cannot be kept", "reason", err) }
	cfg.Owner = o.owner
	if s.book, err = budget.Open(cfg); err != nil {
		return err
	}
	dir := directory(o.budget.File)
	if o.budget.File != "" {
		s.needs.Write = append(s.needs.Write, dir)
	}
	s.onStart(func() error {
		if err := s.book.CheckWritable(); err != nil {
			return fmt.Errorf("%w; let the proxy's user make, replace and remove files in %s (chown), or name a file in a directory of its own", err, dir)
		}
		return nil
	})
	s.onClose(func() {
		if err := s.book.Close(); err != nil {
			s.errs.Error("the budget could not be written", "reason", err)
		}
	})
	return nil
}

// openGate opens the policy that identifies and admits callers.
func (s *service) openGate() (err error) {
	o := s.opts
	cfg := policy.Config{TCP: s.tcp, Commands: o.audit != "", Owners: slices.Contains(o.routes, "retrieve"), Users: o.users, ShutdownUsers: o.shutdownUsers, Limits: o.limits, Budget: s.book, Origin: policy.NewOrigin(s.port, o.hosts), Expired: s.expire}
	cfg.Limits.MaxConnections = maxConnections(openFiles())
	if s.gate, err = policy.New(cfg); err != nil {
		return err
	}
	s.onClose(s.gate.Close)
	return nil
}

func (s *service) openEngine() (err error) {
	cfg := relay.Config{Upstream: s.client, Dump: s.dump, Routes: s.opts.routes, Path: s.client.Path(), Room: s.client.Room(), Models: s.opts.models, Address: s.address, Log: s.errs.request, OnRejected: s.rejections.add, Records: s.observes()}
	if s.opts.httpShutdown {
		cfg.Shutdown = s.end
	}
	if s.opts.identity.enabled() {
		cfg.OnRejected = func(status int) {
			s.rejections.add(status)
			if status == 401 {
				s.key.Renew()
			}
		}
	}
	relay, err := relay.New(cfg)
	if err != nil {
		return err
	}
	s.baseURL = relay.BaseURL()
	engine := server.Config{Relay: relay, Policy: s.gate, MaxConnections: maxConnections(openFiles()), Log: s.errs.warning}
	if cfg.Records {
		engine.Observe = s.record
	}
	if s.engine, err = server.New(engine); err != nil {
		return err
	}
	for _, l := range s.listeners {
		s.serving = append(s.serving, func() error { return s.engine.Serve(l) })
	}
	s.onClose(s.engine.Close)
	return nil
}

// maxConnections returns how many clients may be connected, so that descriptors never run out, of which there may be
// files, or any number if that is 0: a client may need one for itself and one for its connection to the upstream, where
// 256 more may idle; 64 are for everything else. A quarter is for clients at least. Where there are plenty, memory is
// the limit.
func maxConnections(files int) int {
	const most = 65536
	if files == 0 {
		return most
	}
	return min(most, max(files/4, (files-256-64)/2))
}

// expire ends the service by a limit.
func (s *service) expire() {
	s.errs.Info("the limit of --max-requests or --expire-after is reached")
	s.end()
}

// end makes serve return; it does not block.
func (s *service) end() {
	select {
	case s.ended <- struct{}{}:
	default: // ending already
	}
}

// timeToDrain returns how long the requests that run may go on after a stop. Those that run when --expire-after is over
// have as much time from then on, and the stop comes at its end.
func (s *service) timeToDrain() time.Duration {
	all := s.opts.drainTimeout
	if at := s.gate.Expires(); !at.IsZero() {
		return min(all, time.Until(at)+all)
	}
	return all
}

// serve serves until a signal, GET /shutdown or a limit ends the service, drains, and returns the exit code.
func (s *service) serve() int {
	served := make(chan error, len(s.serving))
	for _, serve := range s.serving {
		go func() { served <- serve() }()
	}
	s.notifyReady()
	if d := s.opts.limits.ExpireAfter; d > 0 {
		defer time.AfterFunc(d+s.opts.drainTimeout, s.end).Stop()
	}
	select {
	case <-s.stop:
	case <-s.ended:
	case err := <-served:
		s.errs.Error("cannot go on serving", "reason", err)
		return 1
	}
	s.draining.Store(true)
	plural := "s"
	n := int(s.engine.Running.Load())
	if n == 1 {
		plural = ""
	}
	s.errs.Info(fmt.Sprintf("stopping, %d request%s running", n, plural))
	s.notifier.Notify(systemd.Stopping, "waiting for running requests")
	ctx, cancel := context.WithTimeout(context.Background(), s.timeToDrain())
	defer cancel()
	go func() {
		<-s.stop
		cancel()
	}()
	if s.engine.Drain(ctx, s.listeners...) != nil {
		s.errs.Warn("requests were cut", "hint", "--drain-timeout gives them longer to end")
	}
	s.close() // what it logs comes before the last line
	s.errs.Info("stopped")
	return 0
}
