package main

import (
	"slices"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/metrics"
	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
)

// memory is what the key lies in, and what it is got in exchange for: the worse
// of the two, and why it is.
func (s *service) memory() (secret.Kind, error) {
	kind, why := s.key.Memory()
	if s.exchanger != nil && kind == secret.MemfdSecret {
		return s.exchanger.Memory()
	}
	return kind, why
}

// outsideJail are the protections that were there before the jail.
func (s *service) outsideJail() []metrics.Protection {
	kind, _ := s.memory()
	all := []metrics.Protection{{Name: "secret-memory", State: string(kind), Missing: kind != secret.MemfdSecret}}
	for _, p := range []struct{ name, without string }{{"dumpable", "not-dumpable"}, {"core", "no-core"}} {
		if slices.Contains(s.missing, p.without) {
			all = append(all, metrics.Protection{Name: p.name, State: "yes", Missing: true})
			continue
		}
		all = append(all, metrics.Protection{Name: p.name, State: "no"})
	}
	return all
}

// protectionsLine is what the start line says: the jail with its reasons.
func (s *service) protectionsLine() string {
	var words []string
	for _, p := range s.outsideJail() {
		words = append(words, p.Name+"="+p.State)
	}
	return strings.Join(append(words, s.jail.String()), " ")
}

// protections are what the metrics say: the same, without reasons.
func (s *service) protections() []metrics.Protection {
	all := s.outsideJail()
	s.jail.Each(func(name, state string, missing bool) {
		all = append(all, metrics.Protection{Name: name, State: state, Missing: missing})
	})
	return all
}
