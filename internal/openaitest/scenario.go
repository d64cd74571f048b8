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

// A scenario is what to do with one request: "name k=v k=v". A number or a time
// that is not given has the value shown in the table.
type scenario struct {
	handle func(*exchange) ending
	early  bool // the response comes before the body is read
	args   map[string]string
}

// scenarios is the closed list. Scenarios that break off with FIN take alert=0: with TLS they do so without
// close_notify.
var scenarios = map[string]scenario{
	// Whole responses.
	"auto":       {handle: handleAuto},              // JSON, or SSE if the request's stream field is true
	"json":       {handle: handleJSON("completed")}, // s=40: JSON with about s bytes of text
	"gzip":       {handle: handleGzip},              // s=40: the same with Content-Encoding: gzip
	"background": {handle: handleJSON("queued")},    // s=40: JSON of a response that is queued, and complete when it is fetched
	"sse":        {handle: handleSSE(20)},           // n=20 s=0 d=0 flush=0: n deltas of s bytes, d apart; flush=1: one write per event
	"keepalive":  {handle: handleKeepalive},         // n=5 d=50ms: keepalive events before the first delta
	"failed":     {handle: handleFailed},            // code=server_error: a stream that ends in response.failed
	"search":     {handle: handleSearch},            // a stream in which the model searches the web by Codex's tool exec
	"trailers":   {handle: handleTrailers},          // a stream with trailers
	"closedelim": {handle: handleCloseDelimited},    // n=3: a stream without framing, ended by close
	"bytes":      {handle: handleBytes},             // s=1000000: s bytes of Pattern with Content-Length
	"chunks":     {handle: handleChunks},            // s=1000000: s bytes of Pattern, chunked
	"bighead":    {handle: handleBigHead},           // s=70000 n=1: n fields, of s bytes each
	"redirect":   {handle: handleRedirect},          // status=307 to=URL
	"status":     {handle: handleStatus},            // code=429 retry=N: an error, with Retry-After if retry is given
	"echo":       {handle: handleEcho},              // the request's head and body as text, and the credential in two fields
	"http10":     {handle: handleHTTP10},            // an HTTP/1.0 response
	"continue":   {handle: handleContinue},          // 100, 103, then a response
	"nocontent":  {handle: fixed(keep, 204, "")},
	"stale":      {handle: handleStale}, // closes without Connection: close

	// Order and time.
	"silent":         {handle: handleSilent},                  // d=forever: reads the request, waits for d, then responds
	"headthensilent": {handle: handleHeadThenSilent},          // d=forever: a stream's head and first event, then silence, then the rest
	"early":          {handle: handleEarly, early: true},      // status=413: responds, then reads the body
	"earlyclose":     {handle: handleEarlyClose, early: true}, // status=413: responds without reading the body and closes
	"earlysse":       {handle: handleSSE(5), early: true},     // n=5: a whole stream, then reads the body
	"slowread":       {handle: handleSlowRead, early: true},   // s=4096 d=10ms: reads s bytes of the body every d, then responds

	// Responses that are not whole.
	"cut":         {handle: handleCut(cut)},                                            // n=3 d=0: n events, half a chunk, FIN
	"reset":       {handle: handleCut(reset)},                                          // n=3 d=0: n events, half a chunk, RST
	"cutchunk":    {handle: fixed(cut, 200, "8\r\ndata: {}\r\n", streamType, chunked)}, // a whole chunk, FIN
	"cutcl":       {handle: fixed(cut, 200, filler(500), jsonType, contentLength(1000))},
	"closebefore": {handle: raw(cut, "")},
	"cuthead":     {handle: raw(cut, "HTTP/1.1 200 OK\r\nContent-Type: appli")},

	// Malformed responses.
	"garbage":  {handle: raw(cut, "\x00\x01SSH-2.0-this is not HTTP\r\n\xff\xfe\r\n\r\n")},
	"clte":     {handle: fixed(keep, 200, "10\r\n"+`{"a":"smuggled"}`+"\r\n0\r\n\r\n", jsonType, contentLength(5), chunked)},
	"clcl":     {handle: fixed(keep, 200, "[1,2]\n", jsonType, contentLength(5), contentLength(6))},
	"badchunk": {handle: fixed(keep, 200, "a\r\nevent: a\n\n\r\nzz\r\nevent: b\n\n\r\n0\r\n\r\n", streamType, chunked)},
	"barelf":   {handle: handleBareLF}, // a head with LF for CRLF
	"switch":   {handle: raw(hold, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")},

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

// num returns a numeric argument, or def. "code" is a number or a word,
// depending on the scenario.
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

// raw sends bytes.
func raw(how ending, text string) func(*exchange) ending {
	return func(x *exchange) ending {
		x.write(text)
		return how
	}
}

// fixed sends a head, and bytes behind it.
func fixed(how ending, status int, text string, fields ...string) func(*exchange) ending {
	return func(x *exchange) ending {
		x.head(status, fields...)
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
		return x.problem(400, apiError{Message: "We could not parse the JSON body of your request.", Type: "invalid_request_error"})
	}
	return x.json("completed", 40)
}

func handleJSON(status string) func(*exchange) ending {
	return func(x *exchange) ending { return x.json(status, x.num("s", 40)) }
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

func handleKeepalive(x *exchange) ending {
	st := x.newStream(chunked)
	st.send(st.opening()[:2]...)
	for range x.num("n", 5) {
		if !x.pause(x.dur(50 * time.Millisecond)) {
			return cut
		}
		st.send(event{"keepalive", ""})
	}
	st.send(st.opening()[2:]...)
	st.delta(0)
	st.send(st.ending()...)
	return x.lastChunk("")
}

func handleFailed(x *exchange) ending {
	st := x.newStream(chunked)
	st.send(st.opening()[:2]...)
	st.send(event{"response.failed", `,"response":` + string(st.failed(cmp.Or(x.args["code"], "server_error")))})
	return x.lastChunk("")
}

func handleSearch(x *exchange) ending {
	const call = `,"output_index":0,"item":{"type":"custom_tool_call","id":"ctc_1","call_id":"call_1","name":"exec","status":"completed",` +
		`"input":"text(await tools.web__run({search_query: [{q: \"responses-api-proxy\"}]}))"}`
	st := x.newStream(chunked)
	st.send(st.opening()[:2]...)
	st.send(event{"response.output_item.done", call}, st.ending()[3])
	return x.lastChunk("")
}

func handleTrailers(x *exchange) ending {
	x.newStream(chunked, "Trailer: X-Checksum").run(3, 0, 0)
	return x.lastChunk("X-Checksum: fake\r\n")
}

func handleCloseDelimited(x *exchange) ending {
	x.newStream().run(x.num("n", 3), 0, x.dur(0))
	return finish
}

// Pattern fills p with what the scenarios bytes and chunks send from offset on.
func Pattern(p []byte, offset int64) {
	for i := range p {
		at := uint64(offset) + uint64(i)
		p[i] = byte(at ^ at>>8 ^ at>>16 ^ at>>24)
	}
}

func (x *exchange) pattern(write func([]byte)) {
	p := make([]byte, flushAt)
	for size, at := x.num("s", 1e6), 0; at < size && x.err == nil; {
		n := min(len(p), size-at)
		Pattern(p[:n], int64(at))
		write(p[:n])
		at += n
	}
}

func handleBytes(x *exchange) ending {
	x.head(200, "Content-Type: application/octet-stream", contentLength(x.num("s", 1e6)))
	x.pattern(func(p []byte) { x.write(string(p)) })
	return keep
}

func handleChunks(x *exchange) ending {
	x.head(200, "Content-Type: application/octet-stream", chunked)
	x.pattern(x.chunk)
	return x.lastChunk("")
}

func handleBigHead(x *exchange) ending {
	field := "X-Big: " + strings.Repeat("b", x.num("s", 70000))
	return x.json("completed", 40, slices.Repeat([]string{field}, x.num("n", 1))...)
}

func handleRedirect(x *exchange) ending {
	to := cmp.Or(x.args["to"], "https://redirected.invalid/v1/responses")
	return x.reply(x.num("status", 307), nil, "Location: "+to)
}

func handleStatus(x *exchange) ending {
	status := x.num("code", x.num("status", 429))
	if retry, ok := x.args["retry"]; ok {
		return x.problem(status, errorFor(status), "Retry-After: "+retry)
	}
	return x.problem(status, errorFor(status))
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

func handleHTTP10(x *exchange) ending {
	x.json("completed", 40)
	x.out = bytes.Replace(x.out, []byte("HTTP/1.1"), []byte("HTTP/1.0"), 1)
	return finish
}

func handleContinue(x *exchange) ending {
	x.write("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </hint>; rel=preload\r\n\r\n")
	x.flush()
	return handleAuto(x)
}

// silence waits for d; it reports false at once if none is given, or when the
// peer leaves.
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
	st.send(st.opening()[1:]...)
	st.delta(0)
	st.send(st.ending()...)
	return x.lastChunk("")
}

func handleEarly(x *exchange) ending {
	status := x.num("status", 413)
	return x.problem(status, errorFor(status))
}

func handleEarlyClose(x *exchange) ending {
	status := x.num("status", 413)
	x.problem(status, errorFor(status), "Connection: close")
	x.read = true // that is, it never will be
	return finish
}

func handleSlowRead(x *exchange) ending {
	if small, ok := x.c.raw.(interface{ SetReadBuffer(int) error }); ok {
		small.SetReadBuffer(4096) // else the kernel takes in megabytes for us
	}
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
		st.run(st.limit, 0, x.dur(0))
		x.write("100\r\nevent: response.output_text.del")
		return how
	}
}

func handleBareLF(x *exchange) ending {
	x.json("completed", 40)
	head, body, _ := bytes.Cut(x.out, []byte("\r\n\r\n"))
	x.out = fmt.Appendf(nil, "%s\n\n%s", bytes.ReplaceAll(head, []byte("\r\n"), []byte("\n")), body)
	return keep
}
