package openaitest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A scenario is what to do with one request: "name k=v k=v".
type scenario struct {
	args   string // the arguments, with the values that they have if they are not given
	handle func(*exchange) ending
	early  bool // the response comes before the body is read
	given  map[string]string
}

// common are arguments of every scenario. With alert=0, a scenario that breaks off with FIN omits TLS's close_notify; with
// flush=1, each event is a write of its own.
const common = "alert=1 flush=0 "

// wsArgs: after n messages a close with code, or a cut; s deltas for each response.
const wsArgs = "n=forever code=0 s=3 extension= protocol="

// elsewhere is where a redirect points to.
const elsewhere = "https://redirected.invalid/v1/responses"

// scenarios is the closed list.
var scenarios = map[string]scenario{
	// Whole responses.
	"auto":       {args: wsArgs, handle: handleAuto},                        // JSON, or SSE if the request's stream field is true
	"json":       {args: "s=40", handle: handleJSON("completed")},           // with about s bytes of text
	"gzip":       {args: "s=40", handle: handleGzip},                        // the same with Content-Encoding: gzip
	"background": {args: "s=40", handle: handleJSON("queued")},              // JSON of a queued response, complete when fetched
	"sse":        {args: "n=20 s=0 d=0s", handle: handleSSE},                // n deltas of s bytes, d apart
	"keepalive":  {args: "n=5 d=50ms", handle: handleKeepalive},             // n keepalive events, d apart, before the first delta
	"failed":     {args: "code=server_error", handle: short(failedEvents)},  // a stream that ends in response.failed
	"search":     {handle: short(searchEvents)},                             // a stream: the model searches by Codex's tool exec
	"trailers":   {handle: handleTrailers},                                  // a stream with trailers
	"closedelim": {args: "n=3 d=0s", handle: handleCloseDelimited},          // a stream without framing, ended by close
	"bytes":      {args: "s=1000000", handle: handlePattern(contentLength)}, // s bytes of Pattern with Content-Length
	"chunks":     {args: "s=1000000", handle: handlePattern(func(int) string { return chunked })},
	"bighead":    {args: "s=70000 n=1", handle: handleBigHead}, // n fields, of s bytes each
	"redirect":   {args: "status=307 to=" + elsewhere, handle: handleRedirect},
	"status":     {args: "code=429 retry=", handle: handleStatus("code", keep)}, // an error, with Retry-After: retry
	"echo":       {handle: handleEcho},                                          // the head and body as text, and the credential in two fields
	"http10":     {handle: rewritten(finish, "HTTP/1.1", "HTTP/1.0")},
	"continue":   {handle: handleContinue}, // 100, 103, then a response
	"nocontent":  {handle: fixed(keep, 204, "")},
	"stale":      {handle: handleStale}, // closes without Connection: close

	// Order and time.
	"silent":         {args: "d=forever", handle: handleSilent},                                 // waits for d, then responds
	"headthensilent": {args: "d=forever", handle: handleHeadThenSilent},                         // silence for d after a stream's first event
	"early":          {args: "status=413", handle: handleStatus("status", keep), early: true},   // responds, then reads the body
	"earlyclose":     {args: "status=413", handle: handleStatus("status", finish), early: true}, // responds, and closes with the body unread
	"earlysse":       {args: "n=5 s=0 d=0s", handle: handleSSE, early: true},                    // a whole stream, then reads the body
	"slowread":       {args: "s=4096 d=10ms", handle: handleSlowRead, early: true},              // reads s bytes every d, then responds

	// Responses that are not whole.
	"cut":         {args: "n=3 d=0s", handle: handleCut(cut)},                          // n events, half a chunk, FIN
	"reset":       {args: "n=3 d=0s", handle: handleCut(reset)},                        // n events, half a chunk, RST
	"cutchunk":    {handle: fixed(cut, 200, "8\r\ndata: {}\r\n", streamType, chunked)}, // a whole chunk, FIN
	"cutcl":       {handle: fixed(cut, 200, filler(500), jsonType, contentLength(1000))},
	"closebefore": {handle: fixed(cut, 0, "")},
	"cuthead":     {handle: fixed(cut, 0, "HTTP/1.1 200 OK\r\nContent-Type: appli")},

	// Malformed responses.
	"garbage":  {handle: fixed(cut, 0, "\x00\x01SSH-2.0-this is not HTTP\r\n\xff\xfe\r\n\r\n")},
	"clte":     {handle: fixed(keep, 200, "10\r\n"+`{"a":"smuggled"}`+"\r\n0\r\n\r\n", jsonType, contentLength(5), chunked)},
	"clcl":     {handle: fixed(keep, 200, "[1,2]\n", jsonType, contentLength(5), contentLength(6))},
	"badchunk": {handle: fixed(keep, 200, "a\r\nevent: a\n\n\r\nzz\r\nevent: b\n\n\r\n0\r\n\r\n", streamType, chunked)},
	"barelf":   {handle: rewritten(keep, "\r\n", "\n")}, // a head with LF for CRLF
	"switch":   {handle: fixed(hold, 0, switching+"\r\n")},

	// WebSockets.
	"ws":       {args: wsArgs, handle: handleWebsocket},
	"wsslow":   {args: "d=50ms extension= protocol=", handle: handleWebsocketSlow}, // the first frame comes in two pieces, d apart
	"wssilent": {handle: switched(hold, "")},
	"wstorn":   {handle: switched(cut, "\x81\x64"+strings.Repeat("t", 50))}, // ends within a frame
	"wswrong":  {handle: fixed(hold, 0, switching+"Sec-WebSocket-Accept: wrong\r\n\r\n")},
}

