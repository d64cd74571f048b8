package openaitest

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"
)

// maxUsed is how much of a body scenarios can look at: "model" and "stream"
// may stand after megabytes of images.
const maxUsed = 64 << 20

// flushAt is how much of an answer is gathered where no delay asks for a flush.
const flushAt = 16 << 10

// An exchange is one request and the answer to it.
type exchange struct {
	c    *conn
	r    *Request
	sc   scenario
	call call
	ask  ask
	body []byte
	out  []byte
	err  error // the first that writing or reading met
	read bool
}

// ask is what matters of a request's JSON.
type ask struct {
	Model  string `json:"model"`
	Stream bool   `json:"stream"`
}

// An ending is what becomes of the connection after an answer.
type ending int

const (
	keep   ending = iota // the answer is whole, and another request may follow
	finish               // the answer is whole, and the server closes
	cut                  // the answer is not whole, and the server closes
	reset                // the same with a TCP reset
	hold                 // the answer is not whole, and the server waits for the peer to leave
)

// play answers the request.
func (x *exchange) play() ending {
	if x.refused() {
		return keep
	}
	sc, err := x.choose()
	if err != nil {
		x.readBody()
		x.problem(400, apiError{Message: err.Error(), Type: "invalid_request_error"})
		return keep
	}
	x.sc = sc
	if !sc.early {
		x.readBody()
	}
	if x.err != nil {
		return cut
	}
	return sc.play(x)
}

// conclude brings the connection to its end and reports whether it lives on.
func (x *exchange) conclude(how ending) bool {
	if how == keep || how == finish {
		x.finish()
		x.readBody()
	}
	switch {
	case errors.Is(x.err, errChunk):
		x.malformed(x.err.Error())
	case x.err != nil:
		x.c.peerLeft() // a failed write may know it before pump does
		x.c.abort()
	case how == keep && !strings.EqualFold(x.r.Get("Connection"), "close"):
		return true
	case how == reset:
		x.c.reset()
	default:
		if how == hold {
			x.c.hold(x.r)
		}
		x.hangUp()
	}
	return false
}

func (x *exchange) hangUp() {
	if x.sc.num("alert", 1) == 0 {
		x.c.abort()
		return
	}
	x.c.shut()
}

// refused answers what is not for the API or has the wrong key.
func (x *exchange) refused() bool {
	path, _, _ := strings.Cut(x.r.Target, "?")
	status, e := 0, apiError{Type: "invalid_request_error"}
	switch x.call = x.c.s.routeOf(x.r, path); {
	case x.call == nowhere:
		status, e.Message = 404, "Invalid URL ("+x.r.Method+" "+path+")"
	case x.call == otherMethod:
		status, e.Message = 405, "Invalid method for URL ("+x.r.Method+" "+path+")"
	case !x.authorized():
		status, e.Message, e.Code = 401, "Incorrect API key provided: "+obscure(x.r.Get("Authorization"))+
			". You can find your API key at https://platform.openai.com/account/api-keys.", "invalid_api_key"
	default:
		return false
	}
	x.readBody()
	x.problem(status, e)
	return true
}

func (x *exchange) authorized() bool {
	want := x.c.s.opts.Key
	if x.call == messages || x.call == countTokens {
		return want == "" || subtle.ConstantTimeCompare([]byte(x.r.Get("X-Api-Key")), []byte(want)) == 1
	}
	return want == "" || subtle.ConstantTimeCompare([]byte(x.r.Get("Authorization")), []byte("Bearer "+want)) == 1
}

// obscure shows as much of a key as OpenAI does: too much for a client of a
// proxy, which is why tests want to see it.
func obscure(authorization string) string {
	key := strings.TrimPrefix(authorization, "Bearer ")
	if len(key) < 20 {
		return strings.Repeat("*", len(key))
	}
	return key[:8] + strings.Repeat("*", len(key)-12) + key[len(key)-4:]
}

