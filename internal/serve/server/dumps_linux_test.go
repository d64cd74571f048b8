package server_test

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/dump"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
)

// TestDumpsOfAnotherUser checks that a user with many running requests does not prevent another user's dumps, and that
// nothing is lost.
func TestDumpsOfAnotherUser(t *testing.T) {
	proctest.NeedRoot(t, "play several users")
	dir := filepath.Join(t.TempDir(), "dumps")
	d := must(dump.Open(dir, -1, func(err error) { t.Error(err) }))
	t.Cleanup(d.Close)
	rules := newPolicy(t, policy.Config{TCP: true})
	s := start(t, func(s *setup) { s.server.Policy, s.dump = rules, d })
	for range 520 {
		s.begin("headthensilent")
	}
	if answer := asUser(t, someUser, "ask", s.listener.Addr().String(), 0); !strings.HasPrefix(answer, "200 ") {
		t.Fatalf("another user: %s", answer)
	}
	for ctx := within(t, soon); ; runtime.Gosched() {
		files := must(filepath.Glob(filepath.Join(dir, "000521-*.json")))
		if len(files) == 2 {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("of another user's exchange there is %q, want request and response", files)
		}
	}
}

// TestDumpsOfCutResponses checks that the dump of a response that broke off does not look whole.
func TestDumpsOfCutResponses(t *testing.T) {
	for scenario, cut := range map[string]bool{"json": false, "sse n=3": false, "nocontent": false, "cutcl": true, "cut": true} {
		dir := filepath.Join(t.TempDir(), "dumps")
		d := must(dump.Open(dir, -1, func(err error) { t.Error(err) }))
		s := start(t, func(s *setup) { s.dump = d })
		res := s.post(scenario, `{}`)
		if _, err := io.ReadAll(res.Body); (err != nil) != cut {
			t.Errorf("%s: %v", scenario, err)
		}
		res.Body.Close()
		if err := s.server.Drain(within(t, soon), s.listener); err != nil {
			t.Error(err)
		}
		d.Close()
		files := must(filepath.Glob(filepath.Join(dir, "000001-*-response.json")))
		if len(files) != 1 {
			t.Fatalf("%s: dumps %q", scenario, files)
		}
		if text := must(os.ReadFile(files[0])); strings.Contains(string(text), `"truncated": true`) != cut {
			t.Errorf("%s: %s", scenario, text)
		}
	}
}
