package relay

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/usage"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

const (
	plainPath = "/v1/responses"
	azurePath = "/openai/v1/responses?api-version=2025-04-01-preview"
	roomy     = 4096
)

func open(t testing.TB, path string, names ...string) *routeSet {
	t.Helper()
	o, err := newRouteSet(&Config{Routes: names, Path: path, Room: roomy})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// id128 is the longest id.
var id128 = "resp_" + strings.Repeat("a", 128)

// targets is what a set of routes makes of request lines: "name METHOD target" as
// the upstream sees it, or "" where the line is refused. A name alone means the
// upstream's own path.
type targets map[string]string

func (p targets) check(t *testing.T, o *routeSet, fields ...string) {
	t.Helper()
	for line, want := range p {
		r, target, _ := o.find(head(t, line, fields...))
		got := r.name
		if target != nil {
			got += " " + r.method + " " + string(target)
		}
		if got != want {
			t.Errorf("%s is %q, want %q", line, got, want)
		}
	}
}

func TestDefaultRoutes(t *testing.T) {
	o := open(t, plainPath)
	targets{
		"POST /v1/responses": "responses",
		"GET /shutdown":      "shutdown",

		"GET /v1/responses":                "",
		"POST /shutdown":                   "",
		"POST /v1/responses?":              "",
		"POST /v1/responses/":              "",
		"POST /v1/Responses":               "",
		"POST /v1%2fresponses":             "",
		"post /v1/responses":               "",
		"PUT /v1/responses":                "",
		"GET /shutdown?":                   "",
		"POST *":                           "",
		"POST /v1/responses/compact":       "",
		"POST /v1/responses/input_tokens":  "",
		"GET /v1/models":                   "",
		"GET /v1/responses/resp_1":         "",
		"DELETE /v1/responses/resp_1":      "",
		"POST /v1/responses/resp_1/cancel": "",
		"POST /v1/messages":                "",
	}.check(t, o)
	// The upgrade is a route of its own, to be refused with 426.
	targets{"GET /v1/responses": "websocket GET /v1/responses", "POST /v1/responses": "responses", "GET /v1/models": ""}.check(t, o, "Upgrade: WebSocket")
	targets{"GET /v1/responses": ""}.check(t, o, "Upgrade: h2c", "X-Upgrade: websocket")
}

// TestEachRouteOpensItselfAlone checks that no route's name opens another route.
func TestEachRouteOpensItselfAlone(t *testing.T) {
	lines := map[string][]string{
		"compact":      {"POST /v1/responses/compact"},
		"input-tokens": {"POST /v1/responses/input_tokens"},
		"models":       {"GET /v1/models"},
		"retrieve":     {"GET /v1/responses/resp_1", "DELETE /v1/responses/resp_1", "POST /v1/responses/resp_1/cancel"},
		"search":       {"POST /v1/alpha/search"},
		"messages":     {"POST /v1/messages", "POST /v1/messages/count_tokens"},
	}
	for name := range lines {
		path := plainPath
		if name == "messages" {
			path = "/v1/messages"
		}
		o := open(t, path, name)
		for other, all := range lines {
			for _, line := range all {
				if r, _, _ := o.find(head(t, line)); (r != noRoute) != (name == other) {
					t.Errorf("--allow-route %s: %s is open: %t", name, line, r != noRoute)
				}
			}
		}
		if r, _, _ := o.find(head(t, "POST /v1/responses")); (r.name == "responses") != (name != "messages") {
			t.Errorf("--allow-route %s: POST /v1/responses is open: %t", name, r.name == "responses")
		}
	}
}

func TestFixedRoutes(t *testing.T) {
	names := []string{"compact", "input-tokens", "models", "search"}
	targets{
		"POST /v1/responses":              "responses",
		"POST /v1/responses/compact":      "compact POST /v1/responses/compact",
		"POST /v1/responses/input_tokens": "input-tokens POST /v1/responses/input_tokens",
		"GET /v1/models":                  "models GET /v1/models",
		"POST /v1/alpha/search":           "search POST /v1/alpha/search",

		"GET /v1/responses/compact":         "",
		"POST /v1/responses/compact?":       "",
		"POST /v1/responses/compact?a=b":    "",
		"POST /v1/responses/compact/":       "",
		"POST /v1/responses/Compact":        "",
		"POST /v1/responses/c%6fmpact":      "",
		"POST /v1/responses//compact":       "",
		"POST /v1/responses/./compact":      "",
		"POST /v1/responses/input-tokens":   "",
		"POST /v1/responses/input_tokens/x": "",
		"POST /v1/models":                   "",
		"GET /v1/models/":                   "",
		"GET /v1/models?":                   "",
		"GET /v1/models/gpt-5":              "",
		"GET /models":                       "",
		"HEAD /v1/models":                   "",
		"DELETE /v1/models":                 "",
		"GET /v1/alpha/search":              "",
		"POST /v1/alpha/search?":            "",
		"POST /v1/alpha/search?q=x":         "",
		"POST /v1/alpha/search/":            "",
		"POST /v1/alpha/search/x":           "",
		"POST /v1/alpha/Search":             "",
		"POST /v1/alpha//search":            "",
		"POST /v1/alpha/../alpha/search":    "",
		"POST /v1/alpha%2fsearch":           "",
		"POST /v1/alpha":                    "",
		"POST /v1/search":                   "",
		"POST /alpha/search":                "",
		"POST /v1/responses/alpha/search":   "",
		"POST /v1/alpha/searches":           "",
	}.check(t, open(t, plainPath, names...))
	targets{
		"POST /v1/responses":              "responses",
		"POST /v1/responses/compact":      "compact POST /openai/v1/responses/compact?api-version=2025-04-01-preview",
		"POST /v1/responses/input_tokens": "input-tokens POST /openai/v1/responses/input_tokens?api-version=2025-04-01-preview",
		"GET /v1/models":                  "models GET /openai/v1/models?api-version=2025-04-01-preview",
		"GET /v1/models?client_version=1": "models GET /openai/v1/models?api-version=2025-04-01-preview&client_version=1",
		"POST /v1/alpha/search":           "search POST /openai/v1/alpha/search?api-version=2025-04-01-preview",
	}.check(t, open(t, azurePath, names...))
}

func TestRetrieveRoutes(t *testing.T) {
	const base = "/v1/responses/resp_0aZ-_9"
	p := targets{
		"GET " + base:                      "retrieve GET " + base,
		"DELETE " + base:                   "delete DELETE " + base,
		"POST " + base + "/cancel":         "cancel POST " + base + "/cancel",
		"GET /v1/responses/" + id128:       "retrieve GET /v1/responses/" + id128,
		"GET /v1/responses/" + id128 + "a": "",
		"GET resp_a":                       "",
		"DELETE resp_a":                    "",
		"GET " + base + "?" + strings.Repeat("include=abcdefg&", 63) + "include=abcdefgh":  "retrieve GET " + base + "?" + strings.Repeat("include=abcdefg&", 63) + "include=abcdefgh",
		"GET " + base + "?" + strings.Repeat("include=abcdefg&", 63) + "include=abcdefghi": "",
		"GET /v1/responses/resp_":                                                 "",
		"GET /v1/responses/":                                                      "",
		"GET /v1/responses/msg_1":                                                 "",
		"GET /v1/responses/Resp_1":                                                "",
		"GET /v1/responses/resp_a.b":                                              "",
		"GET /v1/responses/resp_..":                                               "",
		"GET /v1/responses/resp_%61":                                              "",
		"GET /v1/responses/resp_a/":                                               "",
		"GET /v1/responses/resp_a/input_items":                                    "",
		"GET /v1/responses/resp_a/cancel":                                         "",
		"GET /v1/responses//resp_a":                                               "",
		"HEAD /v1/responses/resp_a":                                               "",
		"POST /v1/responses/resp_a":                                               "",
		"PUT /v1/responses/resp_a":                                                "",
		"POST /v1/responses/resp_a/cancel/":                                       "",
		"POST /v1/responses/resp_a/cancel?":                                       "",
		"POST /v1/responses/resp_a/cancel?stream=true":                            "",
		"POST /v1/responses/resp_a/Cancel":                                        "",
		"DELETE /v1/responses/resp_a/cancel":                                      "",
		"DELETE /v1/responses/resp_a?":                                            "",
		"DELETE /v1/responses/resp_a?stream=true":                                 "",
		"GET " + base + "#f":                                                      "",
		"GET /v1/responses/resp_a/../resp_b":                                      "",
		"GET http://127.0.0.1/v1/responses/resp_a":                                "",
		"GET " + base + "?stream=true":                                            "retrieve GET " + base + "?stream=true",
		"GET " + base + "?starting_after=12&stream=true":                          "retrieve GET " + base + "?starting_after=12&stream=true",
		"GET " + base + "?include%5B%5D=a.b_c&include%5b%5d=d":                    "retrieve GET " + base + "?include%5B%5D=a.b_c&include%5b%5d=d",
		"GET " + base + "?include[]=a&include=b":                                  "retrieve GET " + base + "?include[]=a&include=b",
		"GET " + base + "?include_obfuscation=false":                              "retrieve GET " + base + "?include_obfuscation=false",
		"GET " + base + "?":                                                       "",
		"GET " + base + "?stream":                                                 "",
		"GET " + base + "?stream=":                                                "",
		"GET " + base + "?stream=1":                                               "",
		"GET " + base + "?stream=True":                                            "",
		"GET " + base + "?stream=true&":                                           "",
		"GET " + base + "?&stream=true":                                           "",
		"GET " + base + "?stream=true&stream=true":                                "",
		"GET " + base + "?stream=true;x=1":                                        "",
		"GET " + base + "?Stream=true":                                            "",
		"GET " + base + "?str%65am=true":                                          "",
		"GET " + base + "?starting_after=-1":                                      "",
		"GET " + base + "?starting_after=":                                        "",
		"GET " + base + "?starting_after=1e3":                                     "",
		"GET " + base + "?starting_after=1234567890123456789":                     "",
		"GET " + base + "?include=":                                               "",
		"GET " + base + "?include=a%26b":                                          "",
		"GET " + base + "?include=a/b":                                            "",
		"GET " + base + "?include[0]=a":                                           "",
		"GET " + base + "?include=" + strings.Repeat("a", 65):                     "",
		"GET " + base + "?api-version=x":                                          "",
		"GET " + base + "?" + strings.Repeat("include=abcdef&", 80) + "include=a": "",
	}
	p.check(t, open(t, plainPath, "retrieve"))
	targets{
		"GET " + base:                  "retrieve GET /openai" + base + "?api-version=2025-04-01-preview",
		"GET " + base + "?stream=true": "retrieve GET /openai" + base + "?api-version=2025-04-01-preview&stream=true",
		"POST " + base + "/cancel":     "cancel POST /openai" + base + "/cancel?api-version=2025-04-01-preview",
		"DELETE " + base:               "delete DELETE /openai" + base + "?api-version=2025-04-01-preview",
	}.check(t, open(t, azurePath, "retrieve"))
	targets{"GET " + base + "?stream=true": "retrieve GET " + base + "?stream=true"}.check(t, open(t, plainPath+"?", "retrieve"))
}

func TestModelsQuery(t *testing.T) {
	version := strings.Repeat("9", 64)
	targets{
		"GET /v1/models?client_version=0.169.0":                "models GET /v1/models?client_version=0.169.0",
		"GET /v1/models?client_version=1.0-alpha.2+b":          "models GET /v1/models?client_version=1.0-alpha.2+b",
		"GET /v1/models?client_version=" + version:             "models GET /v1/models?client_version=" + version,
		"GET /v1/models?client_version=" + version + "9":       "",
		"GET /v1/models?client_version=":                       "",
		"GET /v1/models?client_version":                        "",
		"GET /v1/models?client_version=0.1&":                   "",
		"GET /v1/models?&client_version=0.1":                   "",
		"GET /v1/models?client_version=0.1&client_version=0.1": "",
		"GET /v1/models?client_version=0.1&limit=1":            "",
		"GET /v1/models?client_version=0.1;limit=1":            "",
		"GET /v1/models?client_version=0%2e1":                  "",
		"GET /v1/models?client_version=0.1/..":                 "",
		"GET /v1/models?client_version=0_1":                    "",
		"GET /v1/models?client_version=0.1?":                   "",
		"GET /v1/models?client_version[]=0.1":                  "",
		"GET /v1/models?Client_version=0.1":                    "",
		"GET /v1/models?client-version=0.1":                    "",
		"GET /v1/models?limit=1":                               "",
		"GET /v1/models/?client_version=0.1":                   "",
		"GET /v1/models/gpt-5?client_version=0.1":              "",
		"POST /v1/models?client_version=0.1":                   "",
		"POST /v1/responses?client_version=0.1":                "",
		"POST /v1/responses/compact?client_version=0.1":        "",
		"POST /v1/alpha/search?client_version=0.1":             "",
		"GET http://127.0.0.1:1/v1/models?client_version=0.1":  "",
	}.check(t, open(t, plainPath, "compact", "models", "search"))
}

func TestMessagesRoute(t *testing.T) {
	o := open(t, "/v1/messages", "messages")
	p := targets{
		"POST /v1/messages":                        "messages",
		"POST /v1/messages?beta=true":              "messages POST /v1/messages?beta=true",
		"POST /v1/messages/count_tokens":           "count-tokens POST /v1/messages/count_tokens",
		"POST /v1/messages/count_tokens?beta=true": "count-tokens POST /v1/messages/count_tokens?beta=true",
		"GET /shutdown":                            "shutdown",

		"POST /v1/responses":                  "",
		"GET /v1/messages":                    "",
		"GET /v1/messages?beta=true":          "",
		"POST /v1/messages/":                  "",
		"POST /v1/messages/?beta=true":        "",
		"POST /v1/messages/batches":           "",
		"POST /v1/messages/batches?beta=true": "",
		"POST /v1/messages/count_tokens/":     "",
		"POST /v1/messages/count-tokens":      "",
		"POST /v1/messages/Count_tokens":      "",
		"POST /v1/messages//count_tokens":     "",
		"POST /v1/messages/x/../count_tokens": "",
		"POST /v1/messages%2fcount_tokens":    "",
		"POST /v1/count_tokens":               "",
		"GET /v1/messages/count_tokens":       "",
		"GET /v1/models":                      "",
		"POST /v1/alpha/search":               "",
		"HEAD /":                              "",
		"GET /":                               "",
		"HEAD /v1/messages":                   "",
		"POST /shutdown?beta=true":            "",
		"GET /shutdown?beta=true":             "",
		"POST /messages?beta=true":            "",
	}
	for _, query := range []string{
		"", "beta", "beta=", "beta=false", "beta=1", "beta=True", "beta=TRUE", "Beta=true", "beta=true&", "&beta=true", "beta=true&beta=true",
		"beta=true&x=1", "x=1&beta=true", "beta=true;x=1", "beta=true?", "beta=true%20", "beta=tru%65", "b%65ta=true", "beta[]=true",
		"beta==true", "beta=true=", "?beta=true", "api-version=1",
	} {
		p["POST /v1/messages?"+query] = ""
		p["POST /v1/messages/count_tokens?"+query] = ""
	}
	p.check(t, o)
	targets{"GET /v1/responses": ""}.check(t, o, "Upgrade: websocket")
	targets{
		"POST /v1/messages":                        "messages",
		"POST /v1/messages?beta=true":              "messages POST /anthropic/messages?v=1&beta=true",
		"POST /v1/messages/count_tokens":           "count-tokens POST /anthropic/messages/count_tokens?v=1",
		"POST /v1/messages/count_tokens?beta=true": "count-tokens POST /anthropic/messages/count_tokens?v=1&beta=true",
	}.check(t, open(t, "/anthropic/messages?v=1", "messages"))
}

func TestRoutesThatCannotBeOpened(t *testing.T) {
	for _, c := range []struct {
		names, path, want string
		room              int
	}{
		{"chat", plainPath, "choose one of", roomy},
		{"", plainPath, "choose one of", roomy},
		{"Compact", plainPath, "choose one of", roomy},
		{"messages compact", "/v1/messages", "excludes", roomy},
		{"messages", plainPath, "must end in /messages", roomy},
		{"messages", "/v1/messages/", "must end in /messages", roomy},
		{"compact", "/v1/messages", "must end in /responses", roomy},
		{"models", "/v1/responses/", "must end in /responses", roomy},
		{"models", "/v1/xresponses", "must end in /responses", roomy},
		{"input-tokens", "/", "must end in /responses", roomy},
		{"websocket", "/x", "must end in /responses", roomy},
		{"retrieve", "/x?y=/responses", "must end in /responses", roomy},
		{"retrieve", plainPath, "too long", maxBelow - 1},
		{"models", plainPath, "too long", maxBelow - 1},
		{"messages", "/v1/messages", "too long", maxBelow - 1},
		{"messages search", "/v1/messages", "excludes", roomy},
		{"search", "/x", "must end in /responses", roomy},
	} {
		o, err := newRouteSet(&Config{Routes: strings.Split(c.names, " "), Path: c.path, Room: c.room})
		if err == nil || o != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q with %s: %v, want an error with %q", c.names, c.path, err, c.want)
		}
	}
	for names, room := range map[string]int{"retrieve": maxBelow, "compact": 0} {
		if _, err := newRouteSet(&Config{Routes: []string{names}, Path: plainPath, Room: room}); err != nil {
			t.Errorf("%s with room for %d bytes: %v", names, room, err)
		}
	}
	if _, err := newRouteSet(&Config{Path: "/any/path"}); err != nil {
		t.Errorf("the default needs no certain path: %v", err)
	}
	if _, err := newRouteSet(&Config{Path: "/v1/messages"}); err == nil || !strings.Contains(err.Error(), "add --allow-route messages") {
		t.Errorf("responses would go to /v1/messages: %v", err)
	}
}

