package main

import (
	"cmp"
	"errors"
	"flag"
	"io"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/dump"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key"
	"github.com/responses-api-proxy/responses-api-proxy/internal/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/relay"
	"github.com/responses-api-proxy/responses-api-proxy/internal/sandbox"
	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
)

// usage is printed by --help. docs and tests are checked against it.
const usage = `Usage: responses-api-proxy [flags] < KEY
       responses-api-proxy verify --help
       responses-api-proxy health [--ready] ADDR

Reads an OpenAI API key from standard input and forwards POST /v1/responses on
127.0.0.1 to the upstream with the key added. Its clients never see the key.

Flags:
  --port N                   port of 127.0.0.1 to listen on (default: a free
                             one; none if --socket is given without --port)
  --socket PATH              listen on a unix stream socket, too or instead
  --server-info FILE         write {"port":N,"pid":N} to FILE once listening
  --http-shutdown            let GET /shutdown stop the proxy
  --allow-route compact|input-tokens|models|retrieve|websocket|messages
                             open a route besides; messages takes the place of
                             all others; may be repeated
  --upstream-url URL         where requests go, with path and query
                             (default: https://api.openai.com/v1/responses)
  --insecure-upstream        allow plain http to an upstream on another host:
                             the key crosses the network in clear
  --upstream-user WHO        a user by name or number, or self, who may be the
                             upstream on this host over plain http, besides root
                             and the user who starts the proxy; may be repeated
  --upstream-tls 1.3|1.2     TLS version towards the upstream (default: 1.3)
  --ca-file FILE             trust the certificate authorities in FILE, in PEM,
                             and no others
  --auth-header bearer|api-key|x-api-key
                             the header field in which the key goes out
                             (default: bearer, which is Authorization: Bearer)
  --key-fd N                 on SIGHUP, read a new key from file descriptor N, one
                             line, and use it from then on
  --dump-dir DIR             write each request and its answer to a file in DIR,
                             without credentials, for debugging
  --dump-max SIZE            how much DIR may hold; the oldest go first
                             (default: 1GiB)
  --secret-memory auto|require
                             where the kernel has no secret memory: use locked
                             memory, or do not start (default: auto)
Who may call (without any of the first two: every user of this host):
  --allow-user WHO           a user by name or number, or self; may be repeated
  --allow-group WHO          a group by name or number; may be repeated
  --shutdown-user WHO        who of them may GET /shutdown; may be repeated
  --allow-host NAME          a further name that clients may call this host by,
                             but not for GET /shutdown; may be repeated

Workload identity, in place of a key:
  --github-oidc              standard input has GitHub's request token; GitHub's
                             identity for it is exchanged for a key, and again
                             before that expires
  --oidc-audience NAME       for whom GitHub is to make the identity
  --identity-provider-id ID  the issuer, as OpenAI calls it
  --service-account-id ID    the account, as OpenAI calls it
  --github-oidc-request-url URL
                             where GitHub is asked
  --oidc-allow-host NAME     a host besides GitHub's that URL may name; may be
                             repeated
  --oidc-token-file FILE     exchange the identity in FILE instead, which is read
                             each time; nothing comes on standard input

How much (0 means no limit, which is the default but for --max-body):
  --max-body SIZE            a request's body, such as 64MiB (default: 512MiB)
  --max-concurrent N         requests that run at once
  --max-concurrent-per-user N
  --max-connections-per-user N
  --rate N                   requests a second each user may begin, in the long
                             run; twice as many at once
  --max-requests N           serve so many requests, and end
  --expire-after D           serve for so long, and end
  --max-tokens-per-user N    input and output tokens of each user
  --budget-file FILE         keep the sums of tokens there, across restarts

Protection (default: all that the kernel offers; the start line says what is in
force):
  --user NAME                when started as root: become that user for good
  --strict                   do not start unless every protection is in force
  --jail auto|off            off: no Landlock and no seccomp, for debugging

What it tells:
  --audit FILE|-             one line of JSON for each request and refusal; - is
                             standard output. SIGHUP opens FILE again
  --metrics ADDR|unix:PATH   /metrics for Prometheus, /healthz and /readyz, on a
                             loopback address or a unix socket
  --log-file FILE            its messages, in place of standard error, which is
                             let go of once the start lines are out. SIGHUP
                             opens FILE again

Other:
  --drain-timeout D          how long running requests may go on after a stop
                             (default: 10s)
  --version                  print the version
  --help                     print this text

Under systemd it takes the sockets of its socket units in place of --port and
--socket, and tells when it is ready.

A flag's value may follow as the next word or behind '='; one dash will do.

Example:
  printenv OPENAI_API_KEY | env -u OPENAI_API_KEY responses-api-proxy \
    --port 8080 --allow-user self
  sudo responses-api-proxy --user nobody --allow-user codex --strict < key
  OPENAI_BASE_URL=http://127.0.0.1:8080/v1 your-client
`

