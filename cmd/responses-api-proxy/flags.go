package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/cli"
	"github.com/responses-api-proxy/responses-api-proxy/internal/host/listen"
	"github.com/responses-api-proxy/responses-api-proxy/internal/host/safefile"
	"github.com/responses-api-proxy/responses-api-proxy/internal/host/sandbox"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/upstream"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/budget"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/relay"
)

// The values of --protection.
const (
	auto      = "auto"
	available = "available"
	strict    = "strict"
	off       = "off"
)

// options are the settings of the command line.
type options struct {
	given         map[string]bool // the names of the flags that were set
	config        string
	print         string // to standard output, in place of serving
	port          uint16
	listen        []listen.Address // the TCP address first, if there is one
	serverInfo    string
	httpShutdown  bool
	upstreamURL   string
	upstreamUsers policy.Users
	upstreamTLS   string
	drainTimeout  time.Duration

	routes []string // besides POST /v1/responses
	models []string // that requests may name; none means every model

	users, shutdownUsers policy.Users
	hosts                []string
	limits               policy.Limits
	runAs                *sandbox.User // nil leaves the user as it is
	owner                int           // the uid that new files are given to, and whose files are trusted; -1 without --user
	protection           string        // auto, available, strict or off
	budget               budget.Config // Limit, Period and File

	audit, logFile, logFormat string
	metrics                   listen.Address
	logRequests               bool

	caFile     string
	authHeader key.Header
	keyFile    string
	identity   identity
	dumpDir    string
}

// identity has the settings of workload identity.
type identity struct {
	github bool
	key.Exchange
}

// enabled reports whether the key is got in exchange for an identity.
func (i *identity) enabled() bool { return i.github || i.TokenFile != "" }

