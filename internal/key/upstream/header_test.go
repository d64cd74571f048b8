package upstream

import (
	"context"
	"crypto/x509"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
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
