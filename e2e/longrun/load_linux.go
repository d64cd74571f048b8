package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

// maxInFlight bounds the requests to one build that run at the same time.
const maxInFlight = 24

// A kind is one kind of request, with the scenario by which the upstream responds.
type kind struct {
	name, scenario string
	weight         int // its share of the requests
	send           func(*build, call) error

	// The response expected: its status, and a text that its body contains n times.
	status int
	text   string
	n      int
}

var kinds = []kind{
	{"JSON", "json s=400", 30, whole, 200, `"object":"response"`, 1},
	{"stream", "sse n=20 d=20ms s=200", 24, whole, 200, "event: response.output_text.delta\n", 20},
	{"200,000 bytes in chunks", "chunks s=200000", 4, whole, 200, pattern(200000), 1},
	{"error of the upstream", "status code=429", 3, whole, 429, "rate_limit_exceeded", 1},
	{"no response of the upstream", "closebefore", 2, whole, 502, "upstream_closed", 1},
	{"stream cut by FIN", "cut n=5 d=10ms", 3, cut, 200, "", 0},
	{"stream cut by RST", "reset n=5 d=10ms", 3, cut, 200, "", 0},
	{"response cut within its length", "cutcl", 3, cut, 200, "", 0},
	{"cancelled before the response", "silent", 4, cancel, 0, "", 0},
	{"cancelled within a stream", "sse n=3000 d=20ms", 6, cancel, 0, "", 0},
	{"WebSocket", "ws", 6, websocket, 101, "response.completed", 1},
	{"refused: another user", "", 2, otherUser, 403, "user_not_allowed", 1},
	{"refused: browser", "browser", 2, whole, 403, "browser_not_allowed", 1},
	{"refused: body too large", "large", 2, whole, 413, "body_too_large", 1},
}

func pattern(n int) string {
	p := make([]byte, n)
	openaitest.Pattern(p, 0)
	return string(p)
}

// A call is one request of a kind.
type call struct {
	kind
	ctx    context.Context
	random *rand.Rand
	which  int // the address: TCP or unix
}

func newRandom(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

func client(network, address string) *http.Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: timeout}
}

// load sends requests until ctx ends, and waits for the last of them. Their kinds and order depend on the seed only.
func (b *build) load(ctx context.Context, seed uint64) {
	random := newRandom(seed)
	var lots []kind // each as often as its weight
	for _, k := range kinds {
		lots = append(lots, slices.Repeat([]kind{k}, k.weight)...)
	}
	slots := make(chan struct{}, maxInFlight)
	var running sync.WaitGroup
	defer running.Wait()
	for ctx.Err() == nil {
		select {
		case <-time.After(time.Duration(random.ExpFloat64() / *rate * float64(time.Second))):
		case <-ctx.Done():
		}
		k, own := lots[random.IntN(len(lots))], newRandom(random.Uint64())
		slots <- struct{}{}
		running.Go(func() {
			b.do(context.WithoutCancel(ctx), k, own)
			<-slots
		})
	}
}

// do sends one request, and checks that it ends as expected.
func (b *build) do(ctx context.Context, k kind, random *rand.Rand) {
	b.sent.Add(1)
	b.mu.Lock()
	b.counts[k.name]++
	b.mu.Unlock()
	ctx, end := context.WithTimeout(ctx, timeout)
	defer end()
	c := call{k, ctx, random, random.IntN(2)}
	if k.scenario == "browser" { // it can reach TCP only
		c.which = 0
	}
	if err := k.send(b, c); err != nil {
		b.problem("%s: %v", k.name, err)
	}
}

// arrived is the upstream's Choose function. It checks that a request has the one key that was in use while it ran, or
// one of them, and passes its record to the function that waits for it.
func (b *build) arrived(r *openaitest.Request) string {
	from, err := strconv.ParseInt(r.Get("X-Begun"), 10, 64)
	right, found := false, r.Credentials()
	for n := from; n <= b.begun.Load() && err == nil; n++ {
		right = right || len(found) == 1 && found[0] == "Bearer "+b.keys[n%2]
	}
	if !right {
		b.problem("the upstream received %d credentials, and not the key in use", len(found))
	}
	if f, ok := b.arrivals.LoadAndDelete(r.Get("X-Id")); ok {
		f.(func(*openaitest.Request))(r)
	}
	return ""
}

