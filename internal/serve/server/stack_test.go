package server_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/listen"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/upstream"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/dump"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/relay"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/server"
)

const canary = "sk-canary-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// stack is everything between a client and the fake upstream, in this process.
type stack struct {
	t        testing.TB
	up       *openaitest.Server
	server   *server.Server
	client   *upstream.Client
	listener net.Listener
	url      string
	stopped  chan struct{} // GET /shutdown came

	mu    sync.Mutex
	lines []string
}

type setup struct {
	fake     openaitest.Options
	server   server.Config
	shutdown bool
	url      string         // of the upstream, in place of fake's
	upstream relay.Upstream // in place of the client of fake
	routes   []string
	models   []string
	usage    bool // to be read for records
	readOn   relay.ReadOn
	dump     *dump.Dir
}

// allowing opens routes.
func allowing(names ...string) func(*setup) {
	return func(s *setup) { s.routes = names }
}

func overTLS(s *setup) { s.fake.TLS = true }

// start runs a stack until the test ends.
func start(t testing.TB, options ...func(*setup)) *stack {
	t.Helper()
	cfg := setup{fake: openaitest.Options{Key: canary}}
	for _, o := range options {
		o(&cfg)
	}
	s := &stack{t: t, stopped: make(chan struct{}, 1)}
	s.up = must(openaitest.Start(cfg.fake))
	t.Cleanup(s.up.Close)
	if cfg.url == "" {
		cfg.url = s.up.URL()
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.up.CAPEM())
	s.client = must(keyOf(t, canary).Client(upstream.Config{Target: must(upstream.ParseTarget(cfg.url, false)), Roots: roots}))
	t.Cleanup(s.client.Close)
	s.serve(cfg)
	return s
}

// newPolicy returns a policy that is closed at the test's end.
func newPolicy(t testing.TB, cfg policy.Config) *policy.Policy {
	p := must(policy.New(cfg))
	t.Cleanup(p.Close)
	return p
}

func (s *stack) serve(cfg setup) {
	pc := relay.Config{Upstream: s.client, Routes: cfg.routes, Path: s.client.Path(), Room: s.client.Room(), Models: cfg.models, Records: cfg.usage, ReadOn: cfg.readOn, Dump: cfg.dump, Log: s.logOf}
	if cfg.upstream != nil {
		pc.Upstream = cfg.upstream
	}
	if cfg.shutdown {
		pc.Shutdown = func() { s.stopped <- struct{}{} }
	}
	cfg.server.Relay, cfg.server.Log = must(relay.New(pc)), s.log
	if cfg.server.Policy == nil {
		cfg.server.Policy = must(policy.New(policy.Config{}))
	}
	s.server = must(server.New(cfg.server))
	s.listener = must(listen.TCP(listen.Loopback(0)))
	s.url = fmt.Sprintf("http://%s/v1/responses", s.listener.Addr())
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(s.listener) }()
	s.t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.server.Drain(ctx, s.listener)
		if err := <-served; err != nil {
			s.t.Errorf("Serve: %v", err)
		}
	})
}

func (s *stack) log(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, line)
}

// logOf logs an error of a client.
func (s *stack) logOf(_ *relay.Request, e *apierror.Error) {
	s.log(strings.TrimSuffix(string(e.Code)+": "+e.Detail, ": "))
}

func (s *stack) logged() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.lines)
}

// keyOf puts a key where Read finds it.
func keyOf(t testing.TB, text string) *key.Key {
	t.Helper()
	k, err := key.Open(int(proctest.Input(t, text+"\n").Fd()), key.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Wipe)
	return k
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var within = proctest.Within

// soon is far longer than anything here takes, also on a loaded machine.
const soon = 30 * time.Second

// post sends a body with net/http's client, and the name of the scenario.
func (s *stack) post(scenario, body string) *http.Response {
	s.t.Helper()
	res, err := s.do(within(s.t, soon), scenario, strings.NewReader(body))
	if err != nil {
		s.t.Fatalf("POST: %v", err)
	}
	return res
}

func (s *stack) do(ctx context.Context, scenario string, body io.Reader) (*http.Response, error) {
	req := must(http.NewRequestWithContext(ctx, "POST", s.url, body))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Fake", scenario)
	return client.Do(req)
}

var client = &http.Client{
	Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 256},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// peer is a bare connection to the proxy.
type peer struct {
	t testing.TB
	net.Conn
	in *bufio.Reader
}

func (s *stack) dial() *peer {
	s.t.Helper()
	p, err := s.tryDial()
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

func (s *stack) tryDial() (*peer, error) {
	c, err := net.Dial("tcp", s.listener.Addr().String())
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(soon))
	s.t.Cleanup(func() { c.Close() })
	return &peer{s.t, c, bufio.NewReader(c)}, nil
}

func (p *peer) send(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p, text); err != nil {
		p.t.Fatalf("send: %v", err)
	}
}

// answer reads one response's head; the body is read from it.
func (p *peer) answer() *http.Response {
	p.t.Helper()
	res, err := http.ReadResponse(p.in, &http.Request{Method: "POST"})
	if err != nil {
		p.t.Fatalf("no answer: %v", err)
	}
	return res
}

// ended checks that the proxy has closed the connection and sent nothing more.
func (p *peer) ended() {
	p.t.Helper()
	if b, err := p.in.ReadByte(); err == nil {
		p.t.Fatalf("the connection goes on with %q", b)
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Fatal("the connection stays open")
	}
}

func request(fields ...string) string {
	return "POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n"
}

// code reads an error in OpenAI's shape.
func code(t testing.TB, res *http.Response) string {
	t.Helper()
	var e struct {
		Error struct {
			Message, Type, Code string
			Param               *string
		}
	}
	if err := json.NewDecoder(res.Body).Decode(&e); err != nil {
		t.Fatalf("status %d with a body that is no JSON: %v", res.StatusCode, err)
	}
	if e.Error.Message == "" || e.Error.Type == "" || res.Header.Get("Content-Type") != "application/json" {
		t.Errorf("status %d with an error that says too little: %+v", res.StatusCode, e)
	}
	return e.Error.Code
}

// read returns the whole body.
func read(t testing.TB, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("body: %v", err)
	}
	res.Body.Close()
	return string(b)
}

// clean checks that the fake upstream found no fault, and received no credential but the key.
func (s *stack) clean() {
	s.t.Helper()
	if f := s.up.Faults(); len(f) > 0 {
		s.t.Errorf("the upstream found faults: %q", f)
	}
	for _, r := range s.up.Requests() {
		if c := r.Credentials(); len(c) != 1 || c[0] != "Bearer "+canary {
			s.t.Errorf("the upstream saw %d credentials", len(c))
		}
	}
}
