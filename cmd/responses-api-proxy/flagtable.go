package main

import (
	"github.com/responses-api-proxy/responses-api-proxy/internal/budget"
	"github.com/responses-api-proxy/responses-api-proxy/internal/cli"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key"
	"github.com/responses-api-proxy/responses-api-proxy/internal/listen"
	"github.com/responses-api-proxy/responses-api-proxy/internal/relay"
	"github.com/responses-api-proxy/responses-api-proxy/internal/sandbox"
)

// topics are the groups of flags in help and manual page.
var topics = []cli.Topic{
	{Name: "serving", Title: "Listening and stopping",
		Text: "Under systemd the sockets of its socket units take the place of `--port` and `--listen`."},
	{Name: "upstream", Title: "Upstream"},
	{Name: "callers", Title: "Access control",
		Text: "Without `--allow-user` every user of this host may call. Requests of web pages are refused in any case."},
	{Name: "limits", Title: "Limits",
		Text: "0 means no limit, which is the default except for `--max-body`. DURATION is a number with a unit, such as 90s, 10m, 2h " +
			"or 2d; SIZE is a number of bytes, or of K, M or G of 1024, such as 64M or 64MiB."},
	{Name: "protection", Title: "Protection of the process",
		Text: "By default all that the kernel offers is used; the line `protections` in the log says what is in force."},
	{Name: "logging", Title: "Logging and metrics"},
	{Name: "identity", Title: "Workload identity, in place of a key"},
	{Name: "other", Title: "Other"},
}

