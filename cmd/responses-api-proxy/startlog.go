package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/peer"
	"github.com/responses-api-proxy/responses-api-proxy/internal/host/sandbox"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/metrics"
)

// memoryHint returns what to do about a key outside secret memory. Only a kernel that lacks memfd_secret(2), or was
// booted without it, fails with ENOSYS. Other reasons, such as an architecture on which the program does not use the
// call, or a container's seccomp profile (EPERM), are no matter of the boot parameter.
func memoryHint(why error) string {
	const strict = "--protection strict refuses to start without it"
	if errors.Is(why, syscall.ENOSYS) {
		return "Linux 5.14 to 6.4 has secret memory when booted with secretmem.enable=1; " + strict
	}
	return strict
}

// logStartup logs the addresses of the service, its settings and callers, and the warnings.
func (s *service) logStartup() {
	for _, l := range s.listeners {
		s.errs.plain("responses-api-proxy ", fmt.Sprintf("listening on %s", l.Addr())) // the original's message
	}
	page := ""
	if s.metricsListener != nil {
		page = s.metricsListener.Addr().String()
	}
	s.errs.record(slog.LevelInfo, "started", "version", moduleVersion(), "base_url", s.baseURL, "upstream", s.upstream,
		"forward_proxy", s.client.ForwardProxy(), "callers", s.callers(), "metrics", page)
	s.logProtections()
	if s.opts.users.Empty() {
		hint := "--allow-user limits that"
		if !peer.ReportsUnix {
			hint = "this system does not report who calls"
		}
		s.errs.Warn("every user of this host may call", "hint", hint)
	}
	if s.opts.protection == off {
		s.errs.Warn("Landlock and seccomp are off: a compromised process has all of its user's privileges")
	}
	if kind, why := s.key.Memory(); why != nil {
		s.errs.Warn("the key lies in "+kind+" memory, which root can read", "reason", why, "hint", memoryHint(why))
	}
	if names := s.opts.ignored(); names != "" {
		s.errs.Warn("flags ignored, which set nothing of this proxy", "flags", names)
	}
	s.errs.warnOfMore(s.key)
	for _, text := range s.warnings {
		s.errs.warning(text)
	}
	if _, ok := os.LookupEnv("OPENAI_API_KEY"); ok {
		s.errs.Warn("OPENAI_API_KEY stands in this process's environment, where root can read it", "hint", "start it with env -u OPENAI_API_KEY")
	}
	if cmp.Or(os.Getenv("ALL_PROXY"), os.Getenv("all_proxy")) != "" && s.client.ForwardProxy() == "" {
		s.errs.Warn("ALL_PROXY is not used", "hint", "HTTPS_PROXY names a forward proxy")
	}
}

// callers names the users and groups of --allow-user.
func (s *service) callers() string {
	if s.opts.users.Empty() {
		return "all"
	}
	var names []string
	for _, uid := range s.opts.users.UIDs {
		names = append(names, cmp.Or(s.errs.names[uid], strconv.FormatUint(uint64(uid), 10)))
	}
	for _, gid := range s.opts.users.GIDs {
		names = append(names, fmt.Sprint("group ", gid))
	}
	return strings.Join(names, ", ")
}

// logProtections writes one line of what is in force, and one for each protection that is not, with what to do.
func (s *service) logProtections() {
	var all []any
	for _, p := range s.protectionMetrics() {
		all = append(all, p.Name, cmp.Or(p.State, "missing"))
	}
	s.errs.record(slog.LevelInfo, "protections", all...)
	for _, p := range s.protections {
		if p.Missing != nil {
			reason, hint, _ := strings.Cut(p.Missing.Error(), "; ")
			s.errs.record(slog.LevelWarn, "a protection is incomplete", "protection", p.Name, "state", cmp.Or(p.State, "missing"), "reason", reason, "hint", hint)
		}
	}
}

// refuses reports whether --protection makes a missing protection an error. With available, what the kernel does not
// have (errors.ErrUnsupported) is none.
func (o *options) refuses(missing error) bool {
	return missing != nil && (o.protection == strict || o.protection == available && !errors.Is(missing, errors.ErrUnsupported))
}

// accept returns an error with all protections that are missing against --protection. The key must not be read then,
// and nothing be served.
func (o *options) accept(r sandbox.Report) error {
	var missing []string
	for _, p := range r {
		if o.refuses(p.Missing) {
			missing = append(missing, fmt.Sprintf("%s=%s: %v", p.Name, cmp.Or(p.State, "missing"), p.Missing))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("--protection %s: %s, or use --protection auto to start with reduced protection", o.protection, strings.Join(missing, "; "))
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