// request returns a request with a body of up to 32 KiB, or of more than is allowed.
func (b *build) request(c call) *http.Request {
	filler := c.random.IntN(32 << 10)
	if c.scenario == "large" {
		filler = 70 << 10
	}
	r, _ := http.NewRequestWithContext(c.ctx, "POST", "http://longrun/v1/responses",
		strings.NewReader(`{"model":"gpt-5","input":"`+strings.Repeat("x", filler)+`"}`))
	for name, value := range map[string]any{"X-Fake": c.scenario, "X-Begun": b.confirmed.Load(), "X-Id": c.random.Uint64()} {
		r.Header.Set(name, fmt.Sprint(value))
	}
	if c.scenario == "browser" {
		r.Header.Set("Origin", "https://example.com")
	}
	return r
}

// fetch returns a response. The error of a body that is not complete comes with the status.
func (b *build) fetch(c call, r *http.Request) (status int, body []byte, err error) {
	res, err := b.clients[c.which].Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err = io.ReadAll(res.Body)
	return res.StatusCode, body, err
}

// whole expects a complete response.
func whole(b *build, c call) error {
	status, body, err := b.fetch(c, b.request(c))
	if n := bytes.Count(body, []byte(c.text)); err != nil || status != c.status || n != c.n {
		return fmt.Errorf("status %d, %d bytes with %d of %d, error %v", status, len(body), n, c.n, err)
	}
	return nil
}

// cut expects a response that does not look complete. A reset may destroy its head before the proxy has read it.
func cut(b *build, c call) error {
	status, body, err := b.fetch(c, b.request(c))
	if status == 200 && err != nil || status == 502 && err == nil && strings.HasPrefix(c.scenario, "reset") {
		return nil
	}
	return fmt.Errorf("cut, but: status %d, %d bytes, error %v", status, len(body), err)
}

// otherUser sends a request as the user daemon.
func otherUser(b *build, c call) error {
	to := [][]string{{"http://" + b.addrs[0] + "/v1/responses"}, {"--unix-socket", b.addrs[1], "http://longrun/v1/responses"}}[c.which]
	cmd := exec.CommandContext(c.ctx, "curl", append(to, "--silent", "--data", "{}")...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1, Gid: 1}}
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte(c.text)) {
		return fmt.Errorf("%q, error %v", out, err)
	}
	return nil
}

// cancel disconnects once the upstream has the request, and expects that the upstream notices.
func cancel(b *build, c call) error {
	ctx, leave := context.WithCancel(c.ctx)
	defer leave()
	r := b.request(c).WithContext(ctx)
	arrival, pause := make(chan *openaitest.Request, 1), time.Duration(c.random.IntN(300))*time.Millisecond
	b.arrivals.Store(r.Header.Get("X-Id"), func(at *openaitest.Request) {
		arrival <- at
		time.AfterFunc(pause, leave)
	})
	if _, _, err := b.fetch(c, r); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("not cancelled, but: %v", err)
	}
	select {
	case <-(<-arrival).Gone():
		return nil
	case <-c.ctx.Done():
		return errors.New("cancelled, but the upstream's request goes on")
	}
}

// websocket makes a connection, requests one response on it, and closes it.
func websocket(b *build, c call) error {
	conn, err := net.Dial([]string{"tcp", "unix"}[c.which], b.addrs[c.which])
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := c.ctx.Deadline()
	conn.SetDeadline(deadline)
	// The pair of key and accept is that of RFC 6455, section 1.3.
	fmt.Fprintf(conn, "GET /v1/responses HTTP/1.1\r\nHost: longrun\r\nX-Fake: %s\r\nX-Begun: %d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", c.scenario, b.confirmed.Load())
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != c.status || res.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		return fmt.Errorf("handshake: %v, error %v", res, err)
	}
	conn.Write(openaitest.Frame{Op: openaitest.OpText, Masked: true, Data: []byte(`{"type":"response.create","model":"gpt-5"}`)}.Append(nil))
	f := openaitest.Frame{Op: openaitest.OpText}
	for err == nil && f.Op == openaitest.OpText && !bytes.Contains(f.Data, []byte(c.text)) {
		f, err = openaitest.ReadFrame(in)
	}
	conn.Write(openaitest.Frame{Op: openaitest.OpClose, Masked: true, Data: []byte("\x03\xe8")}.Append(nil))
	f, err2 := openaitest.ReadFrame(in)
	_, end := in.ReadByte()
	if err := errors.Join(err, err2); err != nil || f.Op != openaitest.OpClose || f.Masked || f.More || end != io.EOF {
		return fmt.Errorf("frame %d in place of the close frame, error %v, then %v", f.Op, err, end)
	}
	return nil
}