// TestRefusalNamesWhatIsOpen checks the message for people who have set the wrong base URL.
func TestRefusalNamesWhatIsOpen(t *testing.T) {
	for _, c := range []struct{ names, path, want string }{
		{"", plainPath, "This proxy forwards exactly POST /v1/responses. Set the client's base URL to http://HOST:PORT/v1 and use the Responses API."},
		{"models compact", plainPath, "exactly POST /v1/responses, POST /v1/responses/compact, GET /v1/models (no query but client_version). Set"},
		{"retrieve websocket", plainPath, "GET and DELETE /v1/responses/ID, POST /v1/responses/ID/cancel, GET /v1/responses as a WebSocket."},
		{"messages", "/v1/messages", "exactly POST /v1/messages, POST /v1/messages/count_tokens. Set the client's base URL to http://HOST:PORT and"},
	} {
		a := &answer{}
		p, err := New(Config{Upstream: unreached{}, Routes: strings.Fields(c.names), Path: c.path, Room: roomy})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Refuse(&Request{}, a, p.routeNotAllowed(&http1.Request{})); err != nil || !strings.Contains(string(a.body), c.want) {
			t.Errorf("%q: %s", c.names, a.body)
		}
	}
}

// TestRefusalNamesFlagAndAddress checks that a route that a flag opens is refused with the flag's name, to client and
// operator.
func TestRefusalNamesFlagAndAddress(t *testing.T) {
	for _, c := range []struct{ opened, path, method, target, hint string }{
		{"", plainPath, "GET", "/v1/models", "--allow-route models allows it"},
		{"", plainPath, "POST", "/v1/responses/compact", "--allow-route compact allows it"},
		{"", plainPath, "DELETE", "/v1/responses/resp_1", "--allow-route retrieve allows it"},
		{"models", plainPath, "POST", "/v1/messages", "--allow-route messages allows it"},
		{"", plainPath, "GET", "/shutdown", "--http-shutdown allows it"},
		{"", plainPath, "GET", "/v1/models?x", "the client's base URL must be http://127.0.0.1:8080/v1"},
		{"", plainPath, "POST", "/v1/chat/completions", "the client's base URL must be http://127.0.0.1:8080/v1"},
		{"", plainPath, "POST", "/v1/responses?x", "the client's base URL must be http://127.0.0.1:8080/v1"},
		{"messages", "/v1/messages", "GET", "/v1/models", "the client's base URL must be http://127.0.0.1:8080"},
	} {
		p, err := New(Config{Upstream: unreached{}, Routes: strings.Fields(c.opened), Path: c.path, Room: roomy, Address: "127.0.0.1:8080"})
		if err != nil {
			t.Fatal(err)
		}
		e := p.routeNotAllowed(&http1.Request{Method: []byte(c.method), Target: []byte(c.target)})
		flag, named := strings.CutSuffix(c.hint, " allows it")
		if e.Hint != c.hint || named != strings.Contains(e.Message, " with "+flag+".") || !strings.Contains(e.Message, "http://127.0.0.1:8080") {
			t.Errorf("%s %s: %q, %q", c.method, c.target, e.Hint, e.Message)
		}
	}
}

