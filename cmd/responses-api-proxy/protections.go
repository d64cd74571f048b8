package main

import (
	"fmt"

	"github.com/responses-api-proxy/responses-api-proxy/internal/metrics"
	"github.com/responses-api-proxy/responses-api-proxy/internal/sandbox"
)

// accept returns an error with --protection strict if the process could not be protected as a whole from its start. The
// key must not be read then.
func (o *options) accept(r sandbox.Report) error {
	for _, p := range r {
		if o.protection == strict && p.Missing != nil {
			return fmt.Errorf("--protection strict: %s=%s: %w, or use --protection auto to start with reduced protection", p.Name, p.State, p.Missing)
		}
	}
	return nil
}

// protectionMetrics returns what is in force, without the reasons for what is not.
func (s *service) protectionMetrics() []metrics.Protection {
	kind, why := s.key.Memory()
	all := []metrics.Protection{{Name: "secret-memory", State: kind, Missing: why != nil}}
	for _, p := range s.protections {
		all = append(all, metrics.Protection{Name: p.Name, State: p.State, Missing: p.Missing != nil})
	}
	return all
}
