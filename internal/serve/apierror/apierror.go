// Package apierror lists the errors with which the proxy itself responds, in the shape of OpenAI's. docs/errors.md
// documents them.
package apierror

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// Code is the "code" of an error. The list is closed.
type Code string

// ClientLeft stands in records only: no response can be sent.
const ClientLeft Code = "client_left"

// The codes that a client can receive. The messages are fixed: the causes of upstream errors are for the operator's
// log alone. Where there is no message, or an http1.Error has a reason or a status of its own, the Error brings it.
var (
	RouteNotAllowed       = add("route_not_allowed", 403, invalid, "")
	ResponseNotFound      = add("response_not_found", 404, invalid, "There is no response with this id that you have made through this proxy since it was started.")
	WebsocketNotSupported = add("websocket_not_supported", 426, invalid, "This proxy does not speak WebSocket. Send POST /v1/responses instead; Codex does so by itself.")
	WebsocketMalformed    = add("websocket_malformed", 400, invalid, "The WebSocket handshake is malformed")
	MalformedRequest      = add("malformed_request", 400, invalid, "The request is not well-formed HTTP/1.1")
	HeadTooLarge          = add("head_too_large", 431, invalid, "The request's head is too large")
	RequestTimeout        = add("request_timeout", 408, invalid, "The request did not arrive in time")
	IncompleteBody        = add("incomplete_body", 400, invalid, "The request's body is incomplete or malformed. Nothing was sent to the upstream as complete; send it again.")
	ModelNotAllowed       = add("model_not_allowed", 403, invalid, "")
	ModelNotReadable      = add("model_not_readable", 400, invalid, "")
	UserNotAllowed        = add("user_not_allowed", 403, invalid, "")
	HostNotAllowed        = add("host_not_allowed", 403, invalid, "")
	BrowserNotAllowed     = add("browser_not_allowed", 403, invalid, "")
	BodyTooLarge          = add("body_too_large", 413, invalid, "")
	TooManyRequests       = add("too_many_requests", 429, limited, "")
	TooManyConnections    = add("too_many_connections", 429, limited, "")
	RateLimited           = add("rate_limited", 429, limited, "")
	BudgetExhausted       = add("budget_exhausted", 429, spent, "")
	Expired               = add("expired", 403, invalid, "")
	UpstreamUnreachable   = add("upstream_unreachable", 502, server, "The proxy cannot reach the upstream. Try again; the proxy's log says why.")
	UpstreamNotTrusted    = add("upstream_not_trusted", 502, server, "What listens at the upstream's address must not be sent the API key. The proxy's log says why.")
	UpstreamTLS           = add("upstream_tls_failed", 502, server, "The proxy cannot make a secure connection to the upstream. The proxy's log says why.")
	UpstreamTimeout       = add("upstream_timeout", 504, server, "The upstream did not accept a connection in time. Try again.")
	UpstreamClosed        = add("upstream_closed", 502, server, "The upstream closed the connection without an answer. The request may have been processed; try again.")
	UpstreamMalformed     = add("upstream_malformed", 502, server, "The upstream's answer is not well-formed HTTP/1.1. The proxy's log says more.")
	UpstreamRedirect      = add("upstream_redirect", 502, server, "The upstream answered with a redirect, which the proxy neither follows nor passes on. Check --upstream-url.")
	InternalError         = add("internal_error", 500, server, "The proxy failed. Try again; if it goes on, look at the proxy's log.")
)

const (
	invalid = "invalid_request_error"
	server  = "server_error"
	limited = "rate_limit_error"
	// spent is the type of 429 that Codex does not take for a rate limit: it neither waits nor hides the reason.
	spent = "usage_limit_reached"
)

// table has the codes above.
var table = map[Code]entry{}

type entry struct {
	status        int
	kind, message string
}

func add(code Code, status int, kind, message string) Code {
	table[code] = entry{status, kind, message}
	return code
}

// Codes calls each for every code that a client can receive, with its status.
func Codes(each func(code Code, status int)) {
	for code, e := range table {
		each(code, e.status)
	}
}

