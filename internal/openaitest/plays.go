package openaitest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

func playAuto(x *exchange) ending {
	if x.call != create {
		return x.playCall()
	}
	if x.ask.Stream {
		x.stream(5, 0, 0)
		return keep
	}
	if !json.Valid(x.body) {
		x.problem(400, apiError{Message: "We could not parse the JSON body of your request.", Type: "invalid_request_error"})
		return keep
	}
	x.json(40)
	return keep
}

func (x *exchange) json(size int, fields ...string) {
	m := x.newMessage()
	m.add(filler(size))
	x.c.s.keep(m)
	x.reply(200, m.object("completed"), append(fields, jsonType)...)
}

func (x *exchange) stream(deltas, size int, d time.Duration) {
	x.head(200, streamType, chunked)
	st := x.newStream()
	x.c.s.keep(st.message)
	st.run(deltas, size, d, noLimit)
	st.end()
}

func playJSON(x *exchange) ending {
	x.json(x.sc.num("s", 40))
	return keep
}

func playBackground(x *exchange) ending {
	m := x.newMessage()
	m.add(filler(x.sc.num("s", 40)))
	x.c.s.keep(m)
	x.reply(200, m.object("queued"), jsonType)
	return keep
}

func playSSE(x *exchange) ending {
	x.stream(x.sc.num("n", 20), x.sc.num("s", 0), x.sc.dur(0))
	return keep
}

func playKeepalive(x *exchange) ending {
	x.head(200, streamType, chunked)
	st := x.newStream()
	opening := st.opening()
	opening[0]()
	opening[1]()
	for range x.sc.num("n", 5) {
		if !x.pause(x.sc.dur(50 * time.Millisecond)) {
			return cut
		}
		st.send("keepalive", "")
	}
	opening[2]()
	opening[3]()
	st.delta(0)
	for _, event := range st.ending() {
		event()
	}
	st.end()
	return keep
}

func playFailed(x *exchange) ending {
	x.head(200, streamType, chunked)
	st := x.newStream()
	st.run(0, 0, 0, 2)
	st.send("response.failed", fmt.Sprintf(`,"response":%s`, st.failed(x.sc.text("code", "server_error"))))
	st.end()
	return keep
}

func playSearch(x *exchange) ending {
	const call = `,"output_index":0,"item":{"type":"custom_tool_call","id":"ctc_1","call_id":"call_1","name":"exec","status":"completed",` +
		`"input":"text(await tools.web__run({search_query: [{q: \"responses-api-proxy\"}]}))"}`
	x.head(200, streamType, chunked)
	st := x.newStream()
	st.run(0, 0, 0, 2)
	st.send("response.output_item.done", call)
	st.send("response.completed", fmt.Sprintf(`,"response":%s`, st.object("completed")))
	st.end()
	return keep
}

// silence waits for d, or until the peer leaves if none is given.
func (x *exchange) silence() bool {
	if d := x.sc.dur(0); d > 0 {
		return x.pause(d)
	}
	x.flush()
	return false
}

func playSilent(x *exchange) ending {
	if !x.silence() {
		return hold
	}
	return playAuto(x)
}

func playHeadThenSilent(x *exchange) ending {
	x.head(200, streamType, chunked)
	st := x.newStream()
	events := append(st.opening(), func() { st.delta(0) })
	events[0]()
	if !x.silence() {
		return hold
	}
	for _, event := range append(events[1:], st.ending()...) {
		event()
	}
	st.end()
	return keep
}

// broken writes n events and half a chunk.
func (x *exchange) broken() {
	x.head(200, streamType, chunked)
	st, n := x.newStream(), x.sc.num("n", 3)
	st.run(n, 0, x.sc.dur(0), n)
	x.write("100\r\nevent: response.output_text.del")
	x.flush()
}

func playCut(x *exchange) ending {
	x.broken()
	return cut
}

func playReset(x *exchange) ending {
	x.broken()
	return reset
}

func playCutLength(x *exchange) ending {
	x.head(200, jsonType, contentLength(1000))
	x.writeBytes(filler(500))
	x.flush()
	return cut
}

func playCloseBefore(*exchange) ending { return cut }

func playCutHead(x *exchange) ending {
	x.write("HTTP/1.1 200 OK\r\nContent-Type: appli")
	x.flush()
	return cut
}

func playGarbage(x *exchange) ending {
	x.write("\x00\x01SSH-2.0-this is not HTTP\r\n\xff\xfe\r\n\r\n")
	x.flush()
	return cut
}

func playEarly(x *exchange) ending {
	status := x.sc.num("status", 413)
	x.problem(status, errorFor(status))
	x.finish()
	x.readBody()
	return keep
}

func playEarlyClose(x *exchange) ending {
	status := x.sc.num("status", 413)
	x.problem(status, errorFor(status), "Connection: close")
	x.finish()
	x.read = true // that is, it never will be
	return finish
}