func TestEveryRouteHasAName(t *testing.T) {
	flags := map[string]string{}
	for _, r := range routes {
		flags[r.name] = r.flag
	}
	for _, r := range routes {
		if r.flag == "" {
			continue
		}
		if flags[r.flag] != r.flag || CheckRoute(r.flag) != nil {
			t.Errorf("%s is called otherwise, or cannot be opened", r.flag)
		}
		if err := CheckRoute("?"); err == nil || !strings.Contains(err.Error(), r.flag) {
			t.Errorf("%s is missing in %v", r.flag, err)
		}
	}
	for i, name := range Routes() {
		if name == "" || slices.Index(Routes(), name) != i {
			t.Errorf("route %d has the name %q", i, name)
		}
	}
}

// grammar describes the targets that match accepts, as regular expressions.
var grammar = func() map[string]*regexp.Regexp {
	const id = `resp_[A-Za-z0-9_-]{1,128}`
	const param = `(include(\[\]|%5[Bb]%5[Dd])?=[A-Za-z0-9_.]{1,64}|(stream|include_obfuscation)=(true|false)|starting_after=[0-9]{1,18})`
	rules := map[string]string{
		"responses": `POST /v1/responses`, "shutdown": `GET /shutdown`, "websocket": `GET /v1/responses`, "compact": `POST /v1/responses/compact`,
		"input-tokens": `POST /v1/responses/input_tokens`, "search": `POST /v1/alpha/search`, "models": `GET /v1/models(\?client_version=[0-9A-Za-z.+-]{1,64})?`, "retrieve": `GET /v1/responses/` + id + `(\?` + param + `(&` + param + `)*)?`,
		"cancel": `POST /v1/responses/` + id + `/cancel`, "delete": `DELETE /v1/responses/` + id,
		"messages": `POST /v1/messages(\?beta=true)?`, "count-tokens": `POST /v1/messages/count_tokens(\?beta=true)?`,
	}
	compiled := map[string]*regexp.Regexp{}
	for r, text := range rules {
		compiled[r] = regexp.MustCompile(`\A` + text + `\z`)
	}
	return compiled
}()

