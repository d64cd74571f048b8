package main

import (
	"path/filepath"
	"runtime"
	"runtime/debug"

	"github.com/responses-api-proxy/responses-api-proxy/internal/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/metrics"
	"github.com/responses-api-proxy/responses-api-proxy/internal/proxy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
)

// observers are told of each exchange, one after the other.
type observers []audit.Observer

func (all observers) Begin() {
	for _, o := range all {
		o.Begin()
	}
}

func (all observers) End(e *audit.Entry) {
	for _, o := range all {
		o.End(e)
	}
}

// auditor writes records down.
type auditor struct{ *audit.Log }

func (auditor) Begin()               {}
func (a auditor) End(e *audit.Entry) { a.Write(e) }

// openAudit opens --audit.
func (s *service) openAudit() (err error) {
	if s.opts.audit == "" {
		return nil
	}
	if s.audit, err = audit.Open(audit.Config{Path: s.opts.audit, Owner: s.opts.owner(), Report: s.errs.report}); err != nil {
		return err
	}
	s.closers.add(s.audit.Close)
	return nil
}

// openMetrics opens --metrics, or takes the socket that systemd has for it.
func (s *service) openMetrics() (err error) {
	if s.opts.metrics == "" || s.metricsListener != nil {
		return nil
	}
	if s.metricsListener, err = metrics.Listen(s.opts.metrics); err != nil {
		return err
	}
	s.closers.add(func() { s.metricsListener.Close() })
	return nil
}

// observe has exchanges counted and written down. It is called once the sandbox is
// in force: what it has put in force is counted too.
func (s *service) observe() {
	var all observers
	if s.metricsListener != nil {
		s.metrics = metrics.New(s.metricsConfig())
		all = append(all, s.metrics)
	}
	if s.audit != nil {
		all = append(all, auditor{s.audit})
	}
	if len(all) > 0 {
		s.engine.Observe(all)
	}
}

func (s *service) metricsConfig() metrics.Config {
	cfg := metrics.Config{GoVersion: runtime.Version(), Codes: []string{string(proxy.ClientLeft)}}
	if info, ok := debug.ReadBuildInfo(); ok {
		cfg.Version = info.Main.Version
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				cfg.Revision = setting.Value
			}
		}
	}
	proxy.Codes(func(code proxy.Code, _ int) { cfg.Codes = append(cfg.Codes, string(code)) })
	cfg.Routes, cfg.Values, cfg.Protections = proxy.Routes(), s.metricsValues(), s.protections()
	return cfg
}

// metricsValues are what others count.
func (s *service) metricsValues() []metrics.Value {
	counter := func(name, help string, read func() int64) metrics.Value {
		return metrics.Value{Name: name, Help: help, Counter: true, Read: func() float64 { return float64(read()) }}
	}
	dials := func(result string, read func(upstream.Stats) int64) metrics.Value {
		v := counter(metrics.UpstreamDials, "Connections to the upstream that were begun, by what came of them.", func() int64 { return read(s.client.Stats()) })
		v.Label, v.LabelValue = "result", result
		return v
	}
	values := []metrics.Value{
		{Name: metrics.Connections, Help: "Connections of clients that are open.", Read: func() float64 { return float64(s.engine.Connections()) }},
		counter(metrics.AcceptFailures, "Connections of clients that could not be accepted.", s.engine.AcceptFailures),
		counter(metrics.Resets, "Connections of clients that were reset because too many are open, of one user or of all.", s.engine.Resets),
		counter(metrics.LookupFailures, "Connections that were refused because the kernel did not say whose they are.", s.gate.Unknown),
		dials("connected", func(u upstream.Stats) int64 { return u.Connected }),
		dials("unreachable", func(u upstream.Stats) int64 { return u.Unreachable }),
		dials("tls_failed", func(u upstream.Stats) int64 { return u.TLSFailed }),
		dials("timeout", func(u upstream.Stats) int64 { return u.Timeouts }),
		dials("given_up", func(u upstream.Stats) int64 { return u.GivenUp }),
	}
	values = append(values,
		counter(metrics.LogLost, "Lines of the error log that were lost.", s.errs.Lost),
		counter(metrics.LogFailures, "Attempts to write to the error log that failed; one a second while lines wait.", s.errs.Failures))
	if s.audit != nil {
		values = append(values,
			counter(metrics.AuditLost, "Lines that could not be written to --audit.", s.audit.Lost),
			counter(metrics.AuditFailures, "Attempts to write to --audit that failed; one a second while lines wait.", s.audit.Failures))
	}
	return values
}

// appendFolders are where files are opened again.
func (s *service) appendFolders() (dirs []string) {
	for _, path := range []string{s.opts.audit, s.opts.logFile} {
		if path != "" && path != "-" {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	return dirs
}
