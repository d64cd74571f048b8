package relay

import (
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
)

// Code is the "code" of an error that the proxy itself answers with. The list
// is closed, and documented in docs/errors.md.
type Code string

// The codes.
const (
	RouteNotAllowed       Code = "route_not_allowed"
	ResponseNotFound      Code = "response_not_found"
	WebsocketNotSupported Code = "websocket_not_supported"
	WebsocketNotMetered   Code = "websocket_not_metered"
	WebsocketMalformed    Code = "websocket_malformed"
	MalformedRequest      Code = "malformed_request"
	HeadTooLarge          Code = "head_too_large"
	RequestTimeout        Code = "request_timeout"
	IncompleteBody        Code = "incomplete_body"
	UpstreamUnreachable   Code = "upstream_unreachable"
	UpstreamNotTrusted    Code = "upstream_not_trusted"
	UpstreamTLS           Code = "upstream_tls_failed"
	UpstreamTimeout       Code = "upstream_timeout"
	UpstreamClosed        Code = "upstream_closed"
	UpstreamMalformed     Code = "upstream_malformed"
	UpstreamRedirect      Code = "upstream_redirect"
	InternalError         Code = "internal_error"
)

// ClientLeft stands in records only: nobody was there to be told.
const ClientLeft Code = "client_left"

// refusal is what a client is told, in fixed words: what went wrong at the
// upstream is for the operator's log alone.
type refusal struct {
	status        int
	kind, message string
}

const (
	invalid = "invalid_request_error"
	server  = "server_error"
	limited = "rate_limit_error"
)

var refusals = map[Code]refusal{
	RouteNotAllowed:       {403, invalid, ""}, // it names what is open: see RouteSet
	ResponseNotFound:      {404, invalid, "There is no response with this id that you have made through this proxy since it was started."},
	WebsocketNotSupported: {426, invalid, "This proxy does not speak WebSocket. Send POST /v1/responses instead; Codex does so by itself."},
	WebsocketNotMetered:   {426, invalid, "This proxy counts tokens, which it cannot do over WebSocket. Send POST /v1/responses instead; Codex does so by itself."},
	WebsocketMalformed:    {400, invalid, "The WebSocket handshake is malformed"},
	MalformedRequest:      {400, invalid, "The request is not well-formed HTTP/1.1"},
	HeadTooLarge:          {431, invalid, "The request's head is too large"},
	RequestTimeout:        {408, invalid, "The request did not arrive in time"},
	IncompleteBody:        {400, invalid, "The request's body is incomplete or malformed. Nothing was sent to the upstream as complete; send it again."},
	UpstreamUnreachable:   {502, server, "The proxy cannot reach the upstream. Try again; the proxy's log on standard error says why."},
	UpstreamNotTrusted:    {502, server, "What listens at the upstream's address must not be sent the API key. The proxy's log on standard error says why."},
	UpstreamTLS:           {502, server, "The proxy cannot make a secure connection to the upstream. The proxy's log on standard error says why."},
	UpstreamTimeout:       {504, server, "The upstream did not accept a connection in time. Try again."},
	UpstreamClosed:        {502, server, "The upstream closed the connection without an answer. The request may have been processed; try again."},
	UpstreamMalformed:     {502, server, "The upstream's answer is not well-formed HTTP/1.1. The proxy's log on standard error says more."},
	UpstreamRedirect:      {502, server, "The upstream answered with a redirect, which the proxy neither follows nor passes on. Check --upstream-url."},
	InternalError:         {500, server, "The proxy failed. Try again; if it goes on, look at the proxy's log on standard error."},
}

// codes maps what can go wrong on the way to the upstream.
var codes = map[upstream.Kind]Code{
	upstream.Unreachable: UpstreamUnreachable,
	upstream.Untrusted:   UpstreamNotTrusted,
	upstream.TLSFailed:   UpstreamTLS,
	upstream.Timeout:     UpstreamTimeout,
	upstream.Closed:      UpstreamClosed,
	upstream.Malformed:   UpstreamMalformed,
	upstream.BodyFailed:  IncompleteBody,
	upstream.Internal:    InternalError,
}

// denials are the statuses and types of package policy's codes.
var denials = map[policy.Code]refusal{
	policy.UserNotAllowed:     {403, invalid, ""},
	policy.HostNotAllowed:     {403, invalid, ""},
	policy.BrowserNotAllowed:  {403, invalid, ""},
	policy.BodyTooLarge:       {413, invalid, ""},
	policy.TooManyRequests:    {429, limited, ""},
	policy.TooManyConnections: {429, limited, ""},
	policy.RateLimited:        {429, limited, ""},
	policy.Expired:            {403, invalid, ""},
	policy.BudgetExhausted:    {429, limited, ""},
}

