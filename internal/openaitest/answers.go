package openaitest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The kinds of content, as OpenAI spells them.
const (
	jsonType   = "Content-Type: application/json"
	streamType = "Content-Type: text/event-stream; charset=utf-8"
	chunked    = "Transfer-Encoding: chunked"
)

// alwaysSent are header fields that OpenAI's edge adds to every answer. A
// proxy must pass most of them and drop some.
const alwaysSent = "Openai-Version: 2020-10-01\r\n" +
	"Openai-Organization: fake-org\r\n" +
	"Openai-Project: proj_fake\r\n" +
	"Openai-Processing-Ms: 12\r\n" +
	"X-Ratelimit-Limit-Requests: 10000\r\n" +
	"X-Ratelimit-Limit-Tokens: 2000000\r\n" +
	"X-Ratelimit-Remaining-Requests: 9999\r\n" +
	"X-Ratelimit-Remaining-Tokens: 1999000\r\n" +
	"X-Ratelimit-Reset-Requests: 6ms\r\n" +
	"X-Ratelimit-Reset-Tokens: 30ms\r\n" +
	"Strict-Transport-Security: max-age=31536000; includeSubDomains; preload\r\n" +
	"Set-Cookie: __cf_bm=fake; path=/; HttpOnly; Secure; SameSite=None\r\n" +
	"Set-Cookie: _cfuvid=fake; path=/; HttpOnly; Secure; SameSite=None\r\n" +
	"X-Content-Type-Options: nosniff\r\n" +
	"Cf-Cache-Status: DYNAMIC\r\n" +
	"Server: cloudflare\r\n" +
	"Alt-Svc: h3=\":443\"; ma=86400\r\n"

// head writes the head of an answer.
func (x *exchange) head(status int, fields ...string) { x.headAs("HTTP/1.1", status, fields...) }

func (x *exchange) headAs(version string, status int, fields ...string) {
	id := x.c.s.ids.Add(1)
	x.out = fmt.Appendf(x.out, "%s %d %s\r\nDate: %s\r\n", version, status, http.StatusText(status), time.Now().UTC().Format(http.TimeFormat))
	x.out = fmt.Appendf(x.out, "X-Request-Id: req_%032x\r\nCf-Ray: %016x-FRA\r\n", id, id)
	x.write(alwaysSent)
	for _, f := range fields {
		x.write(f + "\r\n")
	}
	x.write("\r\n")
}

func contentLength(n int) string { return "Content-Length: " + strconv.Itoa(n) }

// reply writes a whole answer with a Content-Length.
func (x *exchange) reply(status int, body []byte, fields ...string) {
	x.head(status, append(fields, contentLength(len(body)))...)
	if x.r.Method != "HEAD" {
		x.writeBytes(body)
	}
}

// apiError is the shape in which OpenAI reports errors; clients print Message.
type apiError struct {
	Message string
	Type    string
	Param   string
	Code    string
}

// body keeps the order of OpenAI's fields; param and code may be null.
func (e apiError) body() []byte {
	return fmt.Appendf(nil, "{\n  \"error\": {\n    \"message\": %s,\n    \"type\": %s,\n    \"param\": %s,\n    \"code\": %s\n  }\n}\n",
		quote(e.Message), quote(e.Type), orNull(e.Param), orNull(e.Code))
}

func orNull(s string) string {
	if s == "" {
		return "null"
	}
	return quote(s)
}

func quote(s string) string {
	p, _ := json.Marshal(s) // a string always has a JSON form
	return string(p)
}

func (x *exchange) problem(status int, e apiError, fields ...string) {
	x.reply(status, e.body(), append(fields, jsonType)...)
}

// errorFor is what OpenAI says with a status.
func errorFor(status int) apiError {
	switch status {
	case 401:
		return apiError{Message: "Incorrect API key provided.", Type: "invalid_request_error", Code: "invalid_api_key"}
	case 413:
		return apiError{Message: "Maximum content size limit exceeded.", Type: "invalid_request_error"}
	case 429:
		return apiError{Message: "Rate limit reached for requests.", Type: "requests", Code: "rate_limit_exceeded"}
	}
	if status >= 500 {
		return apiError{Message: "The server had an error while processing your request. Sorry about that!", Type: "server_error"}
	}
	return apiError{Message: http.StatusText(status), Type: "invalid_request_error"}
}

const responseObject = `{"id":"%s","object":"response","created_at":%d,"status":"%s","background":false,"completed_at":%s,"error":%s,` +
	`"incomplete_details":null,"instructions":null,"max_output_tokens":null,"max_tool_calls":null,"model":%s,"output":[%s],` +
	`"parallel_tool_calls":true,"previous_response_id":null,"prompt_cache_key":null,"reasoning":{"effort":null,"summary":null},` +
	`"safety_identifier":null,"service_tier":"default","store":true,"temperature":1.0,"text":{"format":{"type":"text"},"verbosity":"medium"},` +
	`"tool_choice":"auto","tools":[],"top_logprobs":0,"top_p":1.0,"truncation":"disabled","usage":%s,"user":null,"metadata":{}}`

// A message is the one output item of a response.
type message struct {
	response, item string // ids
	model          string
	created        int64
	asked          int64 // length of the request's body

	mu    sync.Mutex // a stored response may be asked for while its stream is written
	whole []byte     // what text returns
}

// text returns what the response says so far.
func (m *message) text() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return string(m.whole)
}

// add appends to the text.
func (m *message) add(text []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.whole = append(m.whole, text...)
}

func (x *exchange) newMessage() *message {
	id := x.c.s.ids.Add(1)
	model := x.ask.Model
	if model == "" || strings.HasPrefix(model, "fake:") {
		model = "gpt-5"
	}
	return &message{
		response: fmt.Sprintf("resp_%032x", id),
		item:     fmt.Sprintf("msg_%032x", id),
		model:    quote(model),
		created:  time.Now().Unix(),
		asked:    x.r.BodyLen,
	}
}

// object returns the response in one of its states.
func (m *message) object(status string) []byte {
	switch status {
	case "completed":
		return fmt.Appendf(nil, responseObject, m.response, m.created, status, strconv.FormatInt(time.Now().Unix(), 10), "null", m.model, m.output("completed", m.part()), m.usage())
	default:
		return fmt.Appendf(nil, responseObject, m.response, m.created, status, "null", "null", m.model, "", "null")
	}
}

func (m *message) failed(code string) []byte {
	e := fmt.Sprintf(`{"code":%s,"message":"The stand-in was told to fail."}`, quote(code))
	return fmt.Appendf(nil, responseObject, m.response, m.created, "failed", "null", e, m.model, "", "null")
}

func (m *message) output(status, part string) string {
	return fmt.Sprintf(`{"id":"%s","type":"message","status":"%s","content":[%s],"role":"assistant"}`, m.item, status, part)
}

func (m *message) part() string {
	return fmt.Sprintf(`{"type":"output_text","annotations":[],"logprobs":[],"text":%s}`, quote(m.text()))
}

// usage takes four bytes for a token, so that tests can tell what to expect.
func (m *message) usage() string {
	in, out := m.asked/4, int64(len(m.text())/4)
	return fmt.Sprintf(`{"input_tokens":%d,"input_tokens_details":{"cached_tokens":0},"output_tokens":%d,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":%d}`, in, out, in+out)
}

// filler returns n bytes of text.
func filler(n int) []byte {
	const words = "the quick brown fox jumps over the lazy dog "
	return []byte(strings.Repeat(words, n/len(words)+1)[:n])
}