var onceOnly = regexp.MustCompile(`[?&](stream|include_obfuscation|starting_after)=`)

// onceEach reports whether no parameter but include is repeated.
func onceEach(target string) bool {
	seen := map[string]bool{}
	for _, m := range onceOnly.FindAllStringSubmatch(target, -1) {
		if seen[m[1]] {
			return false
		}
		seen[m[1]] = true
	}
	return len(target) < 1024
}

// FuzzRoutes checks that a line is a route exactly if it matches the grammar, and that the upstream target is at or
// below the upstream's path, has its query, adds nothing to the client's, and fits the size that Open was promised.
func FuzzRoutes(f *testing.F) {
	for _, target := range []string{
		"/v1/alpha/search", "/v1/models?client_version=0.169.0", "/v1/messages?beta=true", "/v1/messages/count_tokens", "/v1/messages/count_tokens?beta=true",
		"/v1/responses", "/shutdown", "/v1/responses/compact", "/v1/responses/input_tokens", "/v1/models", "/v1/messages", "/v1/responses/resp_1",
		"/v1/responses/resp_1/cancel", "/v1/responses/resp_1?stream=true&starting_after=3&include%5B%5D=a.b&include_obfuscation=false",
		"/v1/responses/resp_1?include%5b%5D=a", "/v1/responses/resp_1?stream=true&stream=true", "/v1/responses/resp_1%2f..", "/v1/responses/" + id128, "/v1/responses/resp_1?a=b",
	} {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			f.Add(method, target, true)
		}
	}
	f.Fuzz(func(t *testing.T, method, target string, azure bool) {
		line := method + " " + target
		var r http1.Request
		if strings.ContainsAny(line, "\r\n") || r.Parse([]byte(line+" HTTP/1.1\r\nHost: h\r\n\r\n")) != nil {
			return
		}
		path, other := plainPath, "/v1/messages"
		if azure {
			path, other = azurePath, "/anthropic/messages?api-version=1"
		}
		checkRoutes(t, &r, path, open(t, path, "compact", "input-tokens", "models", "retrieve", "search", "websocket"))
		checkRoutes(t, &r, other, open(t, other, "messages"))
	})
}

