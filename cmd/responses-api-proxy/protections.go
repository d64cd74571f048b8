package main

import (
	"errors"
	"fmt"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key"
	"github.com/responses-api-proxy/responses-api-proxy/internal/metrics"
	"github.com/responses-api-proxy/responses-api-proxy/internal/sandbox"
)

// refuses reports whether --protection makes a missing protection an error. With available, what the kernel does not
// have (errors.ErrUnsupported) is none.
func (o *options) refuses(missing error) bool {
	return missing != nil && (o.protection == strict || o.protection == available && !errors.Is(missing, errors.ErrUnsupported))
}

// accept returns an error for a protection that is missing against --protection. The key must not be read then, and
// nothing be served.
func (o *options) accept(r sandbox.Report) error {
	for _, p := range r {
		if o.refuses(p.Missing) {
			return fmt.Errorf("--protection %s: %s=%s: %w, or use --protection auto to start with reduced protection", o.protection, p.Name, p.State, p.Missing)
		}
	}
	return nil
}

// requireSecretMemory reports whether the key must not lie elsewhere.
func (o *options) requireSecretMemory() bool {
	return o.protection == strict || o.protection == available && key.HasSecretMemory()
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