// flagTable returns all flags of the proxy, which set o. Their texts are in docs/responses-api-proxy.1.md, in the same
// order; help, completions and the table of README.md are made of both (TestDocuments).
func flagTable(o *options) []cli.Flag {
	id, l := &o.identity, &o.limits
	ignore := func(string) error { return nil } // the value may be secret
	return []cli.Flag{
		{Name: "port", Value: "N", Also: "p", Set: cli.Int(&o.port, 0, 65535, "a port is a number from 0 to 65535")},
		{Name: "listen", Value: "ADDR:PORT|unix:PATH", Repeat: true, Also: "host bind address socket",
			Set: cli.Append(&o.listen, listen.ParseAddress)},
		{Name: "server-info", Value: "FILE", Set: cli.String(&o.serverInfo, "a file name")},
		{Name: "http-shutdown", Value: "USER|@GROUP|self", Repeat: true, Optional: true, Also: "shutdown-user=USER", Set: o.allowShutdown},
		{Name: "drain-timeout", Value: "DURATION", Set: cli.Duration(&o.drainTimeout, "10s or 2m")},

		{Name: "upstream-url", Value: "URL", Set: cli.Any(&o.upstreamURL)},
		{Name: "allow-route", Value: "compact|input-tokens|models|retrieve|websocket|search|messages", Repeat: true,
			Set: cli.Each(&o.routes, relay.CheckRoute)},
		{Name: "upstream-user", Value: "USER|self", Repeat: true, Set: o.upstreamUsers.AddUser},
		{Name: "upstream-tls", Value: "1.3|1.2|off", Also: "insecure-upstream=off", Set: cli.Choice(&o.upstreamTLS, "1.3", "1.2", off)},
		{Name: "ca-file", Value: "FILE", Set: cli.String(&o.caFile, "a file name")},
		{Name: "auth-header", Value: "bearer|api-key|x-api-key", Set: cli.Parsed(&o.authHeader, key.ParseHeader)},
		{Name: "key-file", Value: "FILE", Also: "key api-key key-fd", Set: o.setKeyFile},

		{Name: "allow-user", Value: "USER|@GROUP|self", Repeat: true, Also: "allow-group=@GROUP", Set: o.users.Add},
		{Name: "allow-host", Value: "NAME", Repeat: true, Set: cli.Each(&o.hosts, checkHost)},

		{Name: "allow-model", Value: "NAME|PREFIX*", Repeat: true, Set: cli.Each(&o.models, relay.CheckModel)},
		{Name: "max-body", Value: "SIZE", Set: cli.Size(&l.MaxBody)},
		{Name: "max-concurrent", Value: "N", Set: cli.Count(&l.MaxConcurrent)},
		{Name: "max-concurrent-per-user", Value: "N", Set: cli.Count(&l.MaxConcurrentPerUser)},
		{Name: "rate", Value: "N", Set: cli.Float(&l.Rate, 1e6, "a number of requests a second is needed, such as 0.5 or 10")},
		{Name: "max-requests", Value: "N", Set: cli.Count(&l.MaxRequests)},
		{Name: "expire-after", Value: "DURATION", Set: cli.Duration(&l.ExpireAfter, "6h or 30m")},
		{Name: "max-tokens-per-user", Value: "N", Set: cli.Count(&o.budget.Limit)},
		{Name: "budget-period", Value: "DURATION|month", Set: cli.Parsed(&o.budget.Period, budget.ParsePeriod)},
		{Name: "budget-file", Value: "FILE", Set: cli.String(&o.budget.File, "a file name")},

		{Name: "user", Value: "USER", Set: cli.Parsed(&o.runAs, unprivileged)},
		{Name: "protection", Value: "auto|available|strict|off", Also: "strict=strict sandbox secret-memory",
			Set: cli.Choice(&o.protection, auto, available, strict, off)},

		{Name: "audit", Value: "FILE|-", Set: cli.String(&o.audit, "a file name, or - for standard output,")},
		{Name: "metrics", Value: "ADDR:PORT|unix:PATH", Set: cli.Parsed(&o.metrics, listen.ParseAddress)},
		{Name: "log-file", Value: "FILE", Set: cli.String(&o.logFile, "a file name")},
		{Name: "log-format", Value: "text|json", Set: cli.Choice(&o.logFormat, "text", "json")},
		{Name: "log-requests", Set: cli.Bool(&o.logRequests)},
		{Name: "dump-dir", Value: "DIR", Also: "dump-max", Set: cli.String(&o.dumpDir, "a directory's name")},

		{Name: "github-oidc", Set: cli.Bool(&id.github)},
		{Name: "oidc-audience", Value: "NAME", Needs: "github-oidc", Set: cli.Any(&id.Audience)},
		{Name: "identity-provider-id", Value: "ID", Needs: "github-oidc oidc-token-file", Set: cli.Any(&id.IdentityProviderID)},
		{Name: "service-account-id", Value: "ID", Needs: "github-oidc oidc-token-file", Set: cli.Any(&id.ServiceAccountID)},
		{Name: "github-oidc-request-url", Value: "URL", Needs: "github-oidc", Set: cli.Any(&id.RequestURL)},
		{Name: "oidc-allow-host", Value: "NAME", Repeat: true, Needs: "github-oidc",
			Set: cli.Append(&id.AllowHosts, cli.NotEmpty("a host name"))},
		{Name: "oidc-token-file", Value: "FILE", Set: cli.String(&id.TokenFile, "a file name")},

		{Name: "config", Value: "FILE", Set: cli.String(&o.config, "a file name")},
		{Name: "version", Set: func(string) error { o.print = version(); return nil }},
		{Name: "help", Set: cli.RequestHelp},
		{Name: "h", Hidden: true, Set: cli.RequestHelp},
		{Name: "c", Value: "KEY=VALUE", Repeat: true, Hidden: true, Set: ignore},
		{Name: "enable", Value: "FEATURE", Repeat: true, Hidden: true, Set: ignore},
		{Name: "disable", Value: "FEATURE", Repeat: true, Hidden: true, Set: ignore},
	}
}