func checkRoutes(t *testing.T, r *http1.Request, path string, o *routeSet) {
	line, target := string(r.Method)+" "+string(r.Target), string(r.Target)
	found, upstream, named := o.find(r)
	for id, rule := range grammar {
		ofMessages := id == "messages" || id == "count-tokens"
		if id == "websocket" || id != "shutdown" && ofMessages != (o.api == &messagesAPI) {
			continue // a field decides; another API
		}
		is := rule.MatchString(line) && (id != "retrieve" || onceEach(target))
		if is != (found.name == id) && len(target) < 900 {
			t.Fatalf("%q is %q; the grammar says %s: %t", line, found.name, id, is)
		}
	}
	if upstream != nil {
		checkTarget(t, path, target, found.method, upstream, named)
	}
}

func checkTarget(t *testing.T, path, local, method string, target, id []byte) {
	base, query, _ := strings.Cut(path, "?")
	got, gotQuery, _ := strings.Cut(string(target), "?")
	localPath, localQuery, _ := strings.Cut(local, "?")
	parent := base[:strings.LastIndexByte(base, '/')]
	switch {
	case got != parent+strings.TrimPrefix(localPath, "/v1"):
		t.Fatalf("%q goes to %q", local, target)
	case gotQuery != strings.Trim(query+"&"+localQuery, "&"):
		t.Fatalf("%q goes to %q, with another query", local, target)
	case len(method)+len(target) > len("POST")+len(path)+maxBelow:
		t.Fatalf("%q is longer than Open promised", target)
	case bytes.ContainsAny(target, " \r\n#"):
		t.Fatalf("%q is no target", target)
	case id != nil && !bytes.Contains(target, id):
		t.Fatalf("%q is asked for in %q", id, target)
	}
}

