package attack

import (
	"cmp"
	"fmt"
	"net"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

const groupNetwork = "Requests that must not pass (their body is no JSON and costs nothing)"

// noJSON is the body of every attack: the upstream refuses it before it costs anything.
const noJSON = "{"

// An attack is a list of requests of which the proxy may forward none.
type attack struct {
	name, proves string
	requests     []string
	browser      bool   // sent by browsers only: not applicable to a unix socket
	framing      bool   // its end is ambiguous: it may contain a second request
	mustAnswer   bool   // a connection without a response fails
	route        string // the name of the route, if it may be open
}

// networkAttempts are the requests that a local program, or a web page, may send.
func networkAttempts(t *target) []attempt {
	list := []attempt{{groupNetwork, "this user calls", "only real routes are forwarded", t.ask}}
	list = append(list, attempt{groupNetwork, "another user calls", "only real routes are forwarded", func() (result, string) { return askAsAnother(t) }})
	list = append(list, attempt{groupNetwork, "from the network", "only this host can connect", t.fromOutside})
	for _, a := range t.attacks() {
		if a.browser && !t.tcp() {
			list = append(list, skip(groupNetwork, a.name, a.proves, "browsers cannot reach unix sockets"))
			continue
		}
		if a.route != "" && slices.Contains(t.open, a.route) {
			list = append(list, skip(groupNetwork, a.name, a.proves, "the route is open on purpose"))
			continue
		}
		list = append(list, attempt{groupNetwork, a.name, a.proves, func() (result, string) { return t.launch(a) }})
	}
	return list
}

// launch sends all requests and returns which of them were accepted, or the result of the first.
func (t *target) launch(a attack) (result, string) {
	worst, detail := pass, ""
	var passed []string
	for _, raw := range a.requests {
		r, text := verdict(t.send(raw, a.framing))
		if r == info && a.mustAnswer {
			r = fail
		}
		if r == fail {
			passed = append(passed, firstLine(raw)+": "+text)
		}
		if detail == "" || worst == pass && r != pass {
			worst, detail = r, text
		}
	}
	switch n := len(a.requests); {
	case len(passed) > 0 && n > 1:
		return fail, fmt.Sprintf("%d of %d passed; %s", len(passed), n, passed[0])
	case len(passed) > 0:
		return fail, strings.TrimPrefix(passed[0], firstLine(a.requests[0])+": ")
	case n > 1 && worst == pass:
		return pass, fmt.Sprintf("all %d refused: %s", n, detail)
	}
	return worst, detail
}

// firstLine returns the beginning of a request, short enough for the table.
func firstLine(raw string) string {
	line, _, _ := strings.Cut(raw, " HTTP/")
	return line[:min(len(line), 48)]
}

// attacks returns the attacks, for the proxy's own address.
func (t *target) attacks() []attack {
	own := "Host: " + t.host()
	one := func(fields ...string) []string { return []string{post(fields...)} }
	page := func(name, field, proves string) attack {
		return attack{name: name, proves: proves, browser: true, requests: one(own, field, "Content-Type: text/plain", "Content-Length: 1")}
	}
	framing := func(name, proves string, requests ...string) attack {
		return attack{name: name, proves: proves, requests: requests, framing: true}
	}
	const smuggling = "no request is smuggled"
	return append([]attack{
		{name: "foreign Host", proves: "DNS rebinding does not reach the proxy", browser: true,
			requests: append(one("Host: evil.example", "Content-Length: 1"), one("Host: evil.example:"+strconv.Itoa(t.port), "Content-Length: 1")...)},
		page("foreign Origin", "Origin: https://evil.example", "no web page can spend the key"),
		page("Origin: null", "Origin: null", "no file or frame can either"),
		page("Referer", "Referer: https://evil.example/", "no old browser can either"),
		page("Sec-Fetch-Site", "Sec-Fetch-Site: cross-site", "no page without Origin can"),
		{name: "CORS preflight", proves: "no page may read responses", browser: true,
			requests: []string{head("OPTIONS", "/v1/responses", own, "Origin: https://evil.example", "Access-Control-Request-Method: POST")}},
		{name: "websocket upgrade", proves: "no route but HTTP is open", route: "websocket",
			requests: []string{head("GET", "/v1/responses", own, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")}},
		framing("length and chunked", smuggling, chunked(own, "Content-Length: 1", "Transfer-Encoding: chunked"), chunked(own, "Transfer-Encoding: chunked", "Content-Length: 1")),
		framing("two lengths", smuggling, post(own, "Content-Length: 1", "Content-Length: 0"), post(own, "Content-Length: 0", "Content-Length: 1")),
		framing("strange lengths", smuggling, post(own, "Content-Length: +1"), post(own, "Content-Length: 0x1"), post(own, "Content-Length: 1, 0")),
		framing("strange codings", smuggling, chunked(own, "Transfer-Encoding: xchunked"), chunked(own, "Transfer-Encoding: identity, chunked")),
		framing("folded header", smuggling, post(own, "X-Folded: a\r\n b", "Content-Length: 1")),
		framing("bare line feeds", smuggling, strings.ReplaceAll(post(own, "Content-Length: 1"), "\r\n", "\n")),
		framing("blank before colon", smuggling, post(own, "Content-Length : 1")),
		framing("no Host, or two", "every request has one interpretation", post("Content-Length: 1"), post(own, own, "Content-Length: 1")),
		{name: "HTTP/2 preface", proves: "other protocols get a response and use no resources", mustAnswer: true,
			requests: []string{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"}},
	}, t.misdirected()...)
}

// misdirected returns requests for anything but the one route.
func (t *target) misdirected() []attack {
	own := "Host: " + t.host()
	routes := attack{name: "other routes", proves: "one route is open, and no other"}
	if len(t.open) > 0 {
		routes.proves = "no route is open but those named"
	}
	for _, target := range []string{"/", "/responses", "/v1/chat/completions", "/v1/files", "/v1/organization/admin_api_keys"} {
		routes.requests = append(routes.requests, postTo(target, own, "Content-Length: 1"), head("GET", target, own))
	}
	for _, o := range optional {
		if !slices.Contains(t.open, o.route) {
			routes.requests = append(routes.requests, o.request(own))
		}
	}
	spellings := attack{name: "other spellings", proves: "no route is open under another spelling"}
	for _, target := range []string{"/v1/responses/", "/v1/responses?", "/v1/responses?x=1", "//v1/responses", "/v1/./responses", "/v1/x/../responses",
		"/v1/%72esponses", "/v1%2Fresponses", "/V1/Responses", "/v1/responses;a=b", "http://api.openai.com/v1/responses"} {
		spellings.requests = append(spellings.requests, postTo(target, own, "Content-Length: 1"))
	}
	methods := attack{name: "other methods", proves: "nothing is read, listed or deleted"}
	for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "post", "BREW"} {
		methods.requests = append(methods.requests, head(method, "/v1/responses", own))
	}
	tunnel := attack{name: "CONNECT", proves: "it is not an open proxy", requests: []string{head("CONNECT", "api.openai.com:443", own)}}
	return []attack{routes, spellings, methods, tunnel}
}

// optional are requests for the routes that an operator can open, each of which costs nothing if it is forwarded.
var optional = []struct {
	route   string
	request func(own string) string
}{
	{"models", func(own string) string { return head("GET", "/v1/models", own) }},
	{"compact", func(own string) string { return postTo("/v1/responses/compact", own, "Content-Length: 1") }},
	{"input-tokens", func(own string) string { return postTo("/v1/responses/input_tokens", own, "Content-Length: 1") }},
	{"retrieve", func(own string) string { return head("GET", "/v1/responses/resp_none", own) }},
	{"retrieve", func(own string) string { return head("DELETE", "/v1/responses/resp_none", own) }},
	{"messages", func(own string) string { return postTo("/v1/messages", own, "Content-Length: 1") }},
}

// head returns a request without a body, whose User-Agent identifies the suite in the operator's log.
func head(method, target string, fields ...string) string {
	return method + " " + target + " HTTP/1.1\r\nUser-Agent: " + userAgent() + "\r\n" + strings.Join(append(fields, "", ""), "\r\n")
}

func userAgent() string {
	version := "devel"
	if build, ok := debug.ReadBuildInfo(); ok {
		version = strings.Trim(cmp.Or(build.Main.Version, version), "()")
	}
	return "responses-api-proxy-verify/" + version
}

// post returns a request for the one route with the body noJSON; the fields define its framing.
func post(fields ...string) string { return postTo("/v1/responses", fields...) }

// chunked returns the same request with a chunked body.
func chunked(fields ...string) string {
	return head("POST", "/v1/responses", fields...) + "1\r\n" + noJSON + "\r\n0\r\n\r\n"
}

func postTo(target string, fields ...string) string { return head("POST", target, fields...) + noJSON }

// ask finds out whether this user may call, by a route that no proxy forwards.
func (t *target) ask() (result, string) {
	a := t.send(head("POST", "/verify/no-such-route", "Host: "+t.host(), "Content-Length: 0"), false)[0]
	switch {
	case a.Response == nil:
		return a.verdict()
	case a.code() == "user_not_allowed":
		return info, "may not call: refused by uid"
	case a.fromUpstream() || a.StatusCode < 400:
		return fail, fmt.Sprintf("may call, even an unknown route: %d", a.StatusCode)
	case a.code() == "route_not_allowed":
		return info, "may call: refused only for the route"
	case ownCodes[a.code()]:
		return info, "may not call now: " + a.code()
	}
	return info, fmt.Sprintf("apparently may call: %d for a route that does not exist", a.StatusCode)
}

// fromOutside connects to the proxy's port at every other address of this host.
func (t *target) fromOutside() (result, string) {
	if !t.tcp() {
		return skipped, "a unix socket is not on the network"
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return skipped, err.Error()
	}
	tried := 0
	for _, a := range addresses {
		ip, ok := a.(*net.IPNet)
		if !ok || ip.IP.IsLoopback() || ip.IP.IsLinkLocalUnicast() {
			continue
		}
		tried++
		c, err := net.DialTimeout("tcp", net.JoinHostPort(ip.IP.String(), strconv.Itoa(t.port)), time.Second)
		if err == nil {
			c.Close()
			return fail, fmt.Sprintf("%s:%d is open", ip.IP, t.port)
		}
	}
	if tried == 0 {
		return skipped, "this host has no other address"
	}
	return pass, fmt.Sprintf("closed at %d other address(es) of this host", tried)
}

const groupSpend = "A proper request"

// spendAttempts send the only request that a correct proxy forwards.
func spendAttempts(t *target) []attempt {
	const name, proves = "well-formed request", "the proxy works, and its response contains no key"
	if !t.spend {
		return []attempt{skip(groupSpend, name, proves, "only with --spend")}
	}
	return []attempt{{groupSpend, name, proves, t.spendOne}}
}

func (t *target) spendOne() (result, string) {
	const body = `{"model":"none","input":""}`
	a := t.send(head("POST", "/v1/responses", "Host: "+t.host(), "Content-Type: application/json", fmt.Sprintf("Content-Length: %d", len(body)))+body, false)[0]
	switch {
	case a.Response == nil:
		_, text := a.verdict()
		return info, text
	case len(t.key) > 0 && a.contains(t.key):
		return fail, "the response contains the key"
	case ownCodes[a.code()]:
		return info, fmt.Sprintf("not forwarded: %d %s", a.StatusCode, a.code())
	}
	return info, fmt.Sprintf("forwarded; the response is %d", a.StatusCode)
}
