package openaitest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A scenario is what to do with one request: "name k=v k=v".
type scenario struct {
	play  func(*exchange) ending
	early bool // comes before the body is read: the scenario reads it, or does not
	args  map[string]string
}

type entry struct {
	play  func(*exchange) ending
	usage string
	early bool
}

// scenarios is the closed list. A number or a time that is not given has the
// value shown.
var scenarios = map[string]entry{
	"auto":           {play: playAuto, usage: "JSON or SSE, as the request's stream field says"},
	"json":           {play: playJSON, usage: "s=40: JSON with about s bytes of text"},
	"sse":            {play: playSSE, usage: "n=20 s=0 d=0 flush=0: n deltas of s bytes, d apart; flush=1: one write per event"},
	"keepalive":      {play: playKeepalive, usage: "n=5 d=50ms: keepalive events before the first delta"},
	"failed":         {play: playFailed, usage: "code=server_error: a stream that ends in response.failed"},
	"search":         {play: playSearch, usage: "a stream in which the model searches the web by Codex's tool exec"},
	"silent":         {play: playSilent, usage: "d=forever: reads the request, says nothing for d, then answers"},
	"headthensilent": {play: playHeadThenSilent, usage: "d=forever: a stream's head and first event, then silence, then the rest"},
	"cut":            {play: playCut, usage: "n=3 d=0 alert=1: n events, half a chunk, FIN; alert=0: without TLS's close_notify"},
	"reset":          {play: playReset, usage: "n=3 d=0: n events, half a chunk, RST"},
	"cutcl":          {play: playCutLength, usage: "alert=1: 500 of 1000 bytes, FIN"},
	"closebefore":    {play: playCloseBefore, usage: "alert=1: closes without an answer"},
	"cuthead":        {play: playCutHead, usage: "alert=1: half a head, FIN"},
	"garbage":        {play: playGarbage, usage: "bytes that are not HTTP"},
	"early":          {play: playEarly, early: true, usage: "status=413: answers, then reads the body"},
	"earlyclose":     {play: playEarlyClose, early: true, usage: "status=413: answers without reading the body and closes"},
	"earlysse":       {play: playEarlySSE, early: true, usage: "n=5: a whole stream, then reads the body"},
	"redirect":       {play: playRedirect, usage: "status=307 to=URL"},
	"status":         {play: playStatus, usage: "code=429 retry=N error=CODE: an error, with Retry-After if retry is given"},
	"gzip":           {play: playGzip, usage: "s=40: JSON with Content-Encoding: gzip"},
	"echo":           {play: playEcho, usage: "the request's head and body as text, credentials included"},
	"closedelim":     {play: playCloseDelimited, usage: "n=3 alert=1: a stream without framing, ended by close"},
	"http10":         {play: playHTTP10, usage: "an HTTP/1.0 answer"},
	"continue":       {play: playContinue, usage: "100, 103, then an answer"},
	"switch":         {play: playSwitch, usage: "101, then silence"},
	"clte":           {play: playLengthAndChunked, usage: "Content-Length and Transfer-Encoding"},
	"clcl":           {play: playTwoLengths, usage: "two Content-Length that differ"},
	"badchunk":       {play: playBadChunk, usage: "a chunk size that is no number"},
	"barelf":         {play: playBareLF, usage: "a head with LF for CRLF"},
	"bighead":        {play: playBigHead, usage: "s=70000 n=1: n headers, of s bytes each"},
	"trailers":       {play: playTrailers, usage: "a chunked answer with trailers"},
	"bytes":          {play: playBytes, usage: "s=1000000: s bytes of Pattern with Content-Length"},
	"chunks":         {play: playChunks, usage: "s=1000000: s bytes of Pattern, chunked"},
	"nocontent":      {play: playNoContent, usage: "204"},
	"slowread":       {play: playSlowRead, early: true, usage: "s=4096 d=10ms: reads s bytes of the body every d, then answers"},
	"background":     {play: playBackground, usage: "s=40: JSON of a response that is queued, and complete when it is fetched"},
	"ws":             {play: playWebsocket, usage: "n=forever code=0 s=3 extension= protocol=: accepts a WebSocket; after n messages a close with code, or a cut"},
	"wssilent":       {play: playWebsocketSilent, usage: "accepts a WebSocket, and never says a word"},
	"wstorn":         {play: playWebsocketTorn, usage: "accepts a WebSocket, and ends within a frame"},
	"wsslow":         {play: playWebsocketSlow, usage: "d=50ms: accepts a WebSocket; its first frame comes in two pieces"},
	"wswrong":        {play: playWebsocketWrong, usage: "accepts a WebSocket with a wrong Sec-WebSocket-Accept"},
	"stale":          {play: playStale, usage: "answers, then closes without having said so"},
}

// Scenarios returns a line of usage for each scenario.
func Scenarios() []string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(scenarios)) {
		lines = append(lines, name+"  "+scenarios[name].usage)
	}
	return lines
}

func parseScenario(text string) (scenario, error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return scenario{}, fmt.Errorf("empty scenario")
	}
	e, ok := scenarios[words[0]]
	if !ok {
		return scenario{}, fmt.Errorf("unknown scenario %q", words[0])
	}
	sc := scenario{play: e.play, early: e.early, args: map[string]string{}}
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
	case "to", "error", "code", "extension", "protocol":
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

func (sc scenario) text(k, def string) string {
	if v, ok := sc.args[k]; ok {
		return v
	}
	return def
}