const (
	defaultDrain   = 10 * time.Second
	defaultMaxBody = 512 << 20
)

// options are what the command line says.
type options struct {
	print            string // to standard output, in place of serving
	port             uint16
	portGiven        bool
	tcp              bool // listen on port
	socket           string
	serverInfo       string
	httpShutdown     bool
	upstreamURL      string
	insecureUpstream bool
	upstreamUsers    policy.Users
	legacyTLS        bool
	secretMemory     key.Policy
	drainTimeout     time.Duration

	routes []string // besides POST /v1/responses

	users, shutdownUsers policy.Users
	hosts                []string
	limits               policy.Limits
	runAs                *sandbox.User // nil leaves the user as it is
	strict, noSandbox    bool
	maxTokens            int64
	budgetFile           string

	audit, metrics, logFile string

	caFile     string
	authHeader key.Header
	keyFD      int // 0 if none is given
	identity   identity
	dumpDir    string
	dumpMax    int64
}

// alsoOwners returns the uids, besides this process's own, whose files it takes over.
func (o *options) alsoOwners() []uint32 {
	if o.runAs == nil {
		return nil
	}
	return []uint32{uint32(o.runAs.UID)}
}

// owner returns the uid that new files are given to; -1 leaves them to the process's own.
func (o *options) owner() int {
	if o.runAs == nil {
		return -1
	}
	return o.runAs.UID
}

// parseFlags reads a command line. Each flag may stand there once.
func parseFlags(args []string) (*options, error) {
	o := &options{upstreamURL: upstream.DefaultURL, secretMemory: key.Auto, drainTimeout: defaultDrain, dumpMax: dump.DefaultMaxBytes}
	o.limits.MaxBody = defaultMaxBody
	fs := newFlagSet(o)
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		o.print = usage
		return o, nil
	case err != nil:
		return nil, hint(fs, err)
	case fs.NArg() > 0:
		return nil, unexpected(fs.Arg(0))
	}
	return o, o.settle()
}

// settle fills in what follows from other flags, and refuses what they
// contradict.
func (o *options) settle() error {
	o.tcp = o.tcp || o.socket == ""
	o.limits.Burst = max(1, int(2*o.limits.Rate))
	if o.strict {
		o.secretMemory = key.Require
	}
	switch {
	case o.serverInfo != "" && !o.tcp:
		return errors.New("--server-info tells a port, and with --socket alone there is none; add --port 0")
	case !o.shutdownUsers.Empty() && !o.httpShutdown:
		return errors.New("--shutdown-user needs --http-shutdown")
	case o.strict && o.noSandbox:
		return errors.New("--strict and --jail=off contradict each other; leave one out")
	case o.budgetFile != "" && o.maxTokens == 0:
		return errors.New("--budget-file needs --max-tokens-per-user")
	case o.dumpMax != dump.DefaultMaxBytes && o.dumpDir == "":
		return errors.New("--dump-max needs --dump-dir")
	}
	return cmp.Or(relay.CheckRoutes(o.routes), o.identity.check(o))
}

func newFlagSet(o *options) *flag.FlagSet {
	fs := flagSet{flag.NewFlagSet("responses-api-proxy", flag.ContinueOnError)}
	fs.SetOutput(io.Discard)
	fs.toggle("version", func() { o.print = version() })
	addServing(fs, o)
	addUpstream(fs, o)
	addAdmission(fs, o)
	addIdentity(fs, &o.identity)
	addProtection(fs, o)
	addReports(fs, o)
	return fs.FlagSet
}

// addServing adds the flags that say where the proxy listens, and for how long.
func addServing(fs flagSet, o *options) {
	fs.value("port", func(s string) error {
		n, err := strconv.ParseUint(s, 10, 16)
		o.port, o.tcp, o.portGiven = uint16(n), true, true
		return when(err != nil, "a port is a number from 0 to 65535")
	})
	fs.text("socket", "a path", &o.socket)
	fs.text("server-info", "a file name", &o.serverInfo)
	fs.toggle("http-shutdown", func() { o.httpShutdown = true })
	fs.Func("allow-route", "", func(s string) error {
		o.routes = append(o.routes, s)
		return relay.CheckRoute(s)
	})
	fs.duration("drain-timeout", "10s or 2m", &o.drainTimeout)
}

