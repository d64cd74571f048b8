package openaitest

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// maxUsed is how much of a body scenarios can look at: "stream" may stand after megabytes of images.
const maxUsed = 64 << 20

// flushAt is the number of bytes of a response that are buffered before a flush where no delay flushes them earlier.
const flushAt = 16 << 10

// An exchange is one request and the response to it.
type exchange struct {
	c *Conn
	r *Request
	scenario
	api   string // the last element of the server's path
	below string // the request's path below the directory of the server's
	route *route
	ask   struct { // what matters of the request's JSON
		Model  string
		Stream bool
	}
	body    []byte
	read    bool // the body was, as far as it could be
	chunked bool // the response's body is sent in chunks
	out     []byte
	err     error // the first that writing or reading met
}

// An ending is what becomes of the connection after a response.
type ending int

const (
	keep   ending = iota // the response is whole, and another request may follow
	finish               // the response is whole, and the server closes
	cut                  // the response is not whole, and the server closes
	reset                // the same with a TCP reset
	hold                 // the response is not whole, and the server waits for the peer to leave
)

// respond chooses the scenario and runs it.
func (x *exchange) respond() ending {
	sc, err := x.choose()
	if err != nil {
		x.readBody()
		return x.problem(400, err.Error())
	}
	x.scenario = sc
	if !sc.early {
		x.readBody()
	}
	if x.err != nil {
		return cut
	}
	return sc.handle(x)
}

// conclude brings the connection to its end and reports whether it lives on.
func (x *exchange) conclude(how ending) bool {
	if how == keep || how == finish {
		x.finish()
		x.readBody()
	}
	x.flush()
	malformed, is := errors.AsType[*http1.Error](x.err)
	switch {
	case is:
		x.malformed(malformed.Reason)
	case x.err != nil:
		x.c.noteEnd(x.err) // of a Write, perhaps
		x.c.abort()
	case how == keep && !x.c.Close:
		return true
	case how == reset:
		x.c.raw.SetLinger(0)
		x.c.abort()
	default:
		if how == hold {
			x.c.sleep(forever)
		}
		if x.given["alert"] == "0" {
			x.c.abort()
		}
		x.c.shut()
	}
	return false
}

// authorized reports whether the request has the key, in the field of its API.
func (x *exchange) authorized() bool {
	want := x.c.s.opts.Key
	if x.api == "messages" {
		return want == "" || x.r.Get("X-Api-Key") == want
	}
	return want == "" || x.r.Get("Authorization") == "Bearer "+want
}

// obscure shows as much of a key as OpenAI does: too much for a client of a proxy, so tests check for it.
func obscure(authorization string) string {
	key := strings.TrimPrefix(authorization, "Bearer ")
	if len(key) < 20 {
		return strings.Repeat("*", len(key))
	}
	return key[:8] + strings.Repeat("*", len(key)-12) + key[len(key)-4:]
}

// choose finds the scenario.
func (x *exchange) choose() (scenario, error) {
	x.findRoute()
	if choose := x.c.s.opts.Choose; choose != nil {
		if name := choose(x.r); name != "" {
			return parseScenario(name)
		}
	}
	if x.route.method == "" || !x.authorized() {
		return scenario{handle: handleRefused}, nil
	}
	return parseScenario(cmp.Or(x.c.s.nextScript(), x.r.Get("X-Fake"), x.c.s.opts.Default))
}

// handleRefused rejects a request that is not for the API or has the wrong key.
func handleRefused(x *exchange) ending {
	target, _, _ := strings.Cut(x.r.Target, "?")
	switch {
	case x.route.method == "" && x.api == x.below:
		return x.problem(405, "Invalid method for URL ("+x.r.Method+" "+target+")")
	case x.route.method == "":
		return x.problem(404, "Invalid URL ("+x.r.Method+" "+target+")")
	}
	return x.problem(401, "Incorrect API key provided: "+obscure(x.r.Get("Authorization"))+
		". You can find your API key at https://platform.openai.com/account/api-keys.")
}

// readBody reads the body, once.
func (x *exchange) readBody() { x.readBodyAt(1<<30, 0) }

// readBodyAt takes up to step bytes at once and waits for pause after each.
func (x *exchange) readBodyAt(step int, pause time.Duration) {
	if x.read || x.err != nil {
		return
	}
	x.read = true
	err := x.receiveBody(step, pause)
	x.r.body, x.r.bodyErr = bytes.Clone(x.body[:min(len(x.body), maxKept)]), err
	x.err = err
	if err == nil {
		json.Unmarshal(x.body, &x.ask) // a body that is not JSON sets no fields
	}
	close(x.r.bodyDone)
}

func (x *exchange) receiveBody(step int, pause time.Duration) error {
	sum := sha256.New()
	defer func() { sum.Sum(x.r.BodySHA256[:0]) }()
	for {
		piece, err := x.c.Body()
		for p := range slices.Chunk(piece, step) {
			sum.Write(p)
			x.r.BodyLen += int64(len(p))
			x.body = append(x.body, p[:min(len(p), maxUsed-len(x.body))]...)
			if pause > 0 && !x.pause(pause) {
				return io.ErrUnexpectedEOF
			}
		}
		switch err {
		case nil:
		case io.EOF:
			return nil
		default:
			return err
		}
	}
}

// write adds to the response. It always keeps something back for finish.
func (x *exchange) write(s string) {
	x.out = append(x.out, s...)
	if n := len(x.out); n > flushAt {
		last := x.out[n-1]
		x.out = x.out[:n-1]
		x.flush()
		x.out = append(x.out, last)
	}
}

// flush sends all of the response there is so far.
func (x *exchange) flush() {
	if x.err == nil && len(x.out) > 0 {
		_, x.err = x.c.nc.Write(x.out)
	}
	x.out = x.out[:0]
}

// finish sends the rest of a whole response. It holds the connection's lock: a peer that has received it all finds the
// connection idle.
func (x *exchange) finish() {
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	x.flush()
	x.c.busy = !x.read || len(x.c.Buffered()) > 0
	x.c.Continue = false // the response comes in place of 100
	if x.err == nil && !isClosed(x.r.answered) {
		close(x.r.answered)
	}
}

// pause sends what there is and waits; it reports whether to go on.
func (x *exchange) pause(d time.Duration) bool {
	x.flush()
	if d > 0 && !x.c.sleep(d) {
		x.err = cmp.Or(x.err, io.ErrClosedPipe)
	}
	return x.err == nil
}

// malformed notes a fault, responds to it, and ends the connection.
func (x *exchange) malformed(why string) {
	x.c.s.fault(why)
	x.err, x.out = nil, nil
	x.problem(400, "malformed request: "+why, "Connection: close")
	x.finish()
	x.c.linger()
}