// Codes calls each for every code there is, with the status that it comes with.
func Codes(each func(code Code, status int)) {
	for code, r := range refusals {
		each(code, r.status)
	}
	for code, r := range denials {
		each(Code(code), r.status)
	}
}

// Deny answers a request that package policy does not let pass.
func (p *Relay) Deny(a ResponseWriter, d *policy.Denial) error {
	p.log(a, Code(d.Code), d.Message)
	fields := errorFields
	switch {
	case d.RetryAfter > 0:
		fields = append(fields[:1:1], http1.Field{Name: []byte("Retry-After"), Value: strconv.AppendInt(nil, int64(d.RetryAfter), 10)})
	case denials[d.Code].status == 429: // or OpenAI's clients would try again at once
		fields = append(fields[:1:1], http1.Field{Name: []byte("X-Should-Retry"), Value: []byte("false")})
	}
	return respond(a, denials[d.Code].status, fields, body(Code(d.Code), denials[d.Code].kind, d.Message))
}

// errorFields are the same in every refusal. The engine adds the date.
var errorFields = []http1.Field{{Name: []byte("Content-Type"), Value: []byte("application/json")}}

// body renders a refusal in the shape of OpenAI's errors.
func body(code Code, kind, message string) []byte {
	type detail struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    Code    `json:"code"`
	}
	b, _ := json.Marshal(map[string]detail{"error": {Message: message, Type: kind, Code: code}}) // cannot fail: strings only
	return append(b, '\n')
}

// Refuse answers with code, and logs it with the detail, if there is one.
func (p *Relay) Refuse(a ResponseWriter, code Code, detail string) error {
	p.log(a, code, detail)
	message := refusals[code].message
	if code == RouteNotAllowed {
		message = p.cfg.Open.sentence
	}
	return refuse(a, code, refusals[code].status, message)
}

// RefuseSyntax answers a request that package http1 refused to parse. The
// reason is in the answer: it says nothing but what the client did.
func (p *Relay) RefuseSyntax(a ResponseWriter, reason *http1.Error) error {
	code := syntaxCode(reason.Status)
	p.log(a, code, reason.Reason)
	return refuse(a, code, reason.Status, strings.TrimSuffix(refusals[code].message, ".")+": "+reason.Reason+".")
}

func syntaxCode(status int) Code {
	switch status {
	case 408:
		return RequestTimeout
	case 431:
		return HeadTooLarge
	default:
		return MalformedRequest
	}
}

func refuse(a ResponseWriter, code Code, status int, message string) error {
	fields := errorFields
	if status == 426 { // RFC 9110, section 15.5.22, wants the protocol named
		fields = append(fields[:1:1], http1.Field{Name: []byte("Upgrade"), Value: []byte("HTTP/1.1")},
			http1.Field{Name: []byte("Connection"), Value: []byte("Upgrade")})
	}
	return respond(a, status, fields, body(code, refusals[code].kind, message))
}

func respond(a ResponseWriter, status int, fields []http1.Field, b []byte) error {
	a.Head(status, fields, int64(len(b)))
	return a.Write(b)
}

// log notes why an exchange fails, in its record and for the operator.
func (p *Relay) log(a ResponseWriter, code Code, detail string) {
	a.Entry().Code = string(code)
	line := string(code)
	if detail != "" {
		line += ": " + detail
	}
	p.cfg.Log(a.Entry(), line)
}

// failed answers for an upstream that could not be asked, or did not answer.
func (p *Relay) failed(a ResponseWriter, err error, bill *exchange) error {
	var e *upstream.Error
	bill.entry.Reused = errors.As(err, &e) && e.Reused
	if bill.tooMuch.Load() {
		return p.Deny(a, bill.visitor.TooLarge())
	}
	code, detail := classify(err)
	if code == "" {
		bill.cutOff = true
		return left(a)
	}
	return p.Refuse(a, code, detail)
}

func classify(err error) (Code, string) {
	var e *upstream.Error
	if !errors.As(err, &e) {
		return InternalError, "an error of an unknown kind"
	}
	return codes[e.Kind], e.Error()
}

// cut logs why an answer ends in the middle.
func (p *Relay) cut(a ResponseWriter, err error) error {
	code, detail := classify(err)
	if code == "" {
		return left(a)
	}
	p.log(a, code, detail)
	return ErrAbort
}

// bodyFailed answers a client whose body did not come as announced.
func (p *Relay) bodyFailed(a ResponseWriter, err error, bill *exchange) error {
	if bill.tooMuch.Load() {
		return p.Deny(a, bill.visitor.TooLarge())
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return p.Refuse(a, RequestTimeout, "the body stalled")
	}
	return p.Refuse(a, IncompleteBody, "")
}
