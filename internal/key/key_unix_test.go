//go:build unix

package key

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/upstream"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

const (
	first  = "sk-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	second = "sk-BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB"
)

// input returns the reading end of a pipe that contains lines.
func input(t *testing.T, lines string) int { return int(proctest.Input(t, lines).Fd()) }

func open(t *testing.T, lines string, cfg Config) *Key {
	t.Helper()
	k, err := Open(input(t, lines), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Wipe)
	return k
}

// request sends one request with k, and returns the key that the server received.
func request(t *testing.T, k *Key) (string, error) {
	t.Helper()
	got := make(chan string, 1)
	up := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r.Header.Get("Authorization") }))
	defer up.Close()
	target, err := upstream.ParseTarget(up.URL+"/v1/responses", false)
	if err != nil {
		t.Fatal(err)
	}
	c, err := k.Client(upstream.Config{Target: target})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	res, err := c.Do(ctx, &upstream.Request{Start: []byte("{}"), Length: 2})
	if err != nil {
		return "", err
	}
	defer res.Close()
	return <-got, nil // the response has arrived
}

func TestOpenReplaceWipe(t *testing.T) {
	k := open(t, first+"\n", Config{Config: secret.Config{Spare: true}})
	if got, err := request(t, k); got != "Bearer "+first || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if err := k.Replace(input(t, "")); !errors.Is(err, io.EOF) {
		t.Errorf("without input: %v", err)
	}
	if err := k.Replace(input(t, second+"\n")); err != nil {
		t.Error(err)
	}
	if got, err := request(t, k); got != "Bearer "+second || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	k.Wipe()
	k.Wipe()
	var e *upstream.Error
	if got, err := request(t, k); !errors.As(err, &e) || e.Kind != upstream.Internal {
		t.Errorf("after Wipe: %q, %v", got, err)
	}
	if err := k.Replace(input(t, first+"\n")); err == nil {
		t.Error("replaced after Wipe")
	}
}

func TestNothingPrintsTheKey(t *testing.T) {
	k := open(t, first+"\n", Config{})
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		for _, got := range []string{fmt.Sprintf(verb, k), fmt.Sprintf(verb, *k), fmt.Sprintf(verb, []any{k})} {
			if strings.Contains(got, "AAAA") || strings.Contains(got, "41414141") || strings.Contains(got, "65 65 65") {
				t.Errorf("%s prints %q", verb, got)
			}
		}
	}
	if got := fmt.Sprint(k); got != "[redacted]" {
		t.Errorf("%q", got)
	}
}

// TestInput: Open reads only if the key has an input, and refuses a malformed key.
func TestInput(t *testing.T) {
	file := &Exchange{TokenFile: filepath.Join(t.TempDir(), "token")}
	for _, c := range []struct {
		what, in, left string
		cfg            Config
		ok             bool
	}{
		{"a key", first + "\n", "", Config{}, true},
		{"a token for an exchange", "a/token+of~GitHub's.\n", "", Config{Exchange: &Exchange{}}, true},
		{"an identity in a file", first, first, Config{Exchange: file}, true},
		{"no key", "", "", Config{}, false},
		{"no token", "", "", Config{Exchange: &Exchange{}}, false},
		{"not a key", "two words\n", "", Config{}, false},
	} {
		fd := input(t, c.in)
		k, err := Open(fd, c.cfg)
		if (err == nil) != c.ok || (k != nil) != c.ok {
			t.Errorf("%s: %v", c.what, err)
		}
		rest := make([]byte, len(c.in)+1)
		n, err := unix.Read(fd, rest)
		if err != nil || string(rest[:n]) != c.left {
			t.Errorf("%s: left %q, %v", c.what, rest[:n], err)
		}
		if k == nil {
			continue
		}
		if kind, why := k.Memory(); (kind == "memfd_secret") != (why == nil) {
			t.Errorf("%s: %s, %v", c.what, kind, why)
		}
		if got, err := request(t, k); c.cfg.Exchange != nil && err == nil {
			t.Errorf("%s: sent %q before the exchange", c.what, got)
		}
		k.Wipe()
	}
}

// TestFailedExchange: a key whose exchange fails is not sent, and no goroutine is left.
func TestFailedExchange(t *testing.T) {
	k := open(t, "", Config{Exchange: &Exchange{TokenFile: filepath.Join(t.TempDir(), "none"), IdentityProviderID: "i", ServiceAccountID: "s"}})
	if err := k.Exchange(t.Context(), nil, nil); err == nil || !strings.Contains(err.Error(), "--oidc-token-file") {
		t.Errorf("%v", err)
	}
	if err := k.Exchange(t.Context(), nil, nil); err == nil || !strings.Contains(err.Error(), "bug: ") {
		t.Errorf("a second exchange: %v", err)
	}
	k.Renew()
	if got, err := request(t, k); err == nil {
		t.Errorf("sent %q", got)
	}
	if ports, dirs := k.Needs(); len(ports) != 1 || len(dirs) == 0 {
		t.Errorf("ports %v, directories %v", ports, dirs)
	}
}
