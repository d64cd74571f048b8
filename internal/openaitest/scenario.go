package openaitest

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A scenario is what to do with one request: "name k=v k=v". A number or a time that is not given has the value shown
// in the table.
type scenario struct {
	handle func(*exchange) ending
	early  bool // the response comes before the body is read
	args   map[string]string
}

// scenarios is the closed list. Scenarios that break off with FIN take alert=0: with TLS they do so without
// close_notify.
var scenarios = map[string]scenario{
	// Whole responses.
	"auto":       {handle: handleAuto},                                         // JSON, or SSE if the request's stream field is true
	"json":       {handle: handleJSON("completed")},                            // s=40: JSON with about s bytes of text
	"gzip":       {handle: handleGzip},                                         // s=40: the same with Content-Encoding: gzip
	"background": {handle: handleJSON("queued")},                               // s=40: JSON of a response that is queued, and complete when it is fetched
	"sse":        {handle: handleSSE(20)},                                      // n=20 s=0 d=0 flush=0: n deltas of s bytes, d apart; flush=1: one write per event
	"keepalive":  {handle: handleKeepalive},                                    // n=5 d=50ms: keepalive events before the first delta
	"failed":     {handle: short(failedEvents)},                                // code=server_error: a stream that ends in response.failed
	"search":     {handle: short(searchEvents)},                                // a stream in which the model searches the web by Codex's tool exec
	"trailers":   {handle: handleTrailers},                                     // a stream with trailers
	"closedelim": {handle: handleCloseDelimited},                               // n=3: a stream without framing, ended by close
	"bytes":      {handle: handlePattern(contentLength)},                       // s=1000000: s bytes of Pattern with Content-Length
	"chunks":     {handle: handlePattern(func(int) string { return chunked })}, // s=1000000: s bytes of Pattern, chunked
	"bighead":    {handle: handleBigHead},                                      // s=70000 n=1: n fields, of s bytes each
	"redirect":   {handle: handleRedirect},                                     // status=307 to=URL
	"status":     {handle: handleStatus(429, keep)},                            // code=429 retry=N: an error, with Retry-After if retry is given
	"echo":       {handle: handleEcho},                                         // the request's head and body as text, and the credential in two fields
	"http10":     {handle: rewritten(finish, "HTTP/1.1", "HTTP/1.0")},          // an HTTP/1.0 response
	"continue":   {handle: handleContinue},                                     // 100, 103, then a response
	"nocontent":  {handle: fixed(keep, 204, "")},
	"stale":      {handle: handleStale}, // closes without Connection: close

	// Order and time.
	"silent":         {handle: handleSilent},                           // d=forever: reads the request, waits for d, then responds
	"headthensilent": {handle: handleHeadThenSilent},                   // d=forever: a stream's head and first event, then silence, then the rest
	"early":          {handle: handleStatus(413, keep), early: true},   // status=413: responds, then reads the body
	"earlyclose":     {handle: handleStatus(413, finish), early: true}, // status=413: responds without reading the body and closes
	"earlysse":       {handle: handleSSE(5), early: true},              // n=5: a whole stream, then reads the body
	"slowread":       {handle: handleSlowRead, early: true},            // s=4096 d=10ms: reads s bytes of the body every d, then responds

	// Responses that are not whole.
	"cut":         {handle: handleCut(cut)},                                            // n=3 d=0: n events, half a chunk, FIN
	"reset":       {handle: handleCut(reset)},                                          // n=3 d=0: n events, half a chunk, RST
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
	"switch":   {handle: fixed(hold, 0, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")},

	// WebSockets.
	"ws":       {handle: handleWebsocket},     // n=forever code=0 s=3 extension= protocol=: after n messages a close with code, or a cut
	"wsslow":   {handle: handleWebsocketSlow}, // d=50ms: the first frame comes in two pieces
	"wssilent": {handle: switched(hold, "")},
	"wstorn":   {handle: switched(cut, "\x81\x64"+strings.Repeat("t", 50))}, // ends within a frame
	"wswrong":  {handle: handleWebsocketWrong},                              // a wrong Sec-WebSocket-Accept
}

func parseScenario(text string) (scenario, error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return scenario{}, fmt.Errorf("empty scenario")
	}
	sc, ok := scenarios[words[0]]
	if !ok {
		return scenario{}, fmt.Errorf("unknown scenario %q", words[0])
	}
	sc.args = map[string]string{}
	for _, w := range words[1:] {
		k, v, _ := strings.Cut(w, "=")
		if err := checkArg(k, v); err != nil {
			return scenario{}, fmt.Errorf("scenario %q: %w", text, err)
		}
		sc.args[k] = v
	}
	return sc, nil
}

// checkArg keeps mistakes in a test from becoming a default in silence.
func checkArg(k, v string) error {
	var err error
	switch k {
	case "n", "s", "status", "retry", "alert", "flush":
		_, err = strconv.ParseUint(v, 10, 40)
	case "d":
		_, err = time.ParseDuration(v)
	case "to", "code", "extension", "protocol":
	default:
		err = fmt.Errorf("unknown argument %q", k)
	}
	return err
}

// num returns a numeric argument, or def. "code" is a number or a word, depending on the scenario.
func (sc scenario) num(k string, def int) int {
	if n, err := strconv.Atoi(sc.args[k]); err == nil {
		return n
	}
	return def
}

func (sc scenario) dur(def time.Duration) time.Duration {
	if d, err := time.ParseDuration(sc.args["d"]); err == nil {
		return d
	}
	return def
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
func handleAuto(x *exchange) ending {
	if x.route == nil {
		return handleRefused(x)
	}
	return x.route.handle(x)
}

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
	return func(x *exchange) ending { return x.json(status, x.num("s", 40)) }
}

// json responds with a new response in one of its states, with size bytes of text.
func (x *exchange) json(status string, size int, fields ...string) ending {
	return x.reply(200, x.newMessage(size).object(status), append(fields, jsonType)...)
}

func handleGzip(x *exchange) ending {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(x.newMessage(x.num("s", 40)).object("completed"))
	z.Close()
	return x.reply(200, packed.Bytes(), jsonType, "Content-Encoding: gzip", "Vary: Accept-Encoding")
}

func handleSSE(deltas int) func(*exchange) ending {
	return func(x *exchange) ending { return x.stream(x.num("n", deltas), x.num("s", 0), x.dur(0)) }
}

// stream responds with a whole stream.
func (x *exchange) stream(deltas, size int, d time.Duration) ending {
	x.newStream(chunked).run(0, deltas, size, d)
	return x.end("")
}

func handleKeepalive(x *exchange) ending {
	st := x.newStream(chunked)
	st.send(st.opening()[:2]...)
	for range x.num("n", 5) {
		if !x.pause(x.dur(50 * time.Millisecond)) {
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
	return []event{{"response.failed", `,"response":` + string(st.object("failed", cmp.Or(st.x.args["code"], "server_error")))}}
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
	x.newStream().run(0, x.num("n", 3), 0, x.dur(0))
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
		size := x.num("s", 1e6)
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
	field := "X-Big: " + strings.Repeat("b", x.num("s", 70000))
	return x.json("completed", 40, slices.Repeat([]string{field}, x.num("n", 1))...)
}

func handleRedirect(x *exchange) ending {
	return x.reply(x.num("status", 307), nil, "Location: "+cmp.Or(x.args["to"], "https://redirected.invalid/v1/responses"))
}

// handleStatus responds with an error, and then with finish closes in place of reading the body.
func handleStatus(status int, how ending) func(*exchange) ending {
	return func(x *exchange) ending {
		var fields []string
		if retry, ok := x.args["retry"]; ok {
			fields = []string{"Retry-After: " + retry}
		}
		if how == finish {
			fields = append(fields, "Connection: close")
			x.read = true // that is, it never will be
		}
		x.problem(x.num("code", x.num("status", status)), "", fields...)
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
	d := x.dur(0)
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
	x.readBodyAt(max(x.num("s", 4096), 1), x.dur(10*time.Millisecond))
	if x.err != nil {
		return cut
	}
	return handleAuto(x)
}

// handleCut sends n events and half a chunk.
func handleCut(how ending) func(*exchange) ending {
	return func(x *exchange) ending {
		st := x.newStream(chunked)
		st.limit = x.num("n", 3)
		st.run(0, st.limit, 0, x.dur(0))
		x.write("100\r\nevent: response.output_text.del")
		return how
	}
}
