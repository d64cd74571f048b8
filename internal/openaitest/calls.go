package openaitest

import (
	"fmt"
	"strings"
)

// A call is one of the routes.
type call int

const (
	nowhere call = iota
	otherMethod
	create
	compact
	inputTokens
	models
	retrieve
	cancelResponse
	deleteResponse
	websocket
	search
	messages
	countTokens
)

// routeOf returns the route of a request. All routes lie at, below or beside the server's own path.
func (s *Server) routeOf(r *Request) call {
	path, _, _ := strings.Cut(r.Target, "?")
	own, _, _ := strings.Cut(s.opts.Path, "?")
	parent, isResponses := strings.CutSuffix(own, "/responses")
	below, isBelow := strings.CutPrefix(path, own+"/")
	switch {
	case path == own && r.Method == "GET" && strings.EqualFold(r.Get("Upgrade"), "websocket"):
		return websocket
	case path == own && r.Method == "POST" && strings.HasSuffix(own, "/messages"):
		return messages
	case path == own && r.Method == "POST":
		return create
	case path == own+"/count_tokens" && r.Method == "POST" && strings.HasSuffix(own, "/messages"):
		return countTokens
	case path == own:
		return otherMethod
	case isResponses && path == parent+"/models" && r.Method == "GET":
		return models
	case isResponses && path == parent+"/alpha/search" && r.Method == "POST":
		return search
	case isResponses && isBelow:
		return routeBelow(r.Method, below)
	}
	return nowhere
}

func routeBelow(method, below string) call {
	id, verb, hasVerb := strings.Cut(below, "/")
	switch {
	case method == "POST" && below == "compact":
		return compact
	case method == "POST" && below == "input_tokens":
		return inputTokens
	case method == "GET" && !hasVerb:
		return retrieve
	case method == "DELETE" && !hasVerb:
		return deleteResponse
	case method == "POST" && verb == "cancel" && id != "":
		return cancelResponse
	}
	return nowhere
}

// handleCall responds to a request that is not a POST to the server's own path.
func (x *exchange) handleCall() ending {
	switch x.call {
	case compact:
		m := x.newMessage(40)
		return x.replyJSON(`{"id":"%s","object":"response.compaction","created_at":%d,"output":[],"usage":%s}`, m.response, m.created, m.usage())
	case inputTokens:
		return x.replyJSON(`{"object":"response.input_tokens","input_tokens":%d}`, x.r.BodyLen/4)
	case models:
		if strings.Contains(x.r.Target, "client_version=") {
			return x.replyJSON(catalogue)
		}
		return x.replyJSON(`{"object":"list","data":[{"id":"gpt-5","object":"model","created":1754425777,"owned_by":"system"}]}`)
	case websocket:
		return handleWebsocket(x)
	case search:
		return x.replyJSON(`{"output":"%s","encrypted_output":null,"results":[]}`, filler(40))
	case messages:
		return x.handleMessages()
	case countTokens:
		return x.replyJSON(`{"input_tokens":%d}`, x.r.BodyLen/4)
	}
	return x.handleStored()
}

func (x *exchange) replyJSON(format string, args ...any) ending {
	return x.reply(200, fmt.Appendf(nil, format, args...), jsonType)
}

// keep remembers a response, to be asked for again.
func (s *Server) keep(m *message) {
	if s.opts.Forget {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made[m.response] = m
}

// stored returns a response, or nil; drop forgets it.
func (s *Server) stored(id string, drop bool) *message {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.made[id]
	if drop {
		delete(s.made, id)
	}
	return m
}

// handleStored responds to a request about a stored response.
func (x *exchange) handleStored() ending {
	path, query, _ := strings.Cut(x.r.Target, "?")
	own, _, _ := strings.Cut(x.c.s.opts.Path, "?")
	id, _, _ := strings.Cut(strings.TrimPrefix(path, own+"/"), "/")
	m := x.c.s.stored(id, x.call == deleteResponse)
	switch {
	case m == nil:
		return x.problem(404, apiError{Message: "Response with id '" + id + "' not found.", Type: "invalid_request_error"})
	case x.call == deleteResponse:
		return x.replyJSON(`{"id":"%s","object":"response","deleted":true}`, id)
	case x.call == retrieve && strings.Contains("&"+query+"&", "&stream=true&"):
		x.head(200, streamType, chunked)
		st := &stream{message: m, x: x, limit: noLimit, sse: true, frame: x.chunk}
		st.send(st.opening()[0], st.ending()[3])
		return x.lastChunk("")
	case x.call == cancelResponse:
		return x.reply(200, m.object("cancelled"), jsonType)
	}
	return x.reply(200, m.object("completed"), jsonType)
}

// catalogue is the response to Codex's request for the models: one model, with no more than Codex needs to run it.
const catalogue = `{"models":[{"slug":"gpt-5","display_name":"gpt-5","description":"","default_reasoning_level":"low",` +
	`"supported_reasoning_levels":[{"effort":"low","description":""}],"shell_type":"shell_command","visibility":"list",` +
	`"supported_in_api":true,"priority":1,"base_instructions":"","supports_reasoning_summaries":false,"support_verbosity":false,` +
	`"default_verbosity":null,"apply_patch_tool_type":null,` +
	`"truncation_policy":{"mode":"tokens","limit":10000},"supports_parallel_tool_calls":false,"context_window":272000,` +
	`"experimental_supported_tools":[]}]}`

// cached are the tokens of a message that come from a cache or go there, which input_tokens leaves out.
const cached = `"cache_creation_input_tokens":3,"cache_read_input_tokens":4`

// handleMessages responds as Anthropic's Messages API does.
func (x *exchange) handleMessages() ending {
	const out = 10 // tokens
	message := func(content, stop string, tokens int) string {
		return fmt.Sprintf(`{"id":"msg_%032x","type":"message","role":"assistant","model":%s,"content":[%s],"stop_reason":%s,`+
			`"stop_sequence":null,"usage":{"input_tokens":%d,%s,"output_tokens":%d}}`,
			x.c.s.ids.Add(1), quote(x.ask.Model), content, stop, x.r.BodyLen/4, cached, tokens)
	}
	if !x.ask.Stream {
		return x.replyJSON("%s", message(`{"type":"text","text":"`+filler(40)+`"}`, `"end_turn"`, out))
	}
	x.head(200, streamType, chunked)
	for _, e := range []event{
		{"message_start", `,"message":` + message("", "null", 1)},
		{"content_block_start", `,"index":0,"content_block":{"type":"text","text":""}`},
		{"ping", ""},
		{"content_block_delta", `,"index":0,"delta":{"type":"text_delta","text":"` + filler(40) + `"}`},
		{"content_block_stop", `,"index":0`},
		{"message_delta", fmt.Sprintf(`,"delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":%d}`, out)},
		{"message_stop", ""},
	} {
		x.chunk(fmt.Appendf(nil, "event: %s\ndata: {\"type\":\"%s\"%s}\n\n", e.kind, e.kind, e.rest))
	}
	return x.lastChunk("")
}
