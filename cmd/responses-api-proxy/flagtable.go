package main

import (
	"github.com/responses-api-proxy/responses-api-proxy/internal/budget"
	"github.com/responses-api-proxy/responses-api-proxy/internal/cli"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key"
	"github.com/responses-api-proxy/responses-api-proxy/internal/listen"
	"github.com/responses-api-proxy/responses-api-proxy/internal/relay"
	"github.com/responses-api-proxy/responses-api-proxy/internal/sandbox"
)

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
		{Name: "http-shutdown", Value: "USER|@GROUP|self", Repeat: true, Optional: true, Also: "shutdown-user=USER",
			Set: o.allowShutdown},
		{Name: "drain-timeout", Value: "DURATION", Set: cli.Duration(&o.drainTimeout, "10s or 2m")},

		{Name: "upstream-url", Value: "URL", Set: cli.Any(&o.upstreamURL)},
		{Name: "allow-route", Value: "compact|input-tokens|models|retrieve|websocket|search|messages", Repeat: true,
			Set: cli.Each(&o.routes, relay.CheckRoute)},
		{Name: "upstream-user", Value: "USER|self", Repeat: true, Set: o.upstreamUsers.AddUser},
		{Name: "upstream-tls", Value: "1.3|1.2|off", Also: "insecure-upstream=off",
			Set: cli.Choice(&o.upstreamTLS, "1.3", "1.2", off)},
		{Name: "ca-file", Value: "FILE", Set: cli.String(&o.caFile, "a file name")},
		{Name: "auth-header", Value: "bearer|api-key|x-api-key", Set: cli.Parsed(&o.authHeader, key.ParseHeader)},
		{Name: "key-file", Value: "FILE", Also: "key api-key key-fd", Set: o.setKeyFile},

		{Name: "allow-user", Value: "USER|@GROUP|self", Repeat: true, Also: "allow-group=@GROUP", Set: o.users.Add},
		{Name: "allow-host", Value: "NAME", Repeat: true, Set: cli.Each(&o.hosts, checkHost)},

		{Name: "allow-model", Value: "NAME|PREFIX*", Repeat: true, Set: cli.Each(&o.models, relay.CheckModel)},
		{Name: "max-body", Value: "SIZE", Set: cli.Size(&l.MaxBody)},
		{Name: "max-concurrent", Value: "N", Set: cli.Count(&l.MaxConcurrent)},
		{Name: "max-concurrent-per-user", Value: "N", Set: cli.Count(&l.MaxConcurrentPerUser)},
		{Name: "rate", Value: "N",
			Set: cli.Float(&l.Rate, 1e6, "a number of requests a second is needed, such as 0.5 or 10")},
		{Name: "max-requests", Value: "N", Set: cli.Count(&l.MaxRequests)},
		{Name: "expire-after", Value: "DURATION", Set: cli.Duration(&l.ExpireAfter, "6h or 30m")},
		{Name: "max-tokens-per-user", Value: "N", Set: cli.Count(&o.maxTokens)},
		{Name: "budget-period", Value: "DURATION|month", Set: cli.Parsed(&o.budgetPeriod, budget.ParsePeriod)},
		{Name: "budget-file", Value: "FILE", Set: cli.String(&o.budgetFile, "a file name")},

		{Name: "user", Value: "USER", Set: cli.Parsed(&o.runAs, sandbox.LookupUser)},
		{Name: "protection", Value: "auto|available|strict|off", Also: "strict=strict sandbox secret-memory",
			Set: cli.Choice(&o.protection, auto, available, strict, off)},

		{Name: "audit", Value: "FILE|-", Set: cli.String(&o.audit, "a file name, or - for standard output,")},
		{Name: "metrics", Value: "ADDR:PORT|unix:PATH", Set: o.setMetrics},
		{Name: "log-file", Value: "FILE", Set: cli.String(&o.logFile, "a file name")},
		{Name: "log-format", Value: "text|json", Set: cli.Choice(&o.logFormat, "text", "json")},
		{Name: "log-requests", Set: cli.Bool(&o.logRequests)},
		{Name: "dump-dir", Value: "DIR", Also: "dump-max", Set: cli.String(&o.dumpDir, "a directory's name")},

		{Name: "github-oidc", Set: cli.Bool(&id.github)},
		{Name: "oidc-audience", Value: "NAME", Needs: "github-oidc", Set: cli.Any(&id.config.Audience)},
		{Name: "identity-provider-id", Value: "ID", Needs: "github-oidc oidc-token-file",
			Set: cli.Any(&id.config.IdentityProviderID)},
		{Name: "service-account-id", Value: "ID", Needs: "github-oidc oidc-token-file",
			Set: cli.Any(&id.config.ServiceAccountID)},
		{Name: "github-oidc-request-url", Value: "URL", Needs: "github-oidc", Set: cli.Any(&id.config.RequestURL)},
		{Name: "oidc-allow-host", Value: "NAME", Repeat: true, Needs: "github-oidc",
			Set: cli.Each(&id.config.AllowHosts, cli.NotEmpty("a host name"))},
		{Name: "oidc-token-file", Value: "FILE", Set: cli.String(&id.config.TokenFile, "a file name")},

		{Name: "config", Value: "FILE", Set: cli.String(&o.config, "a file name")},
		{Name: "version", Set: func(string) error { o.print = version(); return nil }},
		{Name: "help", Set: cli.RequestHelp},
		{Name: "h", Hidden: true, Set: cli.RequestHelp},
		{Name: "c", Value: "KEY=VALUE", Repeat: true, Hidden: true, Set: ignore},
		{Name: "enable", Value: "FEATURE", Repeat: true, Hidden: true, Set: ignore},
		{Name: "disable", Value: "FEATURE", Repeat: true, Hidden: true, Set: ignore},
	}
}
