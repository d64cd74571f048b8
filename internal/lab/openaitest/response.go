package openaitest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Fields of responses, as OpenAI spells them.
const (
	jsonType   = "Content-Type: application/json"
	streamType = "Content-Type: text/event-stream; charset=utf-8"
	chunked    = "Transfer-Encoding: chunked"
)

// alwaysSent are fields that OpenAI's edge adds to every response, and the end of a head. A proxy must pass most of
// them and drop some.
const alwaysSent = "Openai-Version: 2020-10-01\r\nOpenai-Organization: fake-org\r\nOpenai-Project: proj_fake\r\n" +
	"Openai-Processing-Ms: 12\r\nX-Content-Type-Options: nosniff\r\nCf-Cache-Status: DYNAMIC\r\nServer: cloudflare\r\n" +
	"X-Ratelimit-Limit-Requests: 10000\r\nX-Ratelimit-Remaining-Requests: 9999\r\nX-Ratelimit-Reset-Requests: 6ms\r\n" +
	"X-Ratelimit-Limit-Tokens: 2000000\r\nX-Ratelimit-Remaining-Tokens: 1999000\r\nX-Ratelimit-Reset-Tokens: 30ms\r\n" +
	"Strict-Transport-Security: max-age=31536000; includeSubDomains; preload\r\nAlt-Svc: h3=\":443\"; ma=86400\r\n" +
	"Set-Cookie: __cf_bm=fake; path=/; HttpOnly; Secure; SameSite=None\r\n" +
	"Set-Cookie: _cfuvid=fake; path=/; HttpOnly; Secure; SameSite=None\r\n\r\n"

// head writes the head of a response.
func (x *exchange) head(status int, fields ...string) {
	id := x.c.s.ids.Add(1)
	x.chunked = slices.Contains(fields, chunked)
	x.write(fmt.Sprintf("HTTP/1.1 %d %s\r\nDate: %s\r\nX-Request-Id: req_%032x\r\nCf-Ray: %016x-FRA\r\n",
		status, http.StatusText(status), time.Now().UTC().Format(http.TimeFormat), id, id))
	x.write(strings.Join(append(fields, alwaysSent), "\r\n"))
}

// content writes a part of a response's body, as a chunk if the head has Transfer-Encoding.
func (x *exchange) content(p []byte) {
	if !x.chunked {
		x.write(string(p))
		return
	}
	x.out = fmt.Appendf(x.out, "%x\r\n", len(p))
	x.out = append(x.out, p...)
	x.write("\r\n")
}

// end ends a response's body, with the trailers given if it is chunked.
func (x *exchange) end(trailers string) ending {
	if x.chunked {
		x.write("0\r\n" + trailers + "\r\n")
	}
	return keep
}

// event writes one event of a stream.
func (x *exchange) event(kind string, data []byte) {
	x.content(fmt.Appendf(nil, "event: %s\ndata: %s\n\n", kind, data))
}

func contentLength(n int) string { return "Content-Length: " + strconv.Itoa(n) }

// reply writes a whole response with a Content-Length.
func (x *exchange) reply(status int, body []byte, fields ...string) ending {
	x.head(status, append(fields, contentLength(len(body)))...)
	if x.r.Method != "HEAD" {
		x.write(string(body))
	}
	return keep
}

// messages are OpenAI's for errors without a cause of their own.
var messages = map[int]string{
	401: "Incorrect API key provided.",
	413: "Maximum content size limit exceeded.",
	429: "Rate limit reached for requests.",
	500: "The server had an error while processing your request. Sorry about that!",
}

// problem writes an error, with the members that OpenAI's have, in their order. Clients print the message; "" is the
// usual one.
func (x *exchange) problem(status int, message string, fields ...string) ending {
	kind, code := "invalid_request_error", "null"
	switch {
	case status == 401:
		code = `"invalid_api_key"`
	case status == 429:
		kind, code = "requests", `"rate_limit_exceeded"`
	case status >= 500:
		kind = "server_error"
	}
	message = cmp.Or(message, messages[min(status, 500)], http.StatusText(status))
	body := fmt.Appendf(nil, "{\n  \"error\": {\n    \"message\": %s,\n    \"type\": %q,\n    \"param\": null,\n    \"code\": %s\n  }\n}\n",
		quote(message), kind, code)
	return x.reply(status, body, append(fields, jsonType)...)
}

func quote(s string) string {
	p, _ := json.Marshal(s) // a string always has a JSON form
	return string(p)
}

const responseObject = `{"id":"%s","object":"response","created_at":%d,"status":"%s","background":false,"completed_at":%s,"error":%s,` +
	`"incomplete_details":null,"instructions":null,"max_output_tokens":null,"max_tool_calls":null,"model":%s,"output":[%s],` +
	`"parallel_tool_calls":true,"previous_response_id":null,"prompt_cache_key":null,"reasoning":{"effort":null,"summary":null},` +
	`"safety_identifier":null,"service_tier":"default","store":true,"temperature":1.0,` +
	`"text":{"format":{"type":"text"},"verbosity":"medium"},` +
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

// text returns the text of the response so far.
func (m *message) text() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return string(m.whole)
}

