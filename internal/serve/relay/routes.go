package relay

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/usage"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// route is a kind of request that may pass.
type route struct {
	name   string // in records
	flag   string // the value of --allow-route that opens it; "" is open unless another API is
	method string
	path   string     // as the client writes it; ID stands for a response's
	query  parameters // that may follow; nil allows no query at all
	use    policy.Use
	traits traits
	shown  string // in messages; "" is method and path
}

// traits are what the requests and responses of a route have in common.
type traits byte

const (
	hasBody  traits = 1 << iota // a request may have one, of --max-body bytes at most
	hasUsage                    // a response reports what it cost, or what an earlier one did
	hasID                       // a response has an ID by which its user may name it later
	canEnd                      // a request may end the response that it names before its time
	hasModel                    // a request's body names its model
	upgrades                    // a request is a WebSocket's handshake
)

// routes is the closed list of what may pass. The most frequent comes first.
var routes = [...]route{
	{name: "responses", method: "POST", path: "/v1/responses", use: policy.Spend, traits: hasBody | hasModel | hasUsage | hasID},
	{name: "shutdown", method: "GET", path: "/shutdown", use: policy.Shutdown, traits: hasBody},
	{name: "compact", flag: "compact", method: "POST", path: "/v1/responses/compact", use: policy.Spend, traits: hasBody | hasModel | hasUsage},
	{name: "input-tokens", flag: "input-tokens", method: "POST", path: "/v1/responses/input_tokens", use: policy.Free, traits: hasBody | hasModel},
	{name: "models", flag: "models", method: "GET", path: "/v1/models", query: modelsQuery, use: policy.Free, shown: "GET /v1/models (no query but client_version)"},
	{name: "retrieve", flag: "retrieve", method: "GET", path: "/v1/responses/ID", query: retrieveQuery, use: policy.Free, traits: hasUsage, shown: getAndDelete},
	{name: "delete", flag: "retrieve", method: "DELETE", path: "/v1/responses/ID", use: policy.Free, traits: canEnd, shown: getAndDelete},
	{name: "cancel", flag: "retrieve", method: "POST", path: "/v1/responses/ID/cancel", use: policy.Free, traits: hasBody | hasUsage | canEnd},
	{name: "websocket", flag: "websocket", method: "GET", path: "/v1/responses", use: policy.Spend, traits: upgrades, shown: "GET /v1/responses as a WebSocket"},
	{name: "search", flag: "search", method: "POST", path: "/v1/alpha/search", use: policy.Spend, traits: hasBody | hasModel},
	{name: "messages", flag: "messages", method: "POST", path: "/v1/messages", query: messagesQuery, use: policy.Spend, traits: hasBody | hasModel | hasUsage},
	{name: "count-tokens", flag: "messages", method: "POST", path: "/v1/messages/count_tokens", query: messagesQuery, use: policy.Free, traits: hasBody | hasModel},
}

const getAndDelete = "GET and DELETE /v1/responses/ID"

// The parameters that may follow. What the SDKs call include[] may be written with brackets, which may be
// percent-encoded, or without; nothing else may be encoded.
var (
	modelsQuery   = parameters{once(`client_version=[0-9A-Za-z.+-]{1,64}`)} // Codex
	messagesQuery = parameters{once(`beta=true`)}                           // Claude Code
	retrieveQuery = parameters{
		once(`include_obfuscation=(true|false)`),
		once(`starting_after=[0-9]{1,18}`),
		once(`stream=(true|false)`),
		{whole(`include(\[\]|%5[Bb]%5[Dd])?=[0-9A-Za-z_.]{1,64}`), true}, // a path of names, such as message.input_image.image_url
	}
)

func (r *route) is(t traits) bool { return r.traits&t != 0 }

// api is what the upstream offers: clients call path, with a base URL whose path is base, and so on.
type api struct {
	path, base, name, example string
	usage                     *usage.API
}

var (
	responsesAPI = api{"/v1/responses", "/v1", "Responses API", "https://api.openai.com/v1/responses", usage.Responses}
	messagesAPI  = api{"/v1/messages", "", "Messages API", "https://api.anthropic.com/v1/messages", usage.Messages}
)

// Routes returns the names of all routes.
func Routes() (names []string) {
	for _, r := range routes {
		names = append(names, r.name)
	}
	return names
}

// CheckRoute returns what is wrong with one value of --allow-route.
func CheckRoute(name string) error { return CheckRoutes([]string{name}, nil) }

// CheckRoutes returns what is wrong with values of --allow-route, each alone and all together, and with the models of
// --allow-model.
func CheckRoutes(names, models []string) error {
	var flags []string
	for _, r := range routes {
		if r.flag != "" && !slices.Contains(flags, r.flag) {
			flags = append(flags, r.flag)
		}
	}
	for _, name := range names {
		if !slices.Contains(flags, name) {
			return fmt.Errorf("there is no such route; choose one of %s", strings.Join(flags, ", "))
		}
	}
	switch {
	case len(names) > 1 && slices.Contains(names, "messages"):
		return errors.New("--allow-route messages is for an upstream with another API, and excludes every other route; leave out one or the other")
	case len(models) > 0 && slices.Contains(names, "websocket"):
		return errors.New("--allow-model is not checked inside a WebSocket; leave out --allow-route websocket")
	}
	return nil
}

// routeSet is a set of routes, with the place of each at the upstream.
type routeSet struct {
	names  []string // of --allow-route
	api    *api
	parent []byte // what the upstream has in place of /v1
	query  []byte // of the upstream's path
}