// parseScenario keeps mistakes in a test from becoming a default in silence.
func parseScenario(text string) (scenario, error) {
	name, given, _ := strings.Cut(text, " ")
	sc, ok := scenarios[name]
	if !ok {
		return scenario{}, fmt.Errorf("unknown scenario %q", name)
	}
	sc.given = map[string]string{}
	for _, w := range strings.Fields(common + sc.args) {
		k, v, _ := strings.Cut(w, "=")
		sc.given[k] = v
	}
	for _, w := range strings.Fields(given) {
		k, v, _ := strings.Cut(w, "=")
		_, known := sc.given[k]
		var err error
		switch {
		case k == "d":
			_, err = time.ParseDuration(v)
		case strings.Contains(" n s status retry alert flush ", " "+k+" "):
			_, err = strconv.ParseUint(v, 10, 40)
		}
		if !known || err != nil {
			return scenario{}, fmt.Errorf("scenario %q: unknown or malformed argument %q", text, w)
		}
		sc.given[k] = v
	}
	return sc, nil
}

// num returns a numeric argument, or 0. "code" is a number or a word, depending on the scenario.
func (sc scenario) num(k string) int {
	n, _ := strconv.Atoi(sc.given[k])
	return n
}

// dur returns d, or 0 if it is forever.
func (sc scenario) dur() time.Duration {
	d, _ := time.ParseDuration(sc.given["d"])
	return d
}

// fixed sends a head, unless status is 0, and bytes.
func fixed(how ending, status int, text string, fields ...string) func(*exchange) ending {
	return func(x *exchange) ending {
		if status != 0 {
			x.head(status, fields...)
		}
		x.write(text)
		return how
	}
}

// handleAuto responds as the route does.
func handleAuto(x *exchange) ending { return x.route.handle(x) }

func handleCreate(x *exchange) ending {
	switch {
	case x.ask.Stream:
		return x.stream(5, 0, 0)
	case !json.Valid(x.body):
		return x.problem(400, "We could not parse the JSON body of your request.")
	}
	return x.json("completed", 40)
}

func handleJSON(status string) func(*exchange) ending {
	return func(x *exchange) ending { return x.json(status, x.num("s")) }
}

// json responds with a new response in one of its states, with size bytes of text.
func (x *exchange) json(status string, size int, fields ...string) ending {
	return x.reply(200, x.newMessage(size).object(status), append(fields, jsonType)...)
}

func handleGzip(x *exchange) ending {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(x.newMessage(x.num("s")).object("completed"))
	z.Close()
	return x.reply(200, packed.Bytes(), jsonType, "Content-Encoding: gzip", "Vary: Accept-Encoding")
}

func handleSSE(x *exchange) ending { return x.stream(x.num("n"), x.num("s"), x.dur()) }

// stream responds with a whole stream.
func (x *exchange) stream(deltas, size int, d time.Duration) ending {
	x.newStream(chunked).run(0, deltas, size, d)
	return x.end("")
}

func handleKeepalive(x *exchange) ending {
	st := x.newStream(chunked)
	st.send(st.opening()[:2]...)
	for range x.num("n") {
		if !x.pause(x.dur()) {
			return cut
		}
		st.send(event{"keepalive", ""})
	}
	st.run(2, 1, 0, 0)
	return x.end("")
}

// short sends a stream of the first events and those given.
func short(last func(*stream) []event) func(*exchange) ending {
	return func(x *exchange) ending {
		st := x.newStream(chunked)
		st.send(append(st.opening()[:2], last(st)...)...)
		return x.end("")
	}
}

