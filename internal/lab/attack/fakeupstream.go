package attack

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

// canaryText is in the body of every request to the fake upstream: a server that received it has received a client's
// body.
const canaryText = "Only-my-upstream-may-read-this"

// refuse is the scenario for requests that are part of no check.
const refuse = "status code=400"

// A fakeUpstream is an upstream that verify controls, with a second server to which no request may be sent.
type fakeUpstream struct {
	key              []byte
	upstream, second *openaitest.Server
	mu               sync.Mutex
	scenario         string // present scenario of the upstream
	before           int    // requests to the upstream before it was set
	beforeSecond     int
}

// A seenRequest is a request that the fake upstream received.
type seenRequest struct {
	what      string // method and server
	key, body bool   // contained the key; contained the client's body
}

func startFakeUpstream(key []byte) (*fakeUpstream, error) {
	s := &fakeUpstream{key: key, scenario: refuse}
	var err error
	if s.second, err = openaitest.Start(openaitest.Options{Choose: func(*openaitest.Request) string { return refuse }}); err == nil {
		s.upstream, err = openaitest.Start(openaitest.Options{Choose: s.choose})
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("cannot listen for the fake upstream: %w", err)
	}
	return s, nil
}

// close stops both servers and all running responses.
func (s *fakeUpstream) close() {
	for _, server := range []*openaitest.Server{s.upstream, s.second} {
		if server != nil {
			server.Close()
		}
	}
}

// address is the upstream's host:port.
func (s *fakeUpstream) address() string { return s.upstream.Addr() }

// elsewhere is a URL of the second server.
func (s *fakeUpstream) elsewhere() string { return "http://" + s.second.Addr() + "/v1/responses" }

// setScenario sets how the upstream responds from now on, and excludes earlier requests from sights.
func (s *fakeUpstream) setScenario(scenario string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scenario, s.before, s.beforeSecond = scenario, s.upstream.Count(), s.second.Count()
}

// choose returns the scenario. The upstream also accepts its second name and other routes: a correct proxy sends no
// requests there.
func (s *fakeUpstream) choose(r *openaitest.Request) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case expected(r):
		return s.scenario
	case r.Target == "/hop":
		return "redirect status=307 to=" + s.elsewhere()
	}
	return refuse
}

// expected reports whether a request was sent to the upstream under its name, for the one route.
func expected(r *openaitest.Request) bool {
	return r.Target == "/v1/responses" && !strings.HasPrefix(r.Get("Host"), "localhost:")
}

// sights returns the misdirected requests since setScenario, and the number of requests that the upstream itself
// received. It waits for the requests' bodies.
func (s *fakeUpstream) sights() (misdirected []seenRequest, arrived int) {
	s.mu.Lock()
	before, beforeSecond := s.before, s.beforeSecond
	s.mu.Unlock()
	for _, r := range s.upstream.Requests()[before:] {
		if expected(r) {
			arrived++
		} else {
			misdirected = append(misdirected, s.sight(r, r.Target))
		}
	}
	for _, r := range s.second.Requests()[beforeSecond:] {
		misdirected = append(misdirected, s.sight(r, "to the second server"))
	}
	return misdirected, arrived
}

func (s *fakeUpstream) sight(r *openaitest.Request, place string) seenRequest {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	body, _ := r.Body(ctx) // as far as it was received
	return seenRequest{r.Method + " " + place, bytes.Contains(r.Head, s.key), bytes.Contains(body, []byte(canaryText))}
}