// FuzzQuery checks that a query that passes has only the documented parameters, and reads the same however a server
// splits it.
func FuzzQuery(f *testing.F) {
	for _, q := range []string{"stream=true", "include=a&include[]=b&include%5B%5D=c", "starting_after=0", "include_obfuscation=false&stream=false", "", "&", "=", "stream=true&stream=false", "stream=true;a=b"} {
		f.Add(q)
	}
	all := regexp.MustCompile(`\A(include(\[\]|%5[Bb]%5[Dd])?=[A-Za-z0-9_.]{1,64}|(stream|include_obfuscation)=(true|false)|starting_after=[0-9]{1,18})(&|\z)`)
	f.Fuzz(func(t *testing.T, query string) {
		if !retrieveQuery.allow([]byte(query)) {
			return
		}
		if len(query) > maxQuery || strings.HasSuffix(query, "&") || !onceEach("?"+query) {
			t.Fatalf("%q passes", query)
		}
		for rest := query; rest != ""; {
			m := all.FindString(rest)
			if m == "" {
				t.Fatalf("%q passes", query)
			}
			rest = rest[len(m):]
		}
	})
}

// FuzzID holds an id's form to another description of it.
func FuzzID(f *testing.F) {
	for _, id := range []string{"resp_1", "resp_", "resp_-_Az", "msg_1", "resp_/", id128, id128 + "1", "resp_\x00"} {
		f.Add(id)
	}
	form := regexp.MustCompile(`\Aresp_[A-Za-z0-9_-]{1,128}\z`)
	f.Fuzz(func(t *testing.T, id string) {
		if got, want := validID([]byte(id)), form.MatchString(id); got != want {
			t.Fatalf("%q: %t, want %t", id, got, want)
		}
	})
}

