package attack

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/responses-api-proxy/responses-api-proxy/internal/openaitest"
)

// words are in the body of every request that goes to the fake upstream: a server
// that has got them has got what a client said.
const words = "Only-my-upstream-may-read-this"

// refuse is the scenario of a request that is part of no check.
const refuse = "status code=400"

// A fakeUpstream is an upstream that the checker controls, with a second server to
// which no request may go.
type fakeUpstream struct {
	key              []byte
	upstream, second *openaitest.Server
	mu               sync.Mutex
	scenario         string // of the upstream now
	before           int    // requests to the upstream before it was set
	beforeSecond     int
}

// A sight is a request that has come to the fake upstream.
type sight struct {
	what      string // method and place
	key, body bool   // it had the key; it had what the client said
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

// close ends both servers, and with them all responses that are still running.
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

// setScenario sets how the upstream responds from now on, and forgets what was seen.
func (s *fakeUpstream) setScenario(scenario string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scenario, s.before, s.beforeSecond = scenario, s.upstream.Count(), s.second.Count()
}

// choose returns the scenario. The upstream responds under its second name and for
// other routes too: no request comes to these by the proxy's rules.
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

// expected reports whether a request came to the upstream by its name, for the one route.
func expected(r *openaitest.Request) bool {
	return r.Target == "/v1/responses" && !strings.HasPrefix(r.Get("Host"), "localhost:")
}

// sights returns what was seen since setScenario where nothing should come, and how
// often the upstream itself was asked. It waits for the requests' bodies.
func (s *fakeUpstream) sights() (misdirected []sight, arrived int) {
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

func (s *fakeUpstream) sight(r *openaitest.Request, place string) sight {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	body, _ := r.Body(ctx) // as much of it as came
	return sight{r.Method + " " + place, bytes.Contains(r.Head, s.key), bytes.Contains(body, []byte(words))}
}
