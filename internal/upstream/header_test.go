package upstream

import (
	"context"
	"crypto/x509"
	"os"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
)

// TestAuthHeader: each kind of credential is sent in its own field, once, and in no other.
func TestAuthHeader(t *testing.T) {
	for _, c := range []struct{ name, field, value string }{
		{"bearer", "Authorization", "Bearer " + canary},
		{"api-key", "Api-Key", canary},
		{"x-api-key", "X-Api-Key", canary},
	} {
		for _, overTLS := range []bool{false, true} {
			up := must(openaitest.Start(openaitest.Options{TLS: overTLS}))
			defer up.Close()
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(up.CAPEM())
			key := keyWith(t, canary, secret.Config{Header: must(secret.ParseHeader(c.name))})
			client := must(New(Config{Target: must(ParseTarget(up.URL(), false)), Key: key, Roots: roots}))
			defer client.Close()
			res, err := client.Do(context.Background(), &Request{})
			if err != nil {
				t.Fatal(err)
			}
			res.Close()
			r := up.Requests()[0]
			if got := r.Get(c.field); got != c.value {
				t.Errorf("%s: %s is %q", c.name, c.field, got)
			}
			if all := r.Credentials(); len(all) != 1 {
				t.Errorf("%s: %d credentials", c.name, len(all))
			}
		}
	}
}

// TestRootsFrom: a missing file, or one without a certificate, is an error.
func TestRootsFrom(t *testing.T) {
	empty := t.TempDir() + "/empty.pem"
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"/missing.pem": "no such file", empty: "no certificate"} {
		if _, err := RootsFrom(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", file, err)
		}
	}
}
