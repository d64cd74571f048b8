package main

import (
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/relay"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// TestIdentify checks that the log has nothing of a request that may be a secret: no query, no password, no key.
func TestIdentify(t *testing.T) {
	for line, want := range map[string][3]string{
		"GET /v1/models":                           {"GET", "/v1/models"},
		"GET /v1/models?key=secret":                {"GET", "/v1/models?..."},
		"GET /v1/a@b":                              {"GET", "/v1/a@b"},
		"GET http://user:secret@host/a?b=secret":   {"GET", "@host/a?..."},
		"GET http://user:se/cret@host/a@b":         {"GET", "@b"},
		"CONNECT user:secret@host:443":             {"CONNECT", "@host:443"},
		"GET /keys/sk-secret":                      {"GET", "/keys/sk-..."},
		"sk-secret /":                              {"sk-...", "/"},
		"GET /" + strings.Repeat("a", maxPath):     {"GET", "/" + strings.Repeat("a", maxPath-1) + "..."},
		"GET /\r\nUser-Agent: sdk/1.0 (a b) more":  {"GET", "/", "sdk/1.0"},
		"GET /\r\nUser-Agent: my-sk-secret/1.0":    {"GET", "/", "my-sk-..."},
		"GET /\r\nAuthorization: Bearer sk-secret": {"GET", "/"},
	} {
		head := &http1.Request{}
		first, rest, _ := strings.Cut(line, "\r\n")
		if rest != "" {
			rest += "\r\n"
		}
		if err := head.Parse([]byte(first + " HTTP/1.1\r\nHost: h\r\n" + rest + "\r\n")); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		method, path, agent := identify(&relay.Request{Head: head})
		if got := [3]string{method, path, agent}; got != want {
			t.Errorf("%q is logged as %q, want %q", line, got, want)
		}
	}
}
