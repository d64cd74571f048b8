package relay

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/policy"
)

type routeID int

const (
	none routeID = iota
	responses
	shutdown
	websocketRoute
	compact
	inputTokens
	models
	retrieve
	cancel
	remove
	messages
)

var routeNames = [...]string{
	none: "", responses: "responses", shutdown: "shutdown", websocketRoute: "websocket", compact: "compact", inputTokens: "input-tokens",
	models: "models", retrieve: "retrieve", cancel: "cancel", remove: "delete", messages: "messages",
}

// String is the route's name in records; "" is no route.
func (id routeID) String() string { return routeNames[id] }

// Routes are the names of all routes.
func Routes() []string { return routeNames[responses:] }

// optional are the routes that an operator can open, by the name of
// --allow-route, and how they are written. The list is closed.
var optional = map[string]struct {
	id    routeID
	lines []string
}{
	"compact":      {compact, []string{"POST /v1/responses/compact"}},
	"input-tokens": {inputTokens, []string{"POST /v1/responses/input_tokens"}},
	"models":       {models, []string{"GET /v1/models (no query)"}},
	"retrieve":     {retrieve, []string{"GET and DELETE /v1/responses/ID", "POST /v1/responses/ID/cancel"}},
	"websocket":    {websocketRoute, []string{"GET /v1/responses as a WebSocket"}},
	"messages":     {messages, []string{"POST /v1/messages"}},
}

// optionalNames is their order in messages.
var optionalNames = []string{"compact", "input-tokens", "models", "retrieve", "websocket", "messages"}

// RouteSet is a set of routes, with the place of each at the upstream. Nil is
// the default: POST /v1/responses, and nothing else.
type RouteSet struct {
	open     [len(routeNames)]bool
	base     []byte // the upstream's path, without its query
	query    []byte // of the upstream's path, with its '?'; nil if it has none
	models   []byte // the target of GET /v1/models
	sentence string // what is open
}

// CheckRoute tells what is wrong with a name of --allow-route.
func CheckRoute(name string) error {
	if _, ok := optional[name]; !ok {
		return fmt.Errorf("there is no such route; choose one of %s", strings.Join(optionalNames, ", "))
	}
	return nil
}

// CheckRoutes tells what is wrong with names together.
func CheckRoutes(names []string) error {
	if len(names) > 1 && slices.Contains(names, "messages") {
		return errors.New("--allow-route messages is for an upstream with another API, and excludes every other route; leave out one or the other")
	}
	return nil
}

// NewRouteSet returns the set of the routes that names opens besides the default.
// path is the upstream's, as in upstream.Target; the routes stand beside or
// below it. room is how many bytes longer than path a target may be. The errors
// are the operator's.
func NewRouteSet(names []string, path string, room int) (*RouteSet, error) {
	if err := CheckRoutes(names); err != nil {
		return nil, err
	}
	base, query, hasQuery := strings.Cut(path, "?")
	o := &RouteSet{base: []byte(base)}
	if hasQuery {
		o.query = []byte("?" + query)
	}
	if len(names) == 0 && strings.HasSuffix(base, "/v1/messages") {
		return nil, errors.New("--upstream-url leads to /v1/messages, where POST /v1/responses makes no sense; add --allow-route messages")
	}
	for _, name := range names {
		if err := CheckRoute(name); err != nil {
			return nil, err
		}
		if err := o.allow(name, room); err != nil {
			return nil, fmt.Errorf("--allow-route %s: %w", name, err)
		}
	}
	o.open[responses] = !o.open[messages]
	o.sentence = o.describe()
	return o, nil
}

// allow opens one route if the upstream's path says where it is there.
func (o *RouteSet) allow(name string, room int) error {
	id := optional[name].id
	parent, below := bytes.CutSuffix(o.base, []byte("/responses"))
	switch {
	case id == messages && !bytes.HasSuffix(o.base, []byte("/messages")):
		return errors.New("the path of --upstream-url must end in /messages, such as https://api.anthropic.com/v1/messages")
	case id != messages && !below:
		return errors.New("the path of --upstream-url must end in /responses, or there is no telling where this route is")
	case id == retrieve && room < maxBelow:
		return errors.New("--upstream-url is too long: no response's id and query would fit")
	}
	o.models = slices.Concat(parent, []byte("/models"), o.query)
	o.open[id] = true
	if id == retrieve {
		o.open[cancel], o.open[remove] = true, true
	}
	return nil
}

// describe names what is open.
func (o *RouteSet) describe() string {
	var lines []string
	if o.open[responses] {
		lines = []string{"POST /v1/responses"}
	}
	for _, name := range optionalNames {
		if o.open[optional[name].id] {
			lines = append(lines, optional[name].lines...)
		}
	}
	if o.open[messages] {
		return "This proxy forwards exactly " + lines[0] + ". Set the client's base URL to http://HOST:PORT and use the Messages API."
	}
	return "This proxy forwards exactly " + strings.Join(lines, ", ") + ". Set the client's base URL to http://HOST:PORT/v1 and use the Responses API."
}

