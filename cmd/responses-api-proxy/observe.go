package main

import (
	"path/filepath"
	"runtime"
	"runtime/debug"

	"github.com/responses-api-proxy/responses-api-proxy/internal/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/metrics"
	"github.com/responses-api-proxy/responses-api-proxy/internal/relay"
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
	cfg := metrics.Config{GoVersion: runtime.Version(), Codes: []string{string(relay.ClientLeft)}}
	if info, ok := debug.ReadBuildInfo(); ok {
		cfg.Version = info.Main.Version
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				cfg.Revision = setting.Value
			}
		}
	}
	relay.Codes(func(code relay.Code, _ int) { cfg.Codes = append(cfg.Codes, string(code)) })
	cfg.Routes, cfg.Counts, cfg.Protections = relay.Routes(), s.counts(), s.protectionMetrics()
	return cfg
}

// counts are the numbers that other packages count.
func (s *service) counts() metrics.Counts {
	c := metrics.Counts{
		Connections:    func() int64 { return int64(s.engine.Connections()) },
		AcceptFailures: s.engine.AcceptFailures,
		Resets:         s.engine.Resets,
		LookupFailures: s.gate.Unknown,
		Dials:          func() metrics.Dials { return metrics.Dials(s.client.Stats()) },
		LogLost:        s.errs.Lost,
		LogFailures:    s.errs.Failures,
	}
	if s.audit != nil {
		c.AuditLost, c.AuditFailures = s.audit.Lost, s.audit.Failures
	}
	return c
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
