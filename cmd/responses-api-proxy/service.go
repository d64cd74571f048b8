package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/budget"
	"github.com/responses-api-proxy/responses-api-proxy/internal/dump"
	"github.com/responses-api-proxy/responses-api-proxy/internal/linelog"
	"github.com/responses-api-proxy/responses-api-proxy/internal/listen"
	"github.com/responses-api-proxy/responses-api-proxy/internal/metrics"
	"github.com/responses-api-proxy/responses-api-proxy/internal/oidc"
	"github.com/responses-api-proxy/responses-api-proxy/internal/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/relay"
	"github.com/responses-api-proxy/responses-api-proxy/internal/sandbox"
	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/server"
	"github.com/responses-api-proxy/responses-api-proxy/internal/systemd"
	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
)

// service is everything between the key and the clients.
type service struct {
	opts    *options
	errs    *errorLog
	closers closers
	key     *secret.Key
	source  *secret.Key // what the key is got in exchange for; nil if it is given

	stop  chan os.Signal
	ended chan struct{} // asked to end by GET /shutdown or by a limit

	listeners   []net.Listener
	tcp, unix   bool  // what is among them
	port        int   // of the TCP listener, if there is one
	fileLimit   int64 // how many bytes a file can have; -1 if it is not limited
	client      *upstream.Client
	gate        *policy.Policy
	book        *budget.Book
	engine      *server.Server
	protections sandbox.Report // from the start, and then those of the sandbox
	info        *listen.Info

	audit           *audit.Log
	metrics         *metrics.Metrics
	metricsListener net.Listener
	logFile         *linelog.Target // until the log has it
	exchanger       *oidc.Exchanger
	dump            *dump.Dir
	notifier        *systemd.Notifier

	draining atomic.Bool
	rotating atomic.Int32 // how many keys SIGHUPs have asked for that are not there yet
}

// open makes everything ready to serve, in the original's order of errors: URL,
// sockets, files. Clients may come as soon as server-info is there: the sockets
// already take their connections.
func (s *service) open() error {
	target, err := upstream.ParseTarget(s.opts.upstreamURL, s.opts.insecureUpstream)
	if err != nil {
		return err
	}
	if target.TLS && !s.opts.upstreamUsers.Empty() {
		return errors.New("--upstream-user is for a plain http --upstream-url; over https the certificate decides")
	}
	if s.notifier, err = systemd.NewNotifier(); err != nil {
		return err
	}
	s.closers.add(func() { s.notifier.Close() })
	roots, err := upstream.RootsFrom(s.opts.caFile)
	if err != nil {
		return err
	}
	if err := s.exchange(roots); err != nil {
		return err
	}
	if err := s.listen(); err != nil {
		return err
	}
	if err := checkKeyFD(s.opts.keyFD); err != nil {
		return err
	}
	s.client, err = upstream.New(upstream.Config{Target: target, Key: s.key, Roots: roots, LegacyTLS: s.opts.legacyTLS, Users: s.opts.upstreamUsers.UIDs()})
	if err != nil {
		return err
	}
	s.closers.add(s.client.Close)
	if s.client.Unguarded() && s.opts.strict {
		return errors.New("--strict: " + unguarded)
	}
	for _, step := range []func() error{s.checkFileLimit, s.openLog, s.openDump, s.openAudit, s.openMetrics, s.openGate, s.openEngine, s.openInfo} {
		if err := step(); err != nil {
			return err
		}
	}
	// Everything is open that needs a file, a port or a privilege. From here on
	// the process can only serve; then clients may know of it.
	if err := s.enforceSandbox(); err != nil {
		return err
	}
	s.observe()
	if s.info == nil {
		return nil
	}
	return s.info.Write(s.port, os.Getpid())
}

// checkFileLimit looks at what can make the audit, the log, sums and dumps stop
// without a full disk.
func (s *service) checkFileLimit() error {
	s.fileLimit = fileLimit()
	if s.opts.strict && s.fileLimit >= 0 {
		return fmt.Errorf("--strict: files can grow to %d bytes only (RLIMIT_FSIZE); start it under ulimit -f unlimited", s.fileLimit)
	}
	return nil
}

