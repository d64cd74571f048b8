package main

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/metrics"
	"github.com/responses-api-proxy/responses-api-proxy/internal/relay"
	"github.com/responses-api-proxy/responses-api-proxy/internal/sandbox"
	"github.com/responses-api-proxy/responses-api-proxy/internal/server"
)

// observers passes each exchange to functions, one after the other.
type observers struct {
	begin []func()
	end   []func(*audit.Entry)
}

func (all *observers) Begin() {
	for _, begin := range all.begin {
		begin()
	}
}

func (all *observers) End(e *audit.Entry) {
	for _, end := range all.end {
		end(e)
	}
}

// exchange logs a request that the proxy has not refused itself: those have a line already.
func (l *errorLog) exchange(e *audit.Entry) {
	if e.Code != "" && !e.Upstream {
		return
	}
	var all attrs
	all.addUser(l, &e.Caller)
	all.add("route", e.Route)
	all = append(all, slog.Int("status", e.Status), slog.Duration("duration", e.Duration.Round(time.Millisecond)))
	all.add("model", shorten([]byte(e.Model), maxAgent))
	if e.Tokens {
		all = append(all, slog.Int64("input_tokens", e.InputTokens), slog.Int64("output_tokens", e.OutputTokens))
	}
	all.add("code", e.Code)
	l.LogAttrs(context.Background(), slog.LevelInfo, "request", all...)
}

// openAudit opens --audit.
func (s *service) openAudit() (err error) {
	if s.audit, err = audit.Open(s.opts.audit, s.opts.owner, s.errs.report); err != nil {
		return err
	}
	if s.opts.audit != "-" {
		s.components.add(component{needs: appends(s.opts.audit), hangup: s.audit.Reopen})
		s.checkRotation("--audit", s.opts.audit)
	}
	s.components.add(component{needs: s.callersNames, close: s.audit.Close})
	return nil
}

// callersNames is the need to read the commands of clients that come over a unix socket. Of other processes' files in
// /proc, Landlock lets it see none.
func (s *service) callersNames(p *sandbox.Policy) {
	if s.unix {
		p.Read = append(p.Read, "/proc")
	}
}

// openMetrics opens --metrics.
func (s *service) openMetrics() (err error) {
	if s.metricsListener, err = metrics.Listen(s.opts.metrics); err != nil {
		return err
	}
	c := component{close: func() { s.metricsListener.Close() }}
	if path, ok := strings.CutPrefix(s.opts.metrics, "unix:"); ok {
		c.needs = removes(path)
	}
	s.components.add(c)
	return nil
}

// observe sets the engine's observers. It is called once the sandbox is in force,
// as the metrics show its protections too.
func (s *service) observe() error {
	var all observers
	if s.metricsListener != nil {
		m := metrics.New(s.metricsConfig())
		pages := []server.Page{
			{Path: "/", ContentType: "text/html; charset=utf-8", Body: m.StatusPage},
			{Path: "/status.json", ContentType: "application/json", Body: m.StatusJSON},
			{Path: "/metrics", ContentType: metrics.ContentType, Body: m.Text},
			{Path: "/healthz", Check: s.healthy},
			{Path: "/readyz", Check: s.ready},
		}
		s.serving = append(s.serving, func() error { return server.ServePages(s.metricsListener, s.errs.warning, pages...) })
		all.begin, all.end = append(all.begin, m.Begin), append(all.end, m.End)
	}
	if s.audit != nil {
		all.end = append(all.end, s.audit.Write)
	}
	if s.opts.logRequests {
		all.end = append(all.end, s.errs.exchange)
	}
	if len(all.end) > 0 {
		s.engine.Observe(&all)
	}
	return nil
}

func (s *service) metricsConfig() metrics.Config {
	cfg := metrics.Config{GoVersion: runtime.Version(), Codes: []string{string(apierror.ClientLeft)}}
	if info, ok := debug.ReadBuildInfo(); ok {
		cfg.Version = info.Main.Version
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				cfg.Revision = setting.Value
			}
		}
	}
	apierror.Codes(func(code apierror.Code, _ int) { cfg.Codes = append(cfg.Codes, string(code)) })
	cfg.Routes, cfg.Counts, cfg.Protections = relay.Routes(), s.counts(), s.protectionMetrics()
	cfg.State, cfg.Limits = s.state, s.limits
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

// state returns what the service does.
func (s *service) state() string {
	if err := s.ready(); err != nil {
		return err.Error()
	}
	return "serving"
}

// limits returns how much of the limits has been used.
func (s *service) limits() metrics.Limits {
	l := metrics.Limits{Admitted: s.gate.Admitted(), MaxRequests: s.opts.limits.MaxRequests, Expires: s.gate.Expires(), MaxTokens: s.opts.maxTokens}
	if s.book != nil {
		l.Since, l.Resets = s.book.Period()
		l.Spent = s.book.Spent()
	}
	return l
}

// counts are the numbers that other packages count.
func (s *service) counts() metrics.Counts {
	c := metrics.Counts{
		Connections:    func() int64 { return int64(s.engine.Connections()) },
		AcceptFailures: s.engine.AcceptFailures.Load,
		Resets:         s.engine.Resets.Load,
		LookupFailures: s.gate.Unknown.Load,
		Dials:          func() metrics.Dials { return metrics.Dials(s.client.Stats()) },
		LogLost:        s.errs.Lost,
		LogFailures:    s.errs.Failures,
	}
	if s.audit != nil {
		c.AuditLost, c.AuditFailures = s.audit.Lost, s.audit.Failures
	}
	return c
}