// newRouteSet returns the set of the routes that cfg opens, the default one among them.
func newRouteSet(cfg *Config) (*routeSet, error) {
	if err := CheckRoutes(cfg.Routes, cfg.Models); err != nil {
		return nil, err
	}
	base, query, _ := strings.Cut(cfg.Path, "?")
	o := &routeSet{names: cfg.Routes, api: &responsesAPI, query: []byte(query)}
	switch {
	case slices.Contains(o.names, "messages"):
		o.api = &messagesAPI
	case len(o.names) == 0 && strings.HasSuffix(base, messagesAPI.path):
		return nil, errors.New("--upstream-url leads to /v1/messages, where POST /v1/responses makes no sense; add --allow-route messages")
	}
	suffix := strings.TrimPrefix(o.api.path, "/v1")
	parent, found := strings.CutSuffix(base, suffix)
	o.parent = []byte(parent)
	for _, r := range routes {
		switch {
		case !slices.Contains(o.names, r.flag):
		case !found:
			return nil, fmt.Errorf("--allow-route %s: the path of --upstream-url must end in %s, such as %s", r.flag, suffix, o.api.example)
		case r.query != nil && cfg.Room < maxBelow:
			return nil, fmt.Errorf("--allow-route %s: --upstream-url is too long: the ids and queries of this route would not fit", r.flag)
		}
	}
	return o, nil
}

// list returns the open routes, for messages.
func (o *routeSet) list() string {
	var shown []string
	for i := range routes {
		if r := &routes[i]; o.opens(r) && r.use != policy.Shutdown {
			shown = append(shown, cmp.Or(r.shown, r.method+" "+r.path))
		}
	}
	return strings.Join(slices.Compact(shown), ", ")
}

func (o *routeSet) opens(r *route) bool {
	if r.flag == "" {
		return o.api == &responsesAPI
	}
	return slices.Contains(o.names, r.flag)
}

var noRoute = &route{}

// find returns the route of h, with its target at the upstream and the response's id in h. One that is not open does
// not match, except the two that have refusals of their own.
func (o *routeSet) find(h *http1.Request) (r *route, target, id []byte) {
	r, id = routeOf(h)
	switch {
	case r.use == policy.Shutdown:
		return r, nil, nil
	case r == noRoute || !o.opens(r) && !(r.is(upgrades) && o.api == &responsesAPI):
		return noRoute, nil, nil
	}
	path, query, _ := bytes.Cut(h.Target, []byte("?"))
	return r, o.target(r, path, query), id
}

// routeOf returns the only route whose form h has, open or not, and the response's id in h.
func routeOf(h *http1.Request) (r *route, id []byte) {
	for i := range routes {
		if id, ok := routes[i].match(h); ok {
			return &routes[i], id
		}
	}
	return noRoute, nil
}

// match reports whether h has the route's form, and the response's id in it. It compares method and path byte by byte:
// no other spelling of the same path is the same route.
func (r *route) match(h *http1.Request) (id []byte, ok bool) {
	path, query, hasQuery := bytes.Cut(h.Target, []byte("?"))
	if string(h.Method) != r.method || hasQuery && !r.query.allow(query) || r.is(upgrades) && !asksForWebSocket(h) {
		return nil, false
	}
	before, after, named := strings.Cut(r.path, "ID")
	if !named {
		return nil, string(path) == r.path
	}
	id, below := bytes.CutPrefix(path, []byte(before))
	id, ended := bytes.CutSuffix(id, []byte(after))
	return id, below && ended && validID(id)
}

// target returns where a request goes: the upstream's own query comes before the client's.
func (o *routeSet) target(r *route, path, query []byte) []byte {
	if r.method == "POST" && r.path == o.api.path && len(query) == 0 {
		return nil
	}
	target, before := slices.Concat(o.parent, path[len("/v1"):]), byte('?')
	for _, q := range [][]byte{o.query, query} {
		if len(q) > 0 {
			target = append(append(target, before), q...)
			before = '&'
		}
	}
	return target
}

func asksForWebSocket(h *http1.Request) bool {
	return slices.ContainsFunc(h.Fields, func(f http1.Field) bool {
		return http1.Is(f.Name, "upgrade") && bytes.EqualFold(f.Value, []byte("websocket"))
	})
}

const (
	maxID    = 128 // of the bytes behind resp_
	maxQuery = 1024
	// maxBelow is how much longer than the upstream's path a target below it can be: slash, id, "/cancel" or query,
	// and what DELETE is longer than POST.
	maxBelow = len("/resp_") + maxID + 1 + maxQuery + len("DELETE") - len("POST")
)

var idForm = whole(fmt.Sprintf("resp_[0-9A-Za-z_-]{1,%d}", maxID))

// validID reports whether id has the form of a response's.
func validID(id []byte) bool { return idForm().Match(id) }

// form is a regular expression that is compiled when it is first needed: most services need none, and those of this
// package and dump together take 0.9 MB.
type form func() *regexp.Regexp

// whole returns the form of texts that pattern matches from their beginning to their end.
func whole(pattern string) form {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\A(` + pattern + `)\z`) })
}

// parameters are those that a query may have.
type parameters []parameter

type parameter struct {
	form    form // of its name, =, and its value
	repeats bool // it may stand there more than once
}

func once(pattern string) parameter { return parameter{form: whole(pattern)} }

func (p parameters) allow(query []byte) bool {
	if len(query) > maxQuery {
		return false
	}
	seen := map[int]bool{}
	for pair := range bytes.SplitSeq(query, []byte("&")) {
		i := slices.IndexFunc(p, func(one parameter) bool { return one.form().Match(pair) })
		if i < 0 || seen[i] && !p[i].repeats {
			return false
		}
		seen[i] = true
	}
	return true
}