// routeMatch is where a request goes.
type routeMatch struct {
	id routeID
	// target is the upstream's; nil stands for the usual one.
	target []byte
	// response is the id that the target names, within target; nil if it names none.
	response []byte
}

// find compares method and target byte by byte: no other spelling of the same
// path is the same route. What is not open is no route, but for the two that
// have refusals of their own.
func (o *RouteSet) find(h *http1.Request) routeMatch {
	w := o.match(h)
	if w.id == shutdown || w.id == websocketRoute && o.open[responses] || o.open[w.id] {
		return w
	}
	return routeMatch{}
}

const (
	responsesPath = "/v1/responses"
	belowPath     = "/v1/responses/"
)

func (o *RouteSet) match(h *http1.Request) routeMatch {
	post, get := string(h.Method) == "POST", string(h.Method) == "GET"
	switch string(h.Target) {
	case responsesPath:
		switch {
		case post:
			return routeMatch{id: responses}
		case get && upgrades(h):
			return routeMatch{id: websocketRoute, target: slices.Concat(o.base, o.query)}
		}
		return routeMatch{}
	case "/shutdown":
		if get {
			return routeMatch{id: shutdown}
		}
		return routeMatch{}
	case "/v1/messages":
		if post {
			return routeMatch{id: messages}
		}
		return routeMatch{}
	case "/v1/models":
		if get {
			return routeMatch{id: models, target: o.models}
		}
		return routeMatch{}
	}
	if tail, ok := bytes.CutPrefix(h.Target, []byte(belowPath)); ok {
		return o.matchBelow(string(h.Method), tail)
	}
	return routeMatch{}
}

// matchBelow reads what follows /v1/responses/.
func (o *RouteSet) matchBelow(method string, tail []byte) routeMatch {
	switch {
	case method == "POST" && string(tail) == "compact":
		return routeMatch{id: compact, target: o.below(tail, nil)}
	case method == "POST" && string(tail) == "input_tokens":
		return routeMatch{id: inputTokens, target: o.below(tail, nil)}
	}
	rest, query, hasQuery := bytes.Cut(tail, []byte("?"))
	id, verb, hasVerb := bytes.Cut(rest, []byte("/"))
	if !validID(id) {
		return routeMatch{}
	}
	switch {
	case method == "GET" && !hasVerb && (!hasQuery || validQuery(query)):
		return o.matchID(retrieve, rest, query, len(id))
	case method == "DELETE" && !hasVerb && !hasQuery:
		return o.matchID(remove, rest, nil, len(id))
	case method == "POST" && string(verb) == "cancel" && !hasQuery:
		return o.matchID(cancel, rest, nil, len(id))
	}
	return routeMatch{}
}

// matchID is a route below the upstream's path whose rest begins with an id of n
// bytes. Nothing of it points into the request's head.
func (o *RouteSet) matchID(id routeID, rest, query []byte, n int) routeMatch {
	target, start := o.below(rest, query), len(o.base)+len("/")
	return routeMatch{id: id, target: target, response: target[start : start+n]}
}

// below is the target of what lies below the upstream's path: its own query
// comes first, the client's after it.
func (o *RouteSet) below(tail, query []byte) []byte {
	target := slices.Concat(o.base, []byte("/"), tail, o.query)
	switch {
	case len(query) == 0:
		return target
	case o.query == nil:
		target = append(target, '?')
	case len(o.query) > 1:
		target = append(target, '&')
	}
	return append(target, query...)
}

// method is how the upstream is asked. "" stands for the usual way.
func (w routeMatch) method() string {
	switch {
	case w.target == nil:
		return ""
	case w.id == models || w.id == retrieve || w.id == websocketRoute:
		return "GET"
	case w.id == remove:
		return "DELETE"
	default:
		return "POST"
	}
}

// use returns what the route's requests are for.
func (w routeMatch) use() policy.Use {
	switch w.id {
	case none:
		return policy.Nothing
	case shutdown:
		return policy.Shutdown
	case inputTokens, models, retrieve, cancel, remove:
		return policy.Free
	}
	return policy.Spend
}

// bodyless tells whether the route's requests have no body.
func (w routeMatch) bodyless() bool { return w.method() == "GET" || w.method() == "DELETE" }

func upgrades(h *http1.Request) bool {
	for _, f := range h.Fields {
		if http1.Is(f.Name, "upgrade") && bytes.EqualFold(f.Value, []byte("websocket")) {
			return true
		}
	}
	return false
}