func key(n int) responseKey { return keyOfResponse(fmt.Appendf(nil, "resp_%d", n)) }

func TestOwners(t *testing.T) {
	o := newOwners(3)
	allow := func(n int, uid uint32) {
		t.Helper()
		if o.find(key(n), uid) == nil {
			t.Errorf("uid %d does not own %d", uid, n)
		}
	}
	deny := func(n int, uid uint32) {
		t.Helper()
		if o.find(key(n), uid) != nil {
			t.Errorf("uid %d owns %d", uid, n)
		}
	}
	deny(1, 0)
	o.add(key(1), 1000)
	allow(1, 1000)
	deny(1, 0) // root too: users share the key, not their responses
	deny(1, 1001)
	o.add(key(1), 1001) // the second owner is ignored
	deny(1, 1001)
	allow(1, 1000)
	o.forget(key(1))
	deny(1, 1000)

	for n := range 4 {
		o.add(key(10+n), 7)
	}
	deny(10, 7) // the oldest of four
	for n := 1; n < 4; n++ {
		allow(10+n, 7)
	}
	if len(o.all) > 3 || len(o.order) != 3 {
		t.Errorf("%d responses are known, %d in the order", len(o.all), len(o.order))
	}
}

// TestForgottenResponsesLeaveNoTrace checks that a response that is made anew is not dropped in place of its former
// entry.
func TestForgottenResponsesLeaveNoTrace(t *testing.T) {
	o := newOwners(2)
	o.add(key(1), 1)
	o.forget(key(1))
	o.add(key(1), 1)
	o.add(key(2), 1) // takes the place of the forgotten one
	if o.find(key(1), 1) == nil || o.find(key(2), 1) == nil {
		t.Error("a response was dropped with the one that it follows")
	}
}

