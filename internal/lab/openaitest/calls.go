package openaitest

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// A route is a part of the API, and how it responds to a request for which no other scenario is chosen.
type route struct {
	method string
	path   string // below the directory of Options.Path; * is an id
	handle func(*exchange) ending
}

// refused is the route of what the API does not have.
var refused = route{handle: handleRefused}

// upgrade is the method of routes for the opening handshake of a WebSocket.
const upgrade = "GET, Upgrade: websocket"

// apis has the routes of each API, by the last element of Options.Path.
var apis = map[string][]route{
	"responses": {
		{"POST", "responses", handleCreate},
		{upgrade, "responses", handleWebsocket},
		{"POST", "responses/compact", handleCompact},
		{"POST", "responses/input_tokens", func(x *exchange) ending {
			return x.replyJSON(`{"object":"response.input_tokens","input_tokens":%d}`, x.r.BodyLen/4)
		}},
		{"GET", "models", handleModels},
		{"POST", "alpha/search", func(x *exchange) ending {
			return x.replyJSON(`{"output":"%s","encrypted_output":null,"results":[]}`, filler(40))
		}},
		{"GET", "responses/*", stored(handleRetrieve)},
		{"DELETE", "responses/*", stored(func(x *exchange, m *message) ending {
			x.c.s.made.Delete(m.response)
			return x.replyJSON(`{"id":"%s","object":"response","deleted":true}`, m.response)
		})},
		{"POST", "responses/*/cancel", stored(func(x *exchange, m *message) ending {
			return x.reply(200, m.object("cancelled"), jsonType)
		})},
	},
	"messages": {
		{"POST", "messages", handleMessages},
		{upgrade, "messages", handleWebsocket},
		{"POST", "messages/count_tokens", func(x *exchange) ending {
			return x.replyJSON(`{"input_tokens":%d}`, x.r.BodyLen/4)
		}},
	},
}

// findRoute sets the request's API, its path as routes have it, and its route. The server's own path, if it has a name
// that is no API's, is that of responses.
func (x *exchange) findRoute() {
	own, _, _ := strings.Cut(x.c.s.opts.Path, "?")
	target, _, _ := strings.Cut(x.r.Target, "?")
	dir, name := path.Split(own)
	x.api = name
	if below, ok := strings.CutPrefix(target, dir); ok {
		x.below = below
	}
	if apis[name] == nil && target == own {
		x.api, x.below = "responses", "responses"
	}
	x.route = &refused
	methods := []string{x.r.Method}
	if x.r.Method == "GET" && strings.EqualFold(x.r.Get("Upgrade"), "websocket") {
		methods = append(methods, upgrade)
	}
	for _, rt := range apis[x.api] {
		if ok, _ := path.Match(rt.path, x.below); ok && slices.Contains(methods, rt.method) {
			x.route = &rt
		}
	}
}

func (x *exchange) replyJSON(format string, args ...any) ending {
	return x.reply(200, fmt.Appendf(nil, format, args...), jsonType)
}

func handleCompact(x *exchange) ending {
	m := x.newMessage(40)
	return x.replyJSON(`{"id":"%s","object":"response.compaction","created_at":%d,"output":[],"usage":%s}`, m.response, m.created, m.usage())
}

func handleModels(x *exchange) ending {
	if strings.Contains(x.r.Target, "client_version=") {
		return x.replyJSON(catalogue)
	}
	return x.replyJSON(`{"object":"list","data":[{"id":"gpt-5","object":"model","created":1754425777,"owned_by":"system"}]}`)
}

// stored responds about the response that the request names.
func stored(respond func(*exchange, *message) ending) func(*exchange) ending {
	return func(x *exchange) ending {
		id := strings.Split(x.below, "/")[1]
		m, ok := x.c.s.made.Load(id)
		if !ok {
			return x.problem(404, "Response with id '"+id+"' not found.")
		}
		return respond(x, m.(*message))
	}
}

func handleRetrieve(x *exchange, m *message) ending {
	_, query, _ := strings.Cut(x.r.Target, "?")
	if !strings.Contains("&"+query+"&", "&stream=true&") {
		return x.reply(200, m.object("completed"), jsonType)
	}
	x.head(200, streamType, chunked)
	st := &stream{message: m, x: x, limit: -1, emit: x.event}
	st.send(st.opening()[0], st.ending()[3])
	return x.end("")
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
func handleMessages(x *exchange) ending {
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
		x.event(e.kind, fmt.Appendf(nil, `{"type":"%s"%s}`, e.kind, e.rest))
	}
	return x.end("")
}