func failedEvents(st *stream) []event {
	return []event{{"response.failed", `,"response":` + string(st.object("failed", st.x.given["code"]))}}
}

func searchEvents(st *stream) []event {
	const call = `,"output_index":0,"item":{"type":"custom_tool_call","id":"ctc_1","call_id":"call_1","name":"exec","status":"completed",` +
		`"input":"text(await tools.web__run({search_query: [{q: \"responses-api-proxy\"}]}))"}`
	return []event{{"response.output_item.done", call}, st.ending()[3]}
}

func handleTrailers(x *exchange) ending {
	x.newStream(chunked, "Trailer: X-Checksum").run(0, 3, 0, 0)
	return x.end("X-Checksum: fake\r\n")
}

func handleCloseDelimited(x *exchange) ending {
	x.newStream().run(0, x.num("n"), 0, x.dur())
	return finish
}

// Pattern fills p with what the scenarios bytes and chunks send from offset on.
func Pattern(p []byte, offset int64) {
	for i := range p {
		at := uint64(offset) + uint64(i)
		p[i] = byte(at ^ at>>8 ^ at>>16 ^ at>>24)
	}
}

func handlePattern(framing func(size int) string) func(*exchange) ending {
	return func(x *exchange) ending {
		size := x.num("s")
		x.head(200, "Content-Type: application/octet-stream", framing(size))
		p := make([]byte, flushAt)
		for at := 0; at < size && x.err == nil; {
			n := min(len(p), size-at)
			Pattern(p[:n], int64(at))
			x.content(p[:n])
			at += n
		}
		return x.end("")
	}
}

func handleBigHead(x *exchange) ending {
	field := "X-Big: " + strings.Repeat("b", x.num("s"))
	return x.json("completed", 40, slices.Repeat([]string{field}, x.num("n"))...)
}

func handleRedirect(x *exchange) ending {
	return x.reply(x.num("status"), nil, "Location: "+x.given["to"])
}

// handleStatus responds with an error, whose status is an argument, and then with finish closes in place of reading the body.
func handleStatus(arg string, how ending) func(*exchange) ending {
	return func(x *exchange) ending {
		var fields []string
		if retry := x.given["retry"]; retry != "" {
			fields = []string{"Retry-After: " + retry}
		}
		if how == finish {
			fields = append(fields, "Connection: close")
			x.read = true // that is, it never will be
		}
		x.problem(x.num(arg), "", fields...)
		return how
	}
}

func handleEcho(x *exchange) ending {
	auth := x.r.Get("Authorization")
	text := append(bytes.Clone(x.r.Head), x.body...)
	return x.reply(200, text, "Content-Type: text/plain; charset=utf-8", "Authorization: "+auth, "Set-Cookie: echo="+auth)
}

func handleStale(x *exchange) ending {
	handleAuto(x)
	return finish
}

// rewritten sends JSON in which a part of the bytes, of the head only, is replaced.
func rewritten(how ending, old, new string) func(*exchange) ending {
	return func(x *exchange) ending {
		x.json("completed", 40)
		x.out = bytes.ReplaceAll(x.out, []byte(old), []byte(new))
		return how
	}
}

func handleContinue(x *exchange) ending {
	x.write("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </hint>; rel=preload\r\n\r\n")
	x.flush()
	return handleAuto(x)
}

// silence waits for d; it reports false at once if none is given, or when the peer leaves.
func (x *exchange) silence() bool {
	d := x.dur()
	return d > 0 && x.pause(d)
}

func handleSilent(x *exchange) ending {
	if !x.silence() {
		return hold
	}
	return handleAuto(x)
}

func handleHeadThenSilent(x *exchange) ending {
	st := x.newStream(chunked)
	st.send(st.opening()[0])
	if !x.silence() {
		return hold
	}
	st.run(1, 1, 0, 0)
	return x.end("")
}

func handleSlowRead(x *exchange) ending {
	x.c.raw.SetReadBuffer(4096) // else the kernel takes in megabytes for us
	x.readBodyAt(max(x.num("s"), 1), x.dur())
	if x.err != nil {
		return cut
	}
	return handleAuto(x)
}

// handleCut sends n events and half a chunk.
func handleCut(how ending) func(*exchange) ending {
	return func(x *exchange) ending {
		st := x.newStream(chunked)
		st.limit = x.num("n")
		st.run(0, st.limit, 0, x.dur())
		x.write("100\r\nevent: response.output_text.del")
		return how
	}
}