// TestIDInPieces checks that an ID is recorded when all of it has come, and only if it has the form of a response's.
func TestIDInPieces(t *testing.T) {
	everyone, err := policy.New(policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	lease, _ := everyone.Connect(nil).Admit(head(t, "POST /v1/responses"), policy.Spend)
	for id, want := range map[string]int{"resp_1": 1, "msg_1": 0, "resp_1/cancel": 0} {
		x := &exchange{lease: lease, route: &routes[0], relay: &Relay{owners: newOwners(9)}, meter: usage.New(usage.Responses, []byte("application/json"), nil)}
		for _, b := range []byte(`{"id":"` + id + `","object":"response"}`) {
			x.observePiece([]byte{b})
		}
		if o := x.relay.owners; len(o.all) != want || (o.find(keyOfResponse([]byte(id)), lease.Caller().UID) != nil) != (want == 1) {
			t.Errorf("%s: %d responses are known, want %d", id, len(o.all), want)
		}
	}
}

// TestFetchedIsRecordedOnce checks that the cost of a response that is first reported when it is fetched is charged and
// recorded with the first such exchange only, and its model with each.
func TestFetchedIsRecordedOnce(t *testing.T) {
	everyone, err := policy.New(policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	lease, _ := everyone.Connect(nil).Admit(head(t, "GET /v1/responses/resp_1"), policy.Free)
	fetched := newOwners(1).add(key(1), 0)
	for _, want := range []int64{3, 0} {
		x := &exchange{Request: &Request{}, lease: lease, route: &route{use: policy.Free}, owned: fetched, meter: usage.New(usage.Responses, []byte("application/json"), nil)}
		x.observePiece([]byte(`{"id":"resp_1","object":"response","status":"completed","model":"m","usage":{"input_tokens":1,"output_tokens":2,"total_tokens":3}}`))
		e := &x.Entry
		if got := x.cost(); got != want || e.InputTokens+e.OutputTokens != want || e.Tokens != (want > 0) || e.Model != "m" {
			t.Errorf("%d tokens are charged, want %d; the record is %+v", got, want, e)
		}
	}
}

// TestResponseCost checks that a stream that reports no cost is charged the estimate of request and response by bytes,
// and one that reports it that.
func TestResponseCost(t *testing.T) {
	everyone, err := policy.New(policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	lease, _ := everyone.Connect(nil).Admit(head(t, "POST /v1/responses"), policy.Spend)
	const reported = `data: {"type":"response.completed","response":{"usage":{"input_tokens":1,"output_tokens":2,"total_tokens":3}}}` + "\n\n"
	filler := strings.Repeat("data: {}\n\n", 100)
	for text, want := range map[string]int64{filler: usage.Estimate(int64(len(filler))) + usage.Estimate(1<<20), reported: 3} {
		x := &exchange{Request: &Request{}, lease: lease, route: &routes[0], whole: true, meter: usage.New(usage.Responses, []byte("text/event-stream"), nil)}
		x.received.Store(1 << 20)
		x.meter.Write([]byte(text))
		if got, exact := x.responseCost(); got != want || exact != (text == reported) {
			t.Errorf("%.20q: %d tokens, exact %t; want %d", text, got, exact, want)
		}
	}
}

func TestChargeLate(t *testing.T) {
	o := newOwners(9)
	for i, c := range []struct {
		tokens      int64
		final       bool
		more        int64
		first       bool
		description string
	}{
		{30, false, 30, true, "estimated when it was made"},
		{10, false, 0, true, "never less"},
		{100, true, 70, true, "what it cost in the end"},
		{100, true, 0, false, "fetched again"},
		{900, true, 0, false, "whatever it says then"},
	} {
		if more, first := o.add(key(1), 1).charge(c.tokens, c.final, time.Time{}); more != c.more || first != c.first {
			t.Errorf("%d, %s: %d, %t", i, c.description, more, first)
		}
	}
	if more, first := o.find(key(2), 1).charge(5, true, time.Time{}); more != 0 || first {
		t.Error("a response that nobody has made is charged for")
	}
	made := o.add(key(3), 1)
	made.charge(100, false, time.Time{})
	if more, first := made.charge(10, true, time.Now().Add(time.Hour)); more != 0 || !first {
		t.Errorf("%d of what was charged in an earlier period is given back", -more)
	}
}
