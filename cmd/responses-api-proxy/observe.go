package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/listen"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/dump"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/metrics"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/relay"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/server"
)

// exchange logs a request that the proxy has not refused itself: those have a line already.
func (l *errorLog) exchange(e *audit.Entry) {
	if e.Code != "" && !e.Upstream {
		return
	}
	uid, name := l.user(&e.Caller)
	var input, output any
	if e.Tokens {
		input, output = e.InputTokens, e.OutputTokens
	}
	l.record(slog.LevelInfo, "request", "uid", uid, "user", name, "route", e.Route, "status", e.Status,
		"duration", e.Duration.Round(time.Millisecond), "model", shorten([]byte(e.Model), maxAgent),
		"input_tokens", input, "output_tokens", output, "code", e.Code)
}

func (s *service) openAudit() (err error) {
	if s.audit, err = audit.Open(s.opts.audit, s.opts.owner, s.errs.report); err != nil {
		return err
	}
	if s.opts.audit != "-" {
		s.reopened("--audit", s.opts.audit, s.audit.Reopen)
	}
	if s.unix { // for the commands of clients; of other processes' files in /proc, Landlock lets it see none
		s.needs.Read = append(s.needs.Read, "/proc")
	}
	s.onClose(s.audit.Close)
	return nil
}

func (s *service) openDump() (err error) {
	s.dump, err = dump.Open(s.opts.dumpDir, s.opts.owner, s.errs.report)
	if err != nil {
		return err
	}
	s.needs.Write = append(s.needs.Write, s.opts.dumpDir)
	s.onClose(s.dump.Close)
	return nil
}

// openMetrics opens --metrics: over TCP for every user of this host, over a unix socket for this process's user and
// group. The numbers show how much the key is used.
func (s *service) openMetrics() (err error) {
	group := os.Getegid()
	if u := s.opts.runAs; u != nil {
		group = u.GID
	}
	if s.metricsListener, err = s.listenOn(s.opts.metrics, listen.UnixConfig{Groups: []uint32{uint32(group)}}); err != nil {
		return fmt.Errorf("--metrics: %w", err)
	}
	s.onStart(s.serveMetrics)
	return nil
}

// serveMetrics is called once the sandbox is in force, as the pages show its protections too.
func (s *service) serveMetrics() error {
	s.metrics = metrics.New(s.metricsConfig())
	pages := []server.Page{
		{Path: "/", ContentType: "text/html; charset=utf-8", Body: s.metrics.StatusPage},
		{Path: "/status.json", ContentType: "application/json", Body: s.metrics.StatusJSON},
		{Path: "/metrics", ContentType: metrics.ContentType, Body: s.metrics.Text},
		{Path: "/healthz", Check: s.healthy},
		{Path: "/readyz", Check: s.ready},
	}
	s.serving = append(s.serving, func() error { return server.ServePages(s.metricsListener, s.errs.warning, pages...) })
	return nil
}

// observes reports whether something observes exchanges.
func (s *service) observes() bool {
	return s.audit != nil || s.metricsListener != nil || s.opts.logRequests
}

// record records an exchange that has ended.
func (s *service) record(e *audit.Entry) {
	if s.metrics != nil {
		s.metrics.End(e)
	}
	if s.audit != nil {
		s.audit.Write(e)
	}
	if s.opts.logRequests {
		s.errs.exchange(e)
	}
}

func (s *service) metricsConfig() metrics.Config {
	cfg := metrics.Config{
		Version: moduleVersion(), GoVersion: runtime.Version(), Protections: s.protectionMetrics(), Routes: relay.Routes(),
		Codes: []string{string(apierror.ClientLeft)}, Counts: s.counts, Ready: s.ready, Limits: s.limits,
	}
	apierror.Codes(func(code apierror.Code, _ int) { cfg.Codes = append(cfg.Codes, string(code)) })
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				cfg.Revision = setting.Value
			}
		}
	}
	return cfg
}

// healthy returns why the service is ending; nil if it is not.
func (s *service) healthy() error {
	if s.draining.Load() {
		return errors.New("stopping")
	}
	return nil
}

// ready returns why a new request would not be taken; nil if it would.
func (s *service) ready() error {
	if !s.gate.Open() {
		return errors.New("no more requests: a limit has been reached")
	}
	return s.healthy()
}

// limits returns how much of the limits has been used.
func (s *service) limits() metrics.Limits {
	l := metrics.Limits{Admitted: s.gate.Admitted.Load(), MaxRequests: s.opts.limits.MaxRequests, Expires: s.gate.Expires(), MaxTokens: s.opts.budget.Limit}
	if s.book != nil {
		l.Since, l.Resets = s.book.Period()
		l.Spent = s.book.Spent()
	}
	return l
}

// counts are the numbers that other packages count.
func (s *service) counts() metrics.Counts {
	c := metrics.Counts{
		Connections:    int64(s.engine.Connections()),
		Running:        s.engine.Running.Load(),
		AcceptFailures: s.engine.AcceptFailures.Load(),
		Resets:         s.engine.Resets.Load(),
		LookupFailures: s.gate.Unknown.Load(),
		Dials:          metrics.Dials(s.client.Stats()),
		Log:            metrics.Lines{Lost: s.errs.Lost.Load(), Failures: s.errs.Failures.Load()},
	}
	if s.audit != nil {
		c.Audit = &metrics.Lines{Lost: s.audit.Lost.Load(), Failures: s.audit.Failures.Load()}
	}
	return c
}