// choose finds the scenario. One that answers before it reads the body can
// stand anywhere but in that body.
func (x *exchange) choose() (scenario, error) {
	if name, ok := x.c.s.nextScript(); ok {
		return parseScenario(name)
	}
	if name := x.r.Get("X-Fake"); name != "" {
		return parseScenario(name)
	}
	if x.c.s.fallback.early {
		return x.c.s.fallback, nil
	}
	x.readBody()
	if name, ok := strings.CutPrefix(x.ask.Model, "fake:"); ok {
		return parseScenario(name)
	}
	return x.c.s.fallback, nil
}

// readBody reads the body, once.
func (x *exchange) readBody() { x.readBodyAt(32<<10, 0) }

// readBodyAt reads up to step bytes at once and waits for pause after each.
func (x *exchange) readBodyAt(step int, pause time.Duration) {
	if x.read || x.err != nil {
		return
	}
	x.read = true
	if strings.EqualFold(x.r.Get("Expect"), "100-continue") && !x.r.isAnswered {
		x.write("HTTP/1.1 100 Continue\r\n\r\n")
		x.flush()
	}
	if x.r.length >= 0 {
		step = min(step, int(x.r.length)+1)
	}
	sum, from, p := sha256.New(), x.c.bodyReader(x.r), make([]byte, step)
	var err error
	for n := 0; err == nil; {
		n, err = from.Read(p)
		sum.Write(p[:n])
		x.r.BodyLen += int64(n)
		x.body = append(x.body, p[:min(n, maxUsed-len(x.body))]...)
		if pause > 0 && !x.pause(pause) {
			err = io.ErrUnexpectedEOF
		}
	}
	sum.Sum(x.r.BodySHA256[:0])
	x.bodyEnded(err)
}

func (x *exchange) bodyEnded(err error) {
	if err == io.EOF {
		err = nil
	}
	x.r.body = append([]byte(nil), x.body[:min(len(x.body), maxKept)]...)
	x.r.bodyErr = err
	if errors.Is(err, errChunk) {
		x.c.s.fault(err.Error())
	}
	if err == nil {
		json.Unmarshal(x.body, &x.ask) // what is not JSON asks for nothing
	}
	x.fail(err)
	close(x.r.bodyDone)
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	x.r.isRead = true
	x.c.waiting = err == nil && x.r.isAnswered
}

func (x *exchange) fail(err error) {
	if x.err == nil {
		x.err = err
	}
}

// write adds to the answer. It always keeps something back for finish.
func (x *exchange) write(s string) {
	x.out = append(x.out, s...)
	x.spill()
}

func (x *exchange) writeBytes(p []byte) {
	x.out = append(x.out, p...)
	x.spill()
}

func (x *exchange) spill() {
	if n := len(x.out); n > flushAt {
		_, err := x.send(x.out[:n-1])
		x.fail(err)
		x.out = append(x.out[:0], x.out[n-1])
	}
}

// flush sends all of the answer there is so far.
func (x *exchange) flush() {
	_, err := x.send(x.out)
	x.fail(err)
	x.out = x.out[:0]
}

func (x *exchange) send(p []byte) (int, error) {
	if x.err != nil || len(p) == 0 {
		return 0, nil
	}
	return x.c.nc.Write(p)
}

// finish sends the rest of a whole answer. It holds the connection's lock so
// that nobody takes a peer that leaves after the last byte for one that left
// before it.
func (x *exchange) finish() {
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	if x.r.isAnswered {
		return
	}
	x.flush()
	if x.err != nil {
		return
	}
	x.r.isAnswered = true
	x.c.waiting = x.r.isRead
	close(x.r.answered)
}

// pause sends what there is and waits; it reports whether to go on.
func (x *exchange) pause(d time.Duration) bool {
	x.flush()
	if d > 0 && !x.c.sleep(x.r, d) {
		x.fail(io.ErrClosedPipe)
	}
	return x.err == nil
}

// malformed answers what is not HTTP and ends the connection.
func (x *exchange) malformed(why string) {
	x.err = nil
	x.problem(400, apiError{Message: "malformed request: " + why, Type: "invalid_request_error"}, "Connection: close")
	x.finish()
	x.c.linger()
}

// chunk frames p.
func (x *exchange) chunk(p []byte) {
	x.out = strconv.AppendInt(x.out, int64(len(p)), 16)
	x.out = append(x.out, "\r\n"...)
	x.out = append(x.out, p...)
	x.write("\r\n")
}