func playEarlySSE(x *exchange) ending {
	x.stream(x.sc.num("n", 5), 0, 0)
	x.finish()
	x.readBody()
	return keep
}

func playRedirect(x *exchange) ending {
	x.reply(x.sc.num("status", 307), nil, "Location: "+x.sc.text("to", "https://redirected.invalid/v1/responses"))
	return keep
}

func playStatus(x *exchange) ending {
	status := x.sc.num("code", x.sc.num("status", 429))
	e := errorFor(status)
	e.Code = x.sc.text("error", e.Code)
	var fields []string
	if retry := x.sc.text("retry", ""); retry != "" {
		fields = append(fields, "Retry-After: "+retry)
	}
	x.problem(status, e, fields...)
	return keep
}

func playGzip(x *exchange) ending {
	m := x.newMessage()
	m.add(filler(x.sc.num("s", 40)))
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(m.object("completed"))
	z.Close()
	x.reply(200, packed.Bytes(), jsonType, "Content-Encoding: gzip", "Vary: Accept-Encoding")
	return keep
}

func playEcho(x *exchange) ending {
	x.reply(200, append(bytes.Clone(x.r.Head), x.body...), "Content-Type: text/plain; charset=utf-8")
	return keep
}

func playCloseDelimited(x *exchange) ending {
	x.head(200, streamType)
	st := x.newStream()
	st.bare = true
	st.run(x.sc.num("n", 3), 0, x.sc.dur(0), noLimit)
	return finish
}

func playHTTP10(x *exchange) ending {
	m := x.newMessage()
	m.add(filler(40))
	body := m.object("completed")
	x.headAs("HTTP/1.0", 200, jsonType, contentLength(len(body)))
	x.writeBytes(body)
	return finish
}

func playContinue(x *exchange) ending {
	x.write("HTTP/1.1 100 Continue\r\n\r\n")
	x.write("HTTP/1.1 103 Early Hints\r\nLink: </hint>; rel=preload\r\n\r\n")
	x.flush()
	return playAuto(x)
}

func playSwitch(x *exchange) ending {
	x.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	x.flush()
	return hold
}

func playLengthAndChunked(x *exchange) ending {
	x.head(200, jsonType, contentLength(5), chunked)
	x.chunk([]byte(`{"a":"smuggled"}`))
	x.write("0\r\n\r\n")
	return keep
}

func playTwoLengths(x *exchange) ending {
	x.head(200, jsonType, contentLength(5), contentLength(6))
	x.write("[1,2]\n")
	return keep
}

func playBadChunk(x *exchange) ending {
	x.head(200, streamType, chunked)
	x.chunk([]byte("event: a\n\n"))
	x.write("zz\r\nevent: b\n\n\r\n0\r\n\r\n")
	return keep
}

func playBareLF(x *exchange) ending {
	x.json(40)
	head, body, _ := bytes.Cut(x.out, []byte("\r\n\r\n"))
	x.out = fmt.Appendf(nil, "%s\n\n%s", bytes.ReplaceAll(head, []byte("\r\n"), []byte("\n")), body)
	return keep
}

func playBigHead(x *exchange) ending {
	field := "X-Big: " + strings.Repeat("b", x.sc.num("s", 70000))
	x.json(40, slices.Repeat([]string{field}, x.sc.num("n", 1))...)
	return keep
}

func playTrailers(x *exchange) ending {
	x.head(200, streamType, chunked, "Trailer: X-Checksum")
	x.newStream().run(3, 0, 0, noLimit)
	x.write("0\r\nX-Checksum: fake\r\n\r\n")
	return keep
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
	for size, at := x.sc.num("s", 1e6), 0; at < size && x.err == nil; {
		n := min(len(p), size-at)
		Pattern(p[:n], int64(at))
		write(p[:n])
		at += n
	}
}

func playBytes(x *exchange) ending {
	x.head(200, "Content-Type: application/octet-stream", contentLength(x.sc.num("s", 1e6)))
	x.pattern(x.writeBytes)
	return keep
}

func playChunks(x *exchange) ending {
	x.head(200, "Content-Type: application/octet-stream", chunked)
	x.pattern(x.chunk)
	x.write("0\r\n\r\n")
	return keep
}

func playNoContent(x *exchange) ending {
	x.head(204)
	return keep
}

func playSlowRead(x *exchange) ending {
	if small, ok := x.c.raw.(interface{ SetReadBuffer(int) error }); ok {
		small.SetReadBuffer(4096) // else the kernel takes in megabytes for us
	}
	x.readBodyAt(max(x.sc.num("s", 4096), 1), x.sc.dur(10*time.Millisecond))
	if x.err != nil {
		return cut
	}
	return playAuto(x)
}

func playStale(x *exchange) ending {
	playAuto(x)
	return finish
}