// parseFlags reads the arguments of the proxy itself, and the file of --config.
func parseFlags(args []string) (*options, error) {
	o, err := parseArgs(args)
	if err == nil && o.config != "" {
		var more []string
		if more, err = readConfig(o.config); err == nil {
			args = slices.Concat(more, args)
			o, err = parseArgs(args)
		}
		if err != nil {
			err = fmt.Errorf("--config: %w", err)
		}
	}
	if err != nil {
		return nil, cmp.Or(leaked(args), err)
	}
	if o.print != "" {
		return o, nil
	}
	return o, o.complete()
}

// parseArgs returns the options that args set, and the defaults of the others.
func parseArgs(args []string) (*options, error) {
	o := &options{owner: -1, upstreamURL: upstream.DefaultURL, protection: auto, drainTimeout: 10 * time.Second}
	o.limits.MaxBody = 512 << 20
	given, rest, err := cli.Parse(flagTable(o), args)
	switch {
	case errors.Is(err, cli.ErrHelp):
		o.print = document("help")
		return o, nil
	case err == nil && len(rest) > 0:
		err = unexpected(rest[0])
	}
	o.given = given
	return o, err
}

// readConfig returns the flags in the file at path as arguments.
func readConfig(path string) ([]string, error) {
	in, err := safefile.FindInput(path, -1)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	f, err := in.Open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(f) // all of it: what is last may name who may call
	if err != nil {
		return nil, err
	}
	args, err := cli.ConfigArgs(flagTable(&options{}), string(text))
	if err != nil {
		return nil, fmt.Errorf("%s, %w", path, err)
	}
	return args, nil
}

// complete sets what follows from other flags, and returns an error for flags that contradict each other.
func (o *options) complete() error {
	if err := cli.CheckNeeds(flagTable(o), o.given); err != nil {
		return err
	}
	o.limits.Burst = max(1, int(2*o.limits.Rate))
	if o.runAs != nil {
		o.owner = o.runAs.UID
	}
	if o.given["port"] || len(o.listen) == 0 {
		o.listen = append(o.listen, listen.Loopback(o.port))
	}
	slices.SortStableFunc(o.listen, func(a, b listen.Address) int { return min(len(a.Path), 1) - min(len(b.Path), 1) })
	switch {
	case len(o.listen) > 1 && o.listen[1].Path == "":
		return errors.New("--port and --listen name two TCP addresses, and clients are told one port; keep one")
	case o.serverInfo != "" && o.listen[0].Path != "":
		return errors.New("--server-info tells a port, and --listen names unix sockets only; add --port 0")
	case o.budget.File != "" && o.budget.Limit == 0:
		return errors.New("--budget-file needs --max-tokens-per-user N, more than 0")
	case o.budget.Period != 0 && o.budget.Limit == 0:
		return errors.New("--budget-period needs --max-tokens-per-user N, more than 0")
	}
	if err := relay.CheckRoutes(o.routes, o.models); err != nil || !o.identity.enabled() {
		return err
	}
	switch {
	case o.identity.github && o.identity.TokenFile != "":
		return errors.New("--github-oidc and --oidc-token-file contradict each other; choose one")
	case o.keyFile != "":
		return errors.New("--key-file brings a key, and workload identity makes its own; leave it out")
	case o.authHeader != key.Bearer:
		return errors.New("workload identity makes bearer tokens; leave --auth-header out")
	}
	return nil
}

// allowShutdown opens GET /shutdown to a user or group, or, if who is "true", to all who may call.
func (o *options) allowShutdown(who string) error {
	switch {
	case who == "false":
		return errors.New("without the flag GET /shutdown is refused; leave it out")
	case o.httpShutdown && (who == "true" || o.shutdownUsers.Empty()):
		return errors.New("the flag is given more than once, and not always with a user")
	}
	o.httpShutdown = true
	if who == "true" {
		return nil
	}
	return o.shutdownUsers.Add(who)
}