func (s *service) openInfo() (err error) {
	if s.opts.serverInfo == "" {
		return nil
	}
	if !s.tcp {
		return errors.New("--server-info tells a port, and systemd passes no TCP socket; leave it out")
	}
	s.info, err = listen.PrepareInfo(s.opts.serverInfo)
	s.closers.add(s.info.Remove)
	return err
}

// enforceSandbox puts the sandbox in force.
func (s *service) enforceSandbox() (err error) {
	o := s.opts
	cfg := sandbox.Policy{User: o.runAs, Ports: []uint16{s.client.Port()}, Off: o.noSandbox, Strict: o.strict, Append: s.appendFolders()}
	if o.budgetFile != "" {
		cfg.Write = []string{filepath.Dir(o.budgetFile)}
	}
	metricsSocket, _ := strings.CutPrefix(o.metrics, "unix:")
	if metricsSocket == o.metrics {
		metricsSocket = ""
	}
	for _, path := range []string{o.socket, o.serverInfo, metricsSocket} {
		if path != "" {
			cfg.Remove = append(cfg.Remove, filepath.Dir(path))
		}
	}
	if s.exchanger != nil {
		cfg.Ports, cfg.Read = append(cfg.Ports, s.exchanger.Ports()...), s.exchanger.Folders()
	}
	if o.dumpDir != "" {
		cfg.Write = append(cfg.Write, o.dumpDir)
	}
	if fd := s.info.FD(); fd >= 0 {
		cfg.Truncate = []int{fd}
	}
	if o.keyFD > 0 {
		cfg.SetFlags = []int{o.keyFD} // package main's rewind
	}
	if o.audit != "" && s.unix {
		cfg.Read = append(cfg.Read, "/proc") // the names of callers; of other processes' files there Landlock lets it see none
	}
	enforced, err := sandbox.Enforce(cfg)
	if err != nil {
		return err
	}
	s.protections = append(s.protections, enforced...)
	return cmp.Or(s.checkBudget(), o.identity.readable())
}

// checkBudget makes sure, from within the sandbox and as --user's user, that the
// budget can be kept.
func (s *service) checkBudget() error {
	if s.book == nil {
		return nil
	}
	err := s.book.CheckWritable()
	if err == nil {
		return nil
	}
	dir := filepath.Dir(s.opts.budgetFile)
	if s.opts.runAs == nil {
		return fmt.Errorf("%w; let the proxy's user make, replace and remove files in %s", err, dir)
	}
	return fmt.Errorf("%w; let --user %[2]s make, replace and remove files in %[3]s (chown %[2]s %[3]s), or name a file in a directory of its own", err, s.opts.runAs.Name, dir)
}

// openGate reads the budget and prepares to ask the kernel who calls.
func (s *service) openGate() (err error) {
	o := s.opts
	cfg := policy.Config{TCP: s.tcp, Identify: o.audit != "" || o.dumpDir != "", Owners: slices.Contains(o.routes, "retrieve"), Users: o.users, ShutdownUsers: o.shutdownUsers, Limits: o.limits, Origin: policy.NewOrigin(s.port, o.hosts), Expired: s.expire}
	if o.maxTokens > 0 {
		report := func(err error) { s.errs.line("the budget cannot be kept: " + err.Error()) }
		s.book, err = budget.Open(budget.Config{Limit: o.maxTokens, File: o.budgetFile, Also: o.alsoOwners(), Report: report})
		if err != nil {
			return err
		}
		s.closers.add(s.closeBook)
		cfg.Budget = s.book
	}
	if s.gate, err = policy.New(cfg); err != nil {
		return err
	}
	s.closers.add(s.gate.Close)
	return nil
}

func (s *service) closeBook() {
	if err := s.book.Close(); err != nil {
		s.errs.line("the budget could not be written: " + err.Error())
	}
}