// flagTable returns all flags of the proxy, which set o. Every text that names
// them is made from this table.
func flagTable(o *options) []cli.Flag {
	id, l := &o.identity, &o.limits
	ignore := func(string) error { return nil } // the value may be secret
	return []cli.Flag{
		{Name: "port", Value: "N", Topic: "serving", Common: true, Original: true, Also: map[string]string{"p": ""}, Set: cli.Int(&o.port, 0, 65535, "a port is a number from 0 to 65535"),
			Summary: "port of 127.0.0.1 to listen on", Default: "a free one; none with --listen"},
		{Name: "listen", Value: "ADDR:PORT|unix:PATH", Topic: "serving", Common: true, Repeat: true,
			Also:    map[string]string{"host": "", "bind": "", "address": "", "socket": ""},
			Set:     cli.Append(&o.listen, listen.ParseAddress),
			Summary: "listen on a loopback address, or on a unix stream socket",
			Text: "At most one is a TCP address, `--port` included. The directory of PATH, and every one above it, must belong to root or to the proxy's " +
				"user and must not be writable by others, unless it is sticky, as `/tmp` is."},
		{Name: "server-info", Value: "FILE", Topic: "serving", Common: true, Original: true, Set: cli.String(&o.serverInfo, "a file name"),
			Summary: "write {\"port\":N,\"pid\":N} to FILE once listening", Text: "Missing directories are made, as by the original."},
		{Name: "http-shutdown", Value: "USER|@GROUP|self", Optional: true, Topic: "serving", Common: true, Original: true, Repeat: true,
			Also: map[string]string{"shutdown-user": "USER"}, Set: o.allowShutdown,
			Summary: "let GET /shutdown stop the proxy", Text: "With a value it is only for this user or group, of those who may call."},
		{Name: "drain-timeout", Value: "DURATION", Topic: "serving", Set: cli.Duration(&o.drainTimeout, "10s or 2m"),
			Summary: "how long running requests may go on after a stop", Default: "10s"},

		{Name: "upstream-url", Value: "URL", Topic: "upstream", Common: true, Original: true, Set: cli.Any(&o.upstreamURL),
			Summary: "where requests go, with path and query", Default: "https://api.openai.com/v1/responses"},
		{Name: "allow-route", Value: "compact|input-tokens|models|retrieve|websocket|search|messages", Topic: "upstream", Repeat: true, Set: cli.Each(&o.routes, relay.CheckRoute),
			Summary: "allow another route besides POST /v1/responses",
			Text: "These are `POST /v1/responses/compact`, `POST /v1/responses/input_tokens` and `GET /v1/models`; `GET` and `DELETE /v1/responses/ID` " +
				"and `POST /v1/responses/ID/cancel` for what the same user has made through this proxy; WebSocket; Codex's `POST /v1/alpha/search`; or, " +
				"alone and in place of `POST /v1/responses`, Anthropic's `POST /v1/messages` and `POST /v1/messages/count_tokens`."},
		{Name: "upstream-user", Value: "USER|self", Topic: "upstream", Repeat: true, Set: o.upstreamUsers.AddUser,
			Summary: "user, by name or number, who may be the upstream on this host over plain http, besides root and the user who starts the proxy",
			Text: "The kernel reports which user has accepted each new connection. To a process of any other user not a byte is sent; " +
				"the request ends in 502, and the log names the uid."},
		{Name: "upstream-tls", Value: "1.3|1.2|off", Topic: "upstream", Also: map[string]string{"insecure-upstream": off},
			Set:     cli.Choice(&o.upstreamTLS, "1.3", "1.2", off),
			Summary: "TLS version towards the upstream; off: allow plain http to another host", Default: "1.3",
			Text: "With `off` the key crosses the network unencrypted; it contradicts an https URL. Plain http to this host needs no flag."},
		{Name: "ca-file", Value: "FILE", Topic: "upstream", Set: cli.String(&o.caFile, "a file name"),
			Summary: "trust the CA certificates in FILE, in PEM, and no others", Default: "those of the system"},
		{Name: "auth-header", Value: "bearer|api-key|x-api-key", Topic: "upstream", Set: cli.Parsed(&o.authHeader, key.ParseHeader),
			Summary: "header field in which the key is sent", Default: "bearer", Text: "`bearer` is `Authorization: Bearer`."},
		{Name: "key-file", Value: "FILE", Topic: "upstream", Common: true,
			Also: map[string]string{"key": "", "api-key": "", "key-fd": ""}, Set: o.setKeyFile,
			Summary: "read the key from FILE, and another one at each SIGHUP", Default: "standard input",
			Text: "FILE and every directory above it must belong to root, to the user who starts the proxy or to that of `--user`, and must not be " +
				"writable by others. It may be a symbolic link, such as Kubernetes makes. The proxy can read what else is in its directory, so give it " +
				"one of its own. Under systemd, where standard input is neither a pipe nor a file, the default is the credential `key` " +
				"(`LoadCredential=key:FILE`)."},

		{Name: "allow-user", Value: "USER|@GROUP|self", Topic: "callers", Common: true, Repeat: true,
			Also: map[string]string{"allow-group": "@GROUP"}, Set: o.users.Add,
			Summary: "user or group who may call; self is the user who runs the proxy", Default: "every user",
			Text: "The kernel reports who calls. Give a number, or a name of /etc/passwd or /etc/group; no other source, such as LDAP, is asked. " +
				"Over TCP the members of a group are those at start."},
		{Name: "allow-host", Value: "NAME", Topic: "callers", Repeat: true, Set: cli.Each(&o.hosts, checkHost),
			Summary: "another name by which clients may call this host",
			Text:    "`GET /shutdown` still takes a loopback address or `localhost` only: by another name a web page could send it."},

		{Name: "allow-model", Value: "NAME|PREFIX*", Topic: "limits", Repeat: true, Set: cli.Each(&o.models, relay.CheckModel),
			Summary: "model that requests may name, or the beginning of its name with * behind it", Default: "every model",
			Text: "A request is refused unless every reader of JSON finds the same allowed model in it, within its first 1 MiB. " +
				"The models of tools are not checked. It excludes `--allow-route websocket`."},
		{Name: "max-body", Value: "SIZE", Topic: "limits", Set: cli.Size(&l.MaxBody),
			Summary: "largest body of a request, such as 64MiB", Default: "512MiB"},
		{Name: "max-concurrent", Value: "N", Topic: "limits", Set: cli.Count(&l.MaxConcurrent),
			Summary: "requests that run at the same time"},
		{Name: "max-concurrent-per-user", Value: "N", Topic: "limits", Set: cli.Count(&l.MaxConcurrentPerUser),
			Summary: "requests of each user that run at the same time"},
		{Name: "rate", Value: "N", Topic: "limits",
			Set:     cli.Float(&l.Rate, 1e6, "a number of requests a second is needed, such as 0.5 or 10"),
			Summary: "requests a second of each user", Text: "That is the average; a burst may be twice as many."},
		{Name: "max-requests", Value: "N", Topic: "limits", Set: cli.Count(&l.MaxRequests),
			Summary: "end after that many requests"},
		{Name: "expire-after", Value: "DURATION", Topic: "limits", Set: cli.Duration(&l.ExpireAfter, "6h or 30m"),
			Summary: "end after that time"},
		{Name: "max-tokens-per-user", Value: "N", Topic: "limits", Common: true, Set: cli.Count(&o.maxTokens),
			Summary: "input and output tokens of each user", Default: "no limit",
			Text: "What already runs is never cut. Each running request reserves a deposit of a quarter of N, at most 1000000; a response that does not " +
				"say what it cost is charged that. A client that leaves pays for the whole response."},
		{Name: "budget-period", Value: "DURATION|month", Topic: "limits", Set: cli.Parsed(&o.budgetPeriod, budget.ParsePeriod),
			Summary: "start the usage totals anew after each period", Default: "never",
			Text: "Periods are aligned in UTC: those of 24h begin at midnight, those of 168h on Mondays, months on the first."},
		{Name: "budget-file", Value: "FILE", Topic: "limits", Set: cli.String(&o.budgetFile, "a file name"),
			Summary: "keep the usage totals there, across restarts", Text: "The user of `--user` must be able to write to its directory."},

		{Name: "user", Value: "USER", Topic: "protection", Common: true, Set: cli.Parsed(&o.runAs, sandbox.LookupUser),
			Summary: "when started as root, become that user for good"},
		{Name: "protection", Value: "auto|available|strict|off", Topic: "protection", Common: true,
			Also:    map[string]string{"strict": strict, "sandbox": "", "secret-memory": ""},
			Set:     cli.Choice(&o.protection, auto, available, strict, off),
			Summary: "require nothing, what this kernel has, or everything to start", Default: auto,
			Text: "With `auto` it starts with the protections that there are. `strict` needs secret memory, which root cannot read, Linux 6.7 or later, another user than root, and `start-window=closed`: the " +
				"program's file must not be readable by the user who starts it (root's, mode 0711), unless root starts it. `available` needs the same, " +
				"but for secret memory and rules for ports where the kernel is too old, or was booted without them. `off` leaves Landlock and " +
				"seccomp out, for debugging."},

		{Name: "audit", Value: "FILE|-", Topic: "logging", Common: true, Set: cli.String(&o.audit, "a file name, or - for standard output,"),
			Summary: "one line of JSON for each request and refusal; - is standard output",
			Text: "It says who, how long, how much, and of what was said only the model, the tokens and the request id. Of many refusals of one user " +
				"within a second only the number is written. SIGHUP opens FILE again."},
		{Name: "metrics", Value: "ADDR:PORT|unix:PATH", Topic: "logging", Set: o.setMetrics,
			Summary: "serve a status page, /metrics for Prometheus, /healthz and /readyz on a loopback address with a port or a unix socket"},
		{Name: "log-file", Value: "FILE", Topic: "logging", Set: cli.String(&o.logFile, "a file name"),
			Summary: "write log messages to FILE in place of standard error, which is closed after start-up", Text: "SIGHUP opens FILE again."},
		{Name: "log-format", Value: "text|json", Topic: "logging", Set: cli.Choice(&o.logFormat, "text", "json"),
			Summary: "form of log messages", Default: "text"},
		{Name: "log-requests", Topic: "logging", Set: cli.Bool(&o.logRequests),
			Summary: "log each request: user, route, status, duration, model and tokens"},
		{Name: "dump-dir", Value: "DIR", Topic: "logging", Original: true, Also: map[string]string{"dump-max": ""}, Set: cli.String(&o.dumpDir, "a directory's name"),
			Summary: "write each request and its response to a file in DIR, without credentials, for debugging",
			Text:    "These hold what clients and the model say: guard the directory. The oldest files beyond 1 GiB are removed."},

		{Name: "github-oidc", Topic: "identity", Original: true, Set: cli.Bool(&id.github),
			Summary: "read GitHub's request token in place of a key from standard input",
			Text: "It is `ACTIONS_ID_TOKEN_REQUEST_TOKEN`. The identity that GitHub issues for it is exchanged for a key before the proxy listens, and " +
				"again before that expires."},
		{Name: "oidc-audience", Value: "NAME", Topic: "identity", Original: true, Needs: []string{"github-oidc"},
			Set:     cli.Any(&id.config.Audience),
			Summary: "OIDC audience to request of GitHub"},
		{Name: "identity-provider-id", Value: "ID", Topic: "identity", Original: true, Needs: []string{"github-oidc", "oidc-token-file"},
			Set:     cli.Any(&id.config.IdentityProviderID),
			Summary: "OpenAI identity provider ID"},
		{Name: "service-account-id", Value: "ID", Topic: "identity", Original: true, Needs: []string{"github-oidc", "oidc-token-file"},
			Set:     cli.Any(&id.config.ServiceAccountID),
			Summary: "OpenAI service account ID"},
		{Name: "github-oidc-request-url", Value: "URL", Topic: "identity", Original: true, Needs: []string{"github-oidc"},
			Set:     cli.Any(&id.config.RequestURL),
			Summary: "URL at which GitHub is asked", Text: "It is `ACTIONS_ID_TOKEN_REQUEST_URL`."},
		{Name: "oidc-allow-host", Value: "NAME", Topic: "identity", Repeat: true, Needs: []string{"github-oidc"},
			Set:     cli.Each(&id.config.AllowHosts, cli.NotEmpty("a host name")),
			Summary: "another host besides those of GitHub that the URL may name", Text: "It receives the request token."},
		{Name: "oidc-token-file", Value: "FILE", Topic: "identity", Set: cli.String(&id.config.TokenFile, "a file name"),
			Summary: "exchange the identity in FILE instead, which is read each time",
			Text:    "Something else renews it, such as Kubernetes. Nothing comes on standard input."},

		{Name: "config", Value: "FILE", Topic: "other", Set: cli.String(&o.config, "a file name"),
			Summary: "read flags from FILE, one a line: the name without dashes, and the value",
			Text: "Lines that begin with # are comments. There are no quotes, variables or continuations. A flag that may be given once is refused if it is " +
				"both in FILE and on the command line. FILE and every directory above it must belong to root or to the user who starts the proxy, and " +
				"must not be writable by others."},
		{Name: "version", Topic: "other", Common: true, Set: func(string) error { o.print = version(); return nil },
			Summary: "print the version"},
		{Name: "help", Topic: "other", Common: true, Set: cli.RequestHelp,
			Summary: "print the flags that most users need"},
		{Name: "h", Set: cli.RequestHelp},
		{Name: "c", Value: "KEY=VALUE", Repeat: true, Set: ignore},
		{Name: "enable", Value: "FEATURE", Repeat: true, Set: ignore},
		{Name: "disable", Value: "FEATURE", Repeat: true, Set: ignore},
	}
}