// Error is an error with which the proxy responds to a request.
type Error struct {
	Code    Code
	Status  int
	Message string // for the client
	// RetryAfter is the number of seconds after which to try again; 0 means not at all.
	RetryAfter int
	// ResetsAt is when a spent budget restarts; zero if never.
	ResetsAt time.Time
	// Met is the limit that the request has met; nil if it is none that is counted.
	Met *Limit
	// Detail is the cause and Hint the remedy, for the operator's log only. Either may be "".
	Detail, Hint string
}

// Limit is a limit of requests or tokens, and how much of it is left.
type Limit struct {
	Of        string // "Requests" or "Tokens"
	Max, Left int64
}

// Meeting sets Met, and returns the error.
func (e *Error) Meeting(of string, limit, left int64) *Error {
	e.Met = &Limit{of, limit, left}
	return e
}

// Left is the error of an exchange whose client has disconnected.
var Left = New(ClientLeft, "")

// New returns the error of a code that has a message. detail is its Detail.
func New(code Code, detail string) *Error {
	return &Error{Code: code, Status: table[code].status, Message: table[code].message, Detail: detail}
}

// Newf returns an error with a formatted message, which is logged as well: one sentence with the cause, and others with
// the remedy.
func Newf(code Code, retryAfter int, format string, args ...any) *Error {
	e := New(code, "")
	e.Message, e.RetryAfter = fmt.Sprintf(format, args...), retryAfter
	e.Detail, e.Hint, _ = strings.Cut(strings.TrimSuffix(e.Message, "."), ". ")
	return e
}

// OfHead returns the error of a head that package http1 refused.
func OfHead(refused *http1.Error) *Error {
	codes := map[int]Code{408: RequestTimeout, 431: HeadTooLarge}
	return Malformed(cmp.Or(codes[refused.Status], MalformedRequest), refused)
}

// Malformed returns an error that repeats the reason, which describes only what the client did.
func Malformed(code Code, refused *http1.Error) *Error {
	e := New(code, refused.Reason)
	e.Status, e.Message = refused.Status, strings.TrimSuffix(e.Message, ".")+": "+refused.Reason+"."
	return e
}

// Fields returns the header fields of the response, but for date and framing.
func (e *Error) Fields() (fields []http1.Field) {
	add := func(name, value string) {
		fields = append(fields, http1.Field{Name: []byte(name), Value: []byte(value)})
	}
	add("Content-Type", "application/json")
	if e.RetryAfter > 0 {
		add("Retry-After", strconv.Itoa(e.RetryAfter))
	}
	if m := e.Met; m != nil { // by the names that OpenAI's responses have
		add("X-Ratelimit-Limit-"+m.Of, strconv.FormatInt(m.Max, 10))
		add("X-Ratelimit-Remaining-"+m.Of, strconv.FormatInt(m.Left, 10))
		if !e.ResetsAt.IsZero() {
			add("X-Ratelimit-Reset-"+m.Of, (time.Duration(e.RetryAfter) * time.Second).String())
		}
	}
	exhausted := table[e.Code].kind == spent
	if exhausted { // Codex prints this, not the message
		add("X-Codex-Promo-Message", strings.TrimSuffix(e.Message, "."))
	}
	switch {
	case e.Status == 429 && (e.RetryAfter == 0 || exhausted): // or OpenAI's clients would try again at once
		add("X-Should-Retry", "false")
	case e.Status == 426 && e.Code == WebsocketMalformed: // RFC 6455, section 4.4
		add("Upgrade", "websocket")
		add("Connection", "Upgrade")
		add("Sec-WebSocket-Version", "13")
	case e.Status == 426: // RFC 9110, section 15.5.22
		add("Upgrade", "HTTP/1.1")
		add("Connection", "Upgrade")
	}
	return fields
}

// Body renders the error in the shape of OpenAI's.
func (e *Error) Body() []byte {
	type detail struct {
		Message  string  `json:"message"`
		Type     string  `json:"type"`
		Param    *string `json:"param"`
		Code     Code    `json:"code"`
		ResetsAt int64   `json:"resets_at,omitempty"` // as Codex reads it
	}
	body := detail{Message: e.Message, Type: table[e.Code].kind, Code: e.Code}
	if !e.ResetsAt.IsZero() {
		body.ResetsAt = e.ResetsAt.Unix()
	}
	b, _ := json.Marshal(map[string]detail{"error": body}) // cannot fail: strings and a number only
	return append(b, '\n')
}