func (s *service) openEngine() (err error) {
	open, err := relay.NewRouteSet(s.opts.routes, s.client.Path(), s.client.Room())
	if err != nil {
		return err
	}
	cfg := relay.Config{Upstream: s.upstream(), Dump: s.dump, Open: open, Log: s.errs.request, ReadUsage: s.audit != nil || s.metricsListener != nil}
	if s.opts.httpShutdown {
		cfg.Shutdown = s.end
	}
	if s.engine, err = server.New(server.Config{Proxy: relay.New(cfg), Gate: s.gate, MaxConnections: s.maxConnections(), Log: s.errs.line}); err != nil {
		return err
	}
	s.closers.add(s.engine.Close)
	return nil
}

// maxConnections is how many clients may be connected, so that descriptors never
// run out: a client may need one for itself and one for its connection to the
// upstream, where 256 more may idle; 64 are for everything else, and dumps keep
// up to 512 files open. A quarter is for clients at least.
func (s *service) maxConnections() int {
	n := openFiles()
	others := 256 + 64
	if s.dump != nil {
		others += 512
	}
	return max(n/4, (n-others)/2)
}

// expire ends the service by a limit.
func (s *service) expire() {
	s.errs.line("--max-requests or --expire-after is over; ending")
	s.end()
}

// end asks serve to end; it does not block.
func (s *service) end() {
	select {
	case s.ended <- struct{}{}:
	default: // asked already
	}
}

// unguarded is what a system lacks that does not report the users of sockets.
const unguarded = "this system does not report which user runs a plain-http upstream: any user who takes its port receives the key; use https"

// announce says where the service is, and what it lacks.
func (s *service) announce() {
	for _, l := range s.listeners {
		s.errs.print(fmt.Sprintf("listening on %s", l.Addr()))
	}
	if s.metricsListener != nil {
		s.errs.line("metrics on " + s.metricsListener.Addr().String())
	}
	if s.opts.users.Empty() {
		s.errs.line("every user of this host may call; --allow-user limits that")
	}
	s.errs.line(s.protectionsLine())
	if s.opts.noSandbox {
		s.errs.line("warning: the jail is off: whoever takes this process over can do what its user can")
	}
	if kind, why := s.memory(); kind != secret.MemfdSecret {
		s.errs.line(fmt.Sprintf("warning: the key lies in %s memory, which root can read (%v); --secret-memory=require refuses that", kind, why))
	}
	if s.client.Unguarded() {
		s.errs.line("warning: " + unguarded)
	}
	if s.fileLimit >= 0 {
		s.errs.line(fmt.Sprintf("warning: files can grow to %d bytes only (RLIMIT_FSIZE), and audit, log, sums and dumps stop there; start it under ulimit -f unlimited", s.fileLimit))
	}
	if _, ok := os.LookupEnv("OPENAI_API_KEY"); ok {
		s.errs.line("warning: OPENAI_API_KEY stands in this process's environment, where root can read it; start it with env -u OPENAI_API_KEY")
	}
}

// serve serves until it is told to stop, and drains.
func (s *service) serve() int {
	served := make(chan error, len(s.listeners)+1)
	for _, l := range s.listeners {
		go func() { served <- s.engine.Serve(l) }()
	}
	if s.metrics != nil {
		go func() { served <- metrics.Serve(s.metricsListener, s.metrics.Handler(s.probes())) }()
	}
	defer s.tellSystemd()()
	if d := s.opts.limits.ExpireAfter; d > 0 {
		// What runs then may go on for as long as after any other stop.
		defer time.AfterFunc(d+s.opts.drainTimeout, s.end).Stop()
	}
	select {
	case <-s.stop:
	case <-s.ended:
	case err := <-served:
		return s.errs.fatal(fmt.Errorf("cannot go on serving: %w", err))
	}
	s.draining.Store(true)
	s.notifier.Stopping("waiting for running requests")
	ctx, cancel := context.WithTimeout(context.Background(), s.opts.drainTimeout)
	defer cancel()
	go func() {
		<-s.stop
		cancel()
	}()
	if s.engine.Drain(ctx, s.listeners...) != nil {
		s.errs.line("stopped before all requests had ended; --drain-timeout gives them longer")
	}
	return 0
}

// close gives everything back, in the reverse order.
func (s *service) close() { s.closers.close() }
