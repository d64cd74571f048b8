package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/harden"
	"github.com/responses-api-proxy/responses-api-proxy/internal/metrics"
	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
)

// startWindow is the protection against processes of the same user that attach
// before package harden prevents it.
const startWindow = "start-window"

// memory is what the key lies in, and what it is got in exchange for: the worse
// of the two, and why it is.
func (s *service) memory() (secret.Kind, error) {
	kind, why := s.key.Memory()
	if s.exchanger != nil && kind == secret.MemfdSecret {
		return s.exchanger.Memory()
	}
	return kind, why
}

// accept returns an error if --strict is given and the process could not be
// protected as a whole. The key must not be read then.
func (o *options) accept(r harden.Report) error {
	switch {
	case !o.strict:
		return nil
	case len(r.Missing) > 0:
		return fmt.Errorf("--strict: this system does not offer %s; omit it to start with reduced protection", strings.Join(r.Missing, ", "))
	case r.Window != nil:
		return fmt.Errorf("--strict: %s=open: %w, or omit --strict to start with reduced protection", startWindow, r.Window)
	}
	return nil
}

// outsideSandbox are the protections that were there before the sandbox.
func (s *service) outsideSandbox() []metrics.Protection {
	kind, _ := s.memory()
	all := []metrics.Protection{{Name: "secret-memory", State: string(kind), Missing: kind != secret.MemfdSecret}}
	for _, p := range []struct{ name, without string }{{"dumpable", "not-dumpable"}, {"core", "no-core"}} {
		if slices.Contains(s.hardened.Missing, p.without) {
			all = append(all, metrics.Protection{Name: p.name, State: "yes", Missing: true})
			continue
		}
		all = append(all, metrics.Protection{Name: p.name, State: "no"})
	}
	window := metrics.Protection{Name: startWindow, State: "closed"}
	if s.hardened.Window != nil {
		window.State, window.Missing = "open", true
	}
	return append(all, window)
}

// protectionsLine is what the start line says: the sandbox with its reasons.
func (s *service) protectionsLine() string {
	var words []string
	for _, p := range s.outsideSandbox() {
		word := p.Name + "=" + p.State
		if p.Name == startWindow && p.Missing {
			word += "(" + s.hardened.Window.Error() + ")"
		}
		words = append(words, word)
	}
	return strings.Join(append(words, s.sandbox.String()), " ")
}

// protections are what the metrics say: the same, without reasons.
func (s *service) protections() []metrics.Protection {
	all := s.outsideSandbox()
	s.sandbox.Each(func(name, state string, missing bool) {
		all = append(all, metrics.Protection{Name: name, State: state, Missing: missing})
	})
	return all
}