// addUpstream adds the flags that say where requests go, and how.
func addUpstream(fs flagSet, o *options) {
	fs.value("upstream-url", func(s string) error { o.upstreamURL = s; return nil })
	fs.toggle("insecure-upstream", func() { o.insecureUpstream = true })
	fs.Func("upstream-user", "", o.upstreamUsers.AddUser)
	fs.value("upstream-tls", func(s string) error {
		o.legacyTLS = s == "1.2"
		return when(s != "1.2" && s != "1.3", "choose 1.3 or 1.2")
	})
	fs.text("ca-file", "a file name", &o.caFile)
	fs.value("auth-header", func(s string) (err error) {
		o.authHeader, err = key.ParseHeader(s)
		return err
	})
	fs.value("key-fd", func(s string) (err error) {
		o.keyFD, err = strconv.Atoi(s)
		return when(err != nil || o.keyFD < 3, "a number from 3 on is needed, of a descriptor that is open for reading")
	})
}

// addAdmission adds the flags that say who may call, and how much.
func addAdmission(fs flagSet, o *options) {
	fs.Func("allow-user", "", o.users.AddUser)
	fs.Func("allow-group", "", o.users.AddGroup)
	fs.Func("shutdown-user", "", o.shutdownUsers.AddUser)
	fs.Func("allow-host", "", func(s string) error {
		o.hosts = append(o.hosts, s)
		return when(s == "", "a host name is needed")
	})
	l := &o.limits
	fs.size("max-body", &l.MaxBody)
	fs.count("max-concurrent", func(n int64) { l.MaxConcurrent = int(n) })
	fs.count("max-concurrent-per-user", func(n int64) { l.MaxConcurrentPerUser = int(n) })
	fs.count("max-connections-per-user", func(n int64) { l.MaxConnectionsPerUser = int(n) })
	fs.count("max-requests", func(n int64) { l.MaxRequests = n })
	fs.count("max-tokens-per-user", func(n int64) { o.maxTokens = n })
	fs.duration("expire-after", "6h or 30m", &l.ExpireAfter)
	fs.value("rate", func(s string) (err error) {
		l.Rate, err = strconv.ParseFloat(s, 64)
		return when(err != nil || !(l.Rate >= 0 && l.Rate <= 1e6), "a number of requests a second is needed, such as 0.5 or 10")
	})
	fs.text("budget-file", "a file name", &o.budgetFile)
}

// addIdentity adds the flags of workload identity.
func addIdentity(fs flagSet, i *identity) {
	fs.toggle("github-oidc", func() { i.github = true })
	c := &i.config
	part := func(name string, to *string, of *[]string) {
		fs.value(name, func(s string) error {
			*to, *of = s, append(*of, name)
			return nil
		})
	}
	part("oidc-audience", &c.Audience, &i.needGithub)
	part("github-oidc-request-url", &c.RequestURL, &i.needGithub)
	part("identity-provider-id", &c.IdentityProviderID, &i.given)
	part("service-account-id", &c.ServiceAccountID, &i.given)
	fs.Func("oidc-allow-host", "", func(s string) error {
		c.AllowHosts, i.needGithub = append(c.AllowHosts, s), append(i.needGithub, "oidc-allow-host")
		return when(s == "", "a host name is needed")
	})
	fs.text("oidc-token-file", "a file name", &c.TokenFile)
}

// addProtection adds the flags that say what must be in force.
func addProtection(fs flagSet, o *options) {
	fs.value("secret-memory", func(s string) error {
		o.secretMemory = key.Policy(s)
		return when(o.secretMemory != key.Auto && o.secretMemory != key.Require, "choose auto or require")
	})
	fs.value("user", func(s string) (err error) {
		o.runAs, err = sandbox.LookupUser(s)
		return err
	})
	fs.toggle("strict", func() { o.strict = true })
	fs.value("jail", func(s string) error {
		o.noSandbox = s == "off"
		return when(s != "auto" && s != "off", "choose auto or off")
	})
}

// addReports adds the flags that say what is told, and to whom.
func addReports(fs flagSet, o *options) {
	fs.text("audit", "a file name, or - for standard output,", &o.audit)
	fs.text("metrics", "a loopback address with a port, or unix:PATH,", &o.metrics)
	fs.text("log-file", "a file name", &o.logFile)
	fs.text("dump-dir", "a folder's name", &o.dumpDir)
	fs.size("dump-max", &o.dumpMax)
}

// version describes the build: the module's version, or the commit that it was
// built from.
func version() string {
	v := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		v = info.Main.Version
	}
	return "responses-api-proxy " + v + "\n"
}