func (o *options) setKeyFile(path string) error {
	switch {
	case path == "":
		return errors.New("a file name is needed")
	case path == "-", strings.HasPrefix(path, "/dev/"), strings.HasPrefix(path, "/proc/"):
		// A descriptor that was not passed on may be one of the Go runtime's own, of which the text would be taken for
		// a key.
		return errors.New("name a regular file, or leave the flag out to read the key from standard input")
	case mayBeKey(path):
		return errors.New("there is no such file") // leaked has the error that is shown
	}
	o.keyFile = path
	return nil
}

// mayBeKey reports whether a key was given in place of a file's name.
func mayBeKey(path string) bool {
	_, err := os.Lstat(path)
	return err != nil && (strings.HasPrefix(path, "sk-") || len(path) >= 20 && !strings.Contains(path, "/"))
}

// checkHost accepts a host, with or without a port, as it is in a Host field.
func checkHost(name string) error {
	switch {
	case name == "":
		return errors.New("a host name is needed")
	case strings.ContainsAny(name, "/@, "):
		return errors.New("name a host, or HOST:PORT, alone, as clients send it in the Host field")
	}
	return nil
}

// unprivileged returns the user of --user, which must not be root.
func unprivileged(who string) (*sandbox.User, error) {
	name, uid, gid, err := policy.LookUp(who)
	switch {
	case err != nil:
		return nil, err
	case uid == 0:
		return nil, fmt.Errorf("user %s is root; name a user without privileges", who)
	}
	return &sandbox.User{Name: name, UID: int(uid), GID: int(gid)}, nil
}

// ignored returns the names of the flags of Codex that were given, which mean nothing here.
func (o *options) ignored() string {
	var names []string
	for _, name := range []string{"c", "enable", "disable"} {
		if o.given[name] {
			names = append(names, cli.Flag{Name: name}.String())
		}
	}
	return strings.Join(names, ", ")
}

// unexpected returns the error for a word that belongs to no flag. It never has what may be a key: errors are logged.
func unexpected(word string) error {
	if len(word) >= 20 {
		return keyAmongArguments(word)
	}
	if slices.Contains([]string{"serve", "run", "start"}, word) {
		return fmt.Errorf("unexpected argument %q; the proxy runs without a subcommand, so leave it out", word)
	}
	if near := cli.Nearest(word, subcommands); near != "" {
		return fmt.Errorf("unexpected argument %q; is the subcommand %s meant? it stands first", word, near)
	}
	return fmt.Errorf("unexpected argument %q; a flag takes one value, some only behind '=', some none, and the key comes from standard input", word)
}

// leaked returns an error if one of the arguments looks like a key.
func leaked(args []string) error {
	for i, arg := range args {
		word := arg[strings.LastIndexByte(arg, '=')+1:]
		flag := arg
		if word == arg && i > 0 {
			flag = args[i-1]
		}
		file := strings.HasPrefix(strings.TrimLeft(flag, "-"), "key-file")
		if strings.HasPrefix(strings.TrimLeft(word, "-"), "sk-") || namesKey(flag) && len(word) >= 20 || file && mayBeKey(word) {
			return keyAmongArguments(word)
		}
	}
	return nil
}

// namesKey reports whether a user who types this flag may give the key as its value.
func namesKey(flag string) bool {
	name, _, _ := strings.Cut(strings.ToLower(strings.TrimLeft(flag, "-")), "=")
	return flag[:min(1, len(flag))] == "-" && (strings.HasSuffix(name, "key") || strings.HasSuffix(name, "token") || strings.HasSuffix(name, "secret"))
}

func keyAmongArguments(word string) error {
	return fmt.Errorf("unexpected argument of %d characters; if it is a key, every user of this host can have read it: revoke it, and pipe the new one in, or use --key-file", len(word))
}
