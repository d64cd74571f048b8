package dump

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

func TestRedact(t *testing.T) {
	hide := func(name string) { t.Helper(); wantRedacted(t, name, "v", true) }
	show := func(name string) { t.Helper(); wantRedacted(t, name, "v", false) }

	// Redacted by the original too.
	hide("Authorization")
	hide("AUTHORIZATION")
	hide("Cookie")
	hide("Cookie2")
	hide("Set-Cookie")
	hide("X-Cookie-Foo")

	// Not redacted by the original.
	hide("Proxy-Authorization")
	hide("Proxy-Authenticate")
	hide("WWW-Authenticate")
	hide("Authentication-Info")
	hide("X-Authorization")
	hide("X-Forwarded-Authorization")
	hide("api-key")
	hide("x-api-key")
	hide("X_API_KEY")
	hide("x.api.key")
	hide("apikey")
	hide("X-ApiKey2")
	hide("Api-Keys")
	hide("OpenAI-Api-Key")
	hide("X-Goog-Api-Key")
	hide("Ocp-Apim-Subscription-Key")
	hide("Key")
	hide("Private-Token")
	hide("X-Amz-Security-Token")
	hide("X-AccessToken")
	hide("X-CSRF-Token")
	hide("CF-Access-Client-Secret")
	hide("X-ClientSecrets")
	hide("X-Password")
	hide("X-Passwd")
	hide("X-Passphrase")
	hide("X-Credentials")
	hide("Cf-Access-Jwt-Assertion")
	hide("X-Bearer")
	hide("X-Auth")
	hide("X-OAuth2-Scopes")
	hide("X-AuthUser")
	hide("x-author-key")
	hide("Idempotency-Key") // a consequence of a rule without exceptions

	show("Host")
	show("Content-Type")
	show("Content-Length")
	show("Accept")
	show("User-Agent")
	show("Keep-Alive")
	show("OpenAI-Organization")
	show("OpenAI-Processing-Ms")
	show("ChatGPT-Account-ID")
	show("session_id")
	show("x-request-id")
	show("x-ratelimit-limit-tokens")
	show("x-ratelimit-remaining-tokens")
	show("x-ratelimit-reset-tokens")
	show("Author")
	show("X-Authors")
	show("X-Authority")
	show("X-Authored-By")
	show("X-Keyboard")
	show("X-Tokenizer")
	show("-")

	wantRedacted(t, "X-Anything", "Bearer sk-1", true)
	wantRedacted(t, "X-Anything", "bEARER sk-1", true)
	wantRedacted(t, "X-Anything", "Basic dTpw", true)
	wantRedacted(t, "X-Anything", "Bearer\tsk-1", true)
	wantRedacted(t, "X-Anything", "Bearer", false)
	wantRedacted(t, "X-Anything", "Bearers of news", false)
	wantRedacted(t, "X-Anything", "", false)
}

func wantRedacted(t *testing.T, name, value string, want bool) {
	t.Helper()
	fields := []http1.Field{{Name: []byte(name), Value: []byte(value)}}
	if got := redact(fields[0]); got != want {
		t.Errorf("%s: %s: redacted %t, want %t", name, value, got, want)
	}
	for _, head := range [][]byte{head{}.render(fields), head{Status: 200}.render(fields)} {
		if bytes.Contains(head, []byte(`"[REDACTED]"`)) != want {
			t.Errorf("%s: in the head: %s", name, head)
		}
		if want && bytes.Contains(head, []byte("sk-1")) {
			t.Errorf("%s: the value is in %s", name, head)
		}
	}
}

func TestRedactLongName(t *testing.T) {
	name := bytes.Repeat([]byte("x-"), 5000)
	wantRedacted(t, string(name), "v", false)
	wantRedacted(t, string(name)+"key", "v", true)
}

// FuzzText: for any bytes and any split, the string is that of Go's conversion.
func FuzzText(f *testing.F) {
	f.Add([]byte("plain \" \\ \x00\x1f\x7f\b\t\n\f\r"), 3)
	f.Add([]byte("grüße 世界 😀 \xff\xc3 \xe2\x82 \xed\xa0\x80 \xf0\x9f\x98"), 7)
	f.Fuzz(func(t *testing.T, text []byte, at int) {
		at = max(0, min(at, len(text)))
		used := wholeRunes(text[:at])
		if used > at || used < at-3 {
			t.Fatalf("used %d of %d", used, at)
		}
		quoted := append([]byte{'"'}, quote(text[:used])...)
		quoted = append(quoted, quote(text[used:])...)
		var got string
		if err := json.Unmarshal(append(quoted, '"'), &got); err != nil {
			t.Fatal(err)
		}
		if want := string([]rune(string(text))); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