// newMessage returns a message with size bytes of text. The server keeps it, to be asked for again.
func (x *exchange) newMessage(size int) *message {
	id := x.c.s.ids.Add(1)
	m := &message{
		response: fmt.Sprintf("resp_%032x", id),
		item:     fmt.Sprintf("msg_%032x", id),
		model:    quote(cmp.Or(x.ask.Model, "gpt-5")),
		created:  time.Now().Unix(),
		asked:    x.r.BodyLen,
		whole:    []byte(filler(size)),
	}
	if !x.c.s.opts.Forget {
		x.c.s.made.Store(m.response, m)
	}
	return m
}

// object returns the response in one of its states: failed with a code.
func (m *message) object(status string, code ...string) []byte {
	completed, failure, output, usage := "null", "null", "", "null"
	switch status {
	case "completed":
		completed, output, usage = strconv.FormatInt(time.Now().Unix(), 10), m.output("completed", m.part()), m.usage()
	case "failed":
		failure = fmt.Sprintf(`{"code":%s,"message":"The scenario is to fail."}`, quote(code[0]))
	}
	return fmt.Appendf(nil, responseObject, m.response, m.created, status, completed, failure, m.model, output, usage)
}

func (m *message) output(status, part string) string {
	return fmt.Sprintf(`{"id":"%s","type":"message","status":"%s","content":[%s],"role":"assistant"}`, m.item, status, part)
}

func (m *message) part() string {
	return fmt.Sprintf(`{"type":"output_text","annotations":[],"logprobs":[],"text":%s}`, quote(m.text()))
}

// usage counts four bytes as one token, so that tests can compute the figures.
func (m *message) usage() string {
	in, out := m.asked/4, int64(len(m.text())/4)
	return fmt.Sprintf(`{"input_tokens":%d,"input_tokens_details":{"cached_tokens":0},"output_tokens":%d,`+
		`"output_tokens_details":{"reasoning_tokens":0},"total_tokens":%d}`, in, out, in+out)
}

// filler returns n bytes of text.
func filler(n int) string {
	const words = "the quick brown fox jumps over the lazy dog "
	return strings.Repeat(words, n/len(words)+1)[:n]
}

// A stream writes the documented events of one streamed response.
type stream struct {
	*message
	x     *exchange
	emit  func(kind string, data []byte) // writes an event
	limit int                            // no more events than that; negative: no limit
	seq   int
}

// An event has the JSON that follows its type and number.
type event struct{ kind, rest string }

// newStream writes the head of a stream, whose fields are given in addition.
func (x *exchange) newStream(fields ...string) *stream {
	x.head(200, append(fields, streamType)...)
	return &stream{message: x.newMessage(0), x: x, limit: -1, emit: x.event}
}

// over reports whether no more events are to be written.
func (st *stream) over() bool { return st.seq == st.limit || st.x.err != nil }

func (st *stream) send(events ...event) {
	for _, e := range events {
		if st.over() {
			return
		}
		st.emit(e.kind, fmt.Appendf(nil, `{"type":"%s","sequence_number":%d%s}`, e.kind, st.seq, e.rest))
		st.seq++
		if st.x.given["flush"] == "1" {
			st.x.flush()
		}
	}
}

// place is how the events of the text begin.
func (st *stream) place() string {
	return fmt.Sprintf(`,"item_id":"%s","output_index":0,"content_index":0`, st.item)
}

// opening are the events before the text.
func (st *stream) opening() []event {
	response := `,"response":` + string(st.object("in_progress"))
	return []event{
		{"response.created", response},
		{"response.in_progress", response},
		{"response.output_item.added", `,"output_index":0,"item":` + st.output("in_progress", "")},
		{"response.content_part.added", st.place() + `,"part":` + st.part()},
	}
}

// ending are the events after the text.
func (st *stream) ending() []event {
	return []event{
		{"response.output_text.done", st.place() + `,"text":` + quote(st.text()) + `,"logprobs":[]`},
		{"response.content_part.done", st.place() + `,"part":` + st.part()},
		{"response.output_item.done", `,"output_index":0,"item":` + st.output("completed", st.part())},
		{"response.completed", `,"response":` + string(st.object("completed"))},
	}
}

// deltaOverhead is the length of a delta event without its text and with one digit for its number: "event:" and "data:"
// lines, ids and the time.
const deltaOverhead = 232

// delta writes one delta event of size bytes, or the shortest if that is longer. Its extra member t is the time in Unix
// nanoseconds.
func (st *stream) delta(size int) {
	text := filler(max(size-deltaOverhead-(len(strconv.Itoa(st.seq))-1), 4))
	st.mu.Lock()
	st.whole = append(st.whole, text...)
	st.mu.Unlock()
	st.send(event{"response.output_text.delta", fmt.Sprintf(`%s,"delta":"%s","logprobs":[],"t":%d`, st.place(), text, time.Now().UnixNano())})
}

// run writes the events of a whole stream from the one with number first on, or as many as the limit allows, d before
// each delta but the first.
func (st *stream) run(first, deltas, size int, d time.Duration) {
	st.send(st.opening()[first:]...)
	for i := 0; i < deltas && !st.over(); i++ {
		if i > 0 && d > 0 {
			st.x.pause(d)
		}
		st.delta(size)
		if d > 0 {
			st.x.flush()
		}
	}
	st.send(st.ending()...)
}
