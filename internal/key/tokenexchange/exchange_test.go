package tokenexchange

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/secret"
)

func TestExchange(t *testing.T) {
	s := startIssuer(t)
	x := must(New(s.config(t)))
	for i := range 3 {
		expires, err := x.once(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := lineOf(x.cfg.Key), bearer(s.last()); got != want {
			t.Errorf("the key is %.60q, want %.60q", got, want)
		}
		if left := time.Until(expires).Seconds(); left < 3590 || left > 3600 {
			t.Errorf("lifetime %v s", left)
		}
		if !wiped(x) {
			t.Error("the memory is not wiped")
		}
		if len(s.identities) != i+1 {
			t.Errorf("%d identities after %d exchanges", len(s.identities), i+1)
		}
	}
	s.check(t)
	x.Close()
}

// badIdentities are responses of GitHub with the error that they cause.
var badIdentities = []struct {
	status      int
	body, error string
}{
	{302, "", "GitHub OIDC token request rejected (HTTP 302)"},
	{401, `{"value":"secret-token"}`, "GitHub OIDC token request rejected (HTTP 401)"},
	{500, "", "GitHub OIDC token request rejected (HTTP 500)"},
	{200, "", "GitHub OIDC returned an invalid token response"},
	{200, "secret-token", "GitHub OIDC returned an invalid token response"},
	{200, `{}`, "GitHub OIDC returned an invalid token response"},
	{200, `{"value":7}`, "GitHub OIDC returned an invalid token response"},
	{200, `{"Value":"secret-token"}`, "GitHub OIDC returned an invalid token response"},
	{200, `{"value":"secret-token","value":"x"}`, "GitHub OIDC returned an invalid token response"},
	{200, `{"value":"secret-\u0074oken"}`, "GitHub OIDC returned an invalid token response"},
	{200, `{"value":""}`, "workload identity source returned an invalid subject token"},
	{200, `{"value":"secret token"}`, "workload identity source returned an invalid subject token"},
	{200, `{"value":"secret-tokené"}`, "workload identity source returned an invalid subject token"},
	{200, `{"value":"` + strings.Repeat("x", secret.MaxToken+1) + `"}`, "workload identity source returned an invalid subject token"},
	{200, `{"value":"` + strings.Repeat("x", 40_000) + `"}`, "GitHub OIDC returned an oversized token response"},
}

// badGrants are responses of OpenAI with the error that they cause.
var badGrants = []struct {
	status      int
	body, error string
}{
	{307, "", "OpenAI workload identity token request rejected (HTTP 307)"},
	{400, `{"error":"secret-token"}`, "OpenAI workload identity token request rejected (HTTP 400)"},
	{200, "", "OpenAI workload identity returned an invalid token response"},
	{200, "secret-token", "OpenAI workload identity returned an invalid token response"},
	{200, without("access_token"), "OpenAI workload identity returned an invalid token response"},
	{200, without("issued_token_type"), "OpenAI workload identity returned an invalid token response"},
	{200, without("token_type"), "OpenAI workload identity returned an invalid token response"},
	{200, without("expires_in"), "OpenAI workload identity returned an invalid token response"},
	{200, with(`"expires_in":3600`, `"expires_in":"3600"`), "OpenAI workload identity returned an invalid token response"},
	{200, with(`"expires_in":3600`, `"expires_in":-5`), "OpenAI workload identity returned an invalid token response"},
	{200, with(`"expires_in":3600`, `"expires_in":1.5`), "OpenAI workload identity returned an invalid token response"},
	{200, with(`"expires_at":2000000000`, `"expires_at":null`), "OpenAI workload identity returned an invalid token response"},
	{200, with(`"expires_at":2000000000`, `"expires_at":1e99`), "OpenAI workload identity returned an invalid token response"},
	{200, with("secret-token", ""), "OpenAI workload identity returned an invalid token response"},
	{200, with("secret-token", "secret token"), "OpenAI workload identity returned an invalid token response"},
	{200, with("secret-token", `secret\u002dtoken`), "OpenAI workload identity returned an invalid token response"},
	{200, with("access_token\"", `access_token":"twice","access_token"`), "OpenAI workload identity returned an invalid token response"},
	{200, with("secret-token", strings.Repeat("x", secret.MaxSlotToken+1)), "OpenAI returned an access token of more than 7168 characters"},
	{200, with("secret-token", strings.Repeat("x", 20_000)), "OpenAI returned an access token of more than 7168 characters"},
	{200, with("secret-token", strings.Repeat("x", 40_000)), "OpenAI workload identity returned an oversized token response"},
	{200, with(`"expires_in":3600`, `"expires_in":0`), "OpenAI returned an expired workload identity token"},
	{200, with(`2000000000`, `1000000000`), "OpenAI returned an expired workload identity token"},
	{200, with(`"expires_at":2000000000`, `"expires_at":-1`), "OpenAI workload identity returned an invalid token response"},
	{200, with(`"expires_in":3600`, `"expires_in":1000000000`), "OpenAI returned an invalid token lifetime"},
	{200, with(`"expires_in":3600`, `"expires_in":99999999999999999999`), "OpenAI workload identity returned an invalid token response"},
	{200, with("token-type:access_token", "token-type:jwt"), "OpenAI returned an unsupported workload identity token type"},
	{200, with("Bearer", "DPoP"), "OpenAI returned an unsupported workload identity token type"},
	{200, with("Bearer", "Bearer "), "OpenAI returned an unsupported workload identity token type"},
}

const goodGrant = `{"access_token":"secret-token","issued_token_type":"` + accessTokenType + `","token_type":"Bearer","expires_in":3600,"expires_at":2000000000}`

func with(old, new string) string { return strings.Replace(goodGrant, old, new, 1) }

// without renames a member.
func without(name string) string { return with(`"`+name+`"`, `"x_`+name+`"`) }

// TestRefusals: a refused response does not change the key, and no error contains a part of a token.
func TestRefusals(t *testing.T) {
	s := startIssuer(t)
	x := must(New(s.config(t)))
	if _, err := x.once(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	before := lineOf(x.cfg.Key)
	refuse := func(path string, status int, body, want string) {
		t.Helper()
		s.respond = func(p string, _ int, w http.ResponseWriter) bool {
			if p != path {
				return false
			}
			w.Header().Set("Location", s.URL+"/elsewhere")
			w.WriteHeader(status)
			io.WriteString(w, body)
			return true
		}
		_, err := x.once(t.Context())
		if err == nil || err.Error() != want {
			t.Errorf("%s: %d %.60s: %v; want %s", path, status, body, err, want)
		}
		if lineOf(x.cfg.Key) != before || !wiped(x) {
			t.Errorf("%s: %d %.60s: the key has changed, or the memory is not wiped", path, status, body)
		}
	}
	for _, b := range badIdentities {
		refuse("/identity", b.status, b.body, b.error)
	}
	for _, b := range badGrants {
		refuse("/oauth/token", b.status, b.body, b.error)
	}
	s.check(t) // no request went to another path
}

// TestAccepted: deviations from OpenAI's present responses that are accepted.
func TestAccepted(t *testing.T) {
	s := startIssuer(t)
	x := must(New(s.config(t)))
	defer x.Close()
	for _, body := range []string{
		goodGrant, with("Bearer", "bEARER"), without("expires_at"),
		with(`"expires_in":3600`, ` "expires_in" : 3600, "new": {"access_token":"no"}`),
		with("secret-token", strings.Repeat("x", secret.MaxSlotToken)), with("secret-token", "a/+=~.-_!"),
	} {
		s.respond = func(p string, _ int, w http.ResponseWriter) bool {
			if p == "/oauth/token" {
				w.WriteHeader(http.StatusCreated)
				io.WriteString(w, body)
			}
			return p == "/oauth/token"
		}
		expires, err := x.once(t.Context())
		if left := time.Until(expires).Seconds(); err != nil || left < 3590 || left > 3600 {
			t.Errorf("%.90s: %v s, %v", body, left, err)
		}
		_, token, _ := strings.Cut(body, `"access_token":"`)
		token, _, _ = strings.Cut(token, `"`)
		if lineOf(x.cfg.Key) != bearer(token) {
			t.Errorf("%.90s: another key", body)
		}
	}
	for _, identity := range []string{"not-a-jwt", strings.Repeat("x", secret.MaxToken)} {
		s.respond = func(p string, _ int, w http.ResponseWriter) bool {
			if p == "/identity" {
				fmt.Fprintf(w, `{"value":%q}`, identity)
				s.mu.Lock()
				s.identities = append(s.identities, identity)
				s.mu.Unlock()
			}
			return p == "/identity"
		}
		if _, err := x.once(t.Context()); err != nil {
			t.Errorf("an identity of %d: %v", len(identity), err)
		}
	}
	s.check(t)
}

func TestLongestSource(t *testing.T) {
	s := startIssuer(t)
	s.source = strings.Repeat("aB3./+=~", secret.MaxToken/8)
	x := must(New(s.config(t)))
	defer x.Close()
	if _, err := x.once(t.Context()); err != nil {
		t.Error(err)
	}
	s.check(t)
}

func TestTokenFile(t *testing.T) {
	s := startIssuer(t)
	cfg := s.config(t)
	path := t.TempDir() + "/token"
	cfg.Source, cfg.RequestURL, cfg.Audience, cfg.TokenFile = nil, "", "", path
	x := must(New(cfg))
	defer x.Close()
	for _, end := range []string{"", "\n", "\r\n"} { // each exchange reads it
		token := jwt(1000)
		s.identities = []string{token}
		os.WriteFile(path, []byte(token+end), 0o600)
		if _, err := x.once(t.Context()); err != nil || lineOf(cfg.Key) != bearer(s.last()) {
			t.Errorf("%q: %v", end, err)
		}
	}
	before := lineOf(cfg.Key)
	for _, content := range []string{"", "\n", "two words", "two\nlines", `"quoted"`, strings.Repeat("x", secret.MaxToken+1), strings.Repeat("x", 100_000)} {
		os.WriteFile(path, []byte(content), 0o600)
		if _, err := x.once(t.Context()); err != errSubject {
			t.Errorf("%.20q: %v", content, err)
		}
	}
	os.Remove(path)
	if _, err := x.once(t.Context()); err == nil || !strings.Contains(err.Error(), "--oidc-token-file") {
		t.Errorf("no file: %v", err)
	}
	os.Mkdir(path, 0o700)
	if _, err := x.once(t.Context()); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: %v", err)
	}
	if lineOf(cfg.Key) != before || !wiped(x) {
		t.Error("the key has changed, or the memory is not wiped")
	}
	if s.asked["/identity"] != 0 {
		t.Error("GitHub received a request")
	}
	s.check(t)
}

func TestTransportFailures(t *testing.T) {
	s := startIssuer(t)
	cfg := s.config(t)
	x := must(New(cfg))
	s.Close()
	if _, err := x.once(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "GitHub OIDC token request failed: cannot connect") {
		t.Error(err)
	}
	other := startIssuer(t)
	cfg.RequestURL = other.URL + "/identity"
	x = must(New(cfg))
	if _, err := x.once(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "GitHub OIDC token request failed: TLS handshake") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := x.once(ctx); err == nil {
		t.Error("a cancelled exchange succeeds")
	}
}

// TestConfig: errors of New, before any request.
func TestConfig(t *testing.T) {
	s := startIssuer(t)
	for what, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no audience":       {func(c *Config) { c.Audience = " " }, "workload identity requires a nonempty --oidc-audience"},
		"no provider":       {func(c *Config) { c.IdentityProviderID = "" }, "workload identity requires a nonempty --identity-provider-id"},
		"no account":        {func(c *Config) { c.ServiceAccountID = "\t" }, "workload identity requires a nonempty --service-account-id"},
		"no URL":            {func(c *Config) { c.RequestURL = "" }, "invalid GitHub OIDC request URL"},
		"no host":           {func(c *Config) { c.RequestURL = "https:///x" }, "invalid GitHub OIDC request URL"},
		"no real URL":       {func(c *Config) { c.RequestURL = "https://[::1/x" }, "invalid GitHub OIDC request URL"},
		"no scheme":         {func(c *Config) { c.RequestURL = "github.com/x" }, "invalid GitHub OIDC request URL"},
		"a bad port":        {func(c *Config) { c.RequestURL = "https://x.actions.githubusercontent.com:99999/" }, "invalid GitHub OIDC request URL"},
		"http":              {func(c *Config) { c.RequestURL = "http://pipelines.actions.githubusercontent.com/x" }, "GitHub OIDC request URL must be HTTPS without user info or fragment"},
		"ftp":               {func(c *Config) { c.RequestURL = "ftp://pipelines.actions.githubusercontent.com/x" }, "GitHub OIDC request URL must be HTTPS without user info or fragment"},
		"user info":         {func(c *Config) { c.RequestURL = "https://u:p@pipelines.actions.githubusercontent.com/x" }, "GitHub OIDC request URL must be HTTPS without user info or fragment"},
		"fragment":          {func(c *Config) { c.RequestURL = "https://pipelines.actions.githubusercontent.com/x#y" }, "GitHub OIDC request URL must be HTTPS without user info or fragment"},
		"another host":      {func(c *Config) { c.RequestURL = "https://example.com/x" }, "GitHub OIDC request URL names example.com, which is not one of GitHub's hosts; if it may have the request token, add --oidc-allow-host example.com"},
		"a similar host":    {func(c *Config) { c.RequestURL = "https://evilactions.githubusercontent.com/x" }, "names evilactions.githubusercontent.com"},
		"a similar host 2":  {func(c *Config) { c.RequestURL = "https://x.actions.githubusercontent.com.evil.org/x" }, "names x.actions.githubusercontent.com.evil.org"},
		"the bare domain":   {func(c *Config) { c.RequestURL = "https://actions.githubusercontent.com/x" }, "names actions.githubusercontent.com"},
		"loopback, unnamed": {func(c *Config) { c.AllowHosts = nil }, "names 127.0.0.1"},
		"http token URL":    {func(c *Config) { c.TokenURL = "http://example.com/x" }, "the token URL must be HTTPS without user info or fragment"},
		"token URL":         {func(c *Config) { c.TokenURL = "https://u@example.com/x" }, "the token URL must be HTTPS without user info or fragment"},
		"long names":        {func(c *Config) { c.ServiceAccountID = strings.Repeat("x", 9000) }, "too long"},
		"a long URL":        {func(c *Config) { c.RequestURL += strings.Repeat("x", 9000) }, "too long"},
		"two sources":       {func(c *Config) { c.TokenFile = "/x" }, "bug: "},
		"no source":         {func(c *Config) { c.Source = nil }, "bug: "},
		"no key":            {func(c *Config) { c.Key = nil }, "bug: "},
	} {
		cfg := s.config(t)
		c.change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %s", what, err, c.want)
		}
	}
	for what, change := range map[string]func(*Config){
		"pipelines": func(c *Config) {
			c.RequestURL, c.AllowHosts = "https://pipelines.actions.githubusercontent.com/a/b?c=d", nil
		},
		"runs": func(c *Config) {
			c.RequestURL = "https://run-actions-1-azure-eastus.actions.githubusercontent.com/29//idtoken/x"
		},
		"capitals": func(c *Config) { c.RequestURL = "https://X.Actions.GitHubUserContent.com/x" },
		"named": func(c *Config) {
			c.RequestURL, c.AllowHosts = "https://ghe.example.com:8443/x", []string{"a", "GHE.example.com"}
		},
		"loopback": func(c *Config) { c.TokenURL = "http://127.0.0.1:9/x" },
		"default":  func(c *Config) { c.TokenURL = "" },
	} {
		cfg := s.config(t)
		change(&cfg)
		if _, err := New(cfg); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(s.asked) != 0 {
		t.Errorf("something was sent: %v", s.asked)
	}
}

func TestNeeds(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "")
	s := startIssuer(t)
	cfg := s.config(t)
	cfg.RequestURL, cfg.TokenURL, cfg.AllowHosts = "https://h:8443/x", "", []string{"h"}
	if got := fmt.Sprint(must(New(cfg)).Needs()); got != "[443 8443] []" {
		t.Error(got)
	}
	cfg.RequestURL = "https://h/x"
	if got := fmt.Sprint(must(New(cfg)).Needs()); got != "[443] []" {
		t.Error(got)
	}
}

// TestWholeLife: from the start through a timely renewal to the end, with a real clock and a token of two seconds.
func TestWholeLife(t *testing.T) {
	s := startIssuer(t)
	s.respond = func(p string, n int, w http.ResponseWriter) bool {
		if p != "/oauth/token" {
			return false
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.access = append(s.access, fmt.Sprintf("access-%d", n))
		io.WriteString(w, grantJSON(s.access[n-1], 2, 0))
		return true
	}
	cfg := s.config(t)
	cfg.Report = func(line string) { t.Log(line) }
	x := must(New(cfg))
	if err := x.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := lineOf(cfg.Key); got != bearer("access-1") {
		t.Errorf("after the start: %q", got)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	// On a busy machine the first token may expire before it is renewed.
	for end := time.Now().Add(20 * time.Second); s.last() == "access-1" || lineOf(cfg.Key) != bearer(s.last()); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("there is no renewal")
		}
		x.Renew() // ignored so soon after an exchange
	}
	x.Close()
	if got := lineOf(cfg.Key); got != bearer(s.last()) || s.last() == "access-1" {
		t.Errorf("after the end: %q", got)
	}
	if own, keys := x.Locked(), cfg.Key.Locked(); (own == nil) != (keys == nil) {
		t.Errorf("the exchange's memory is locked because %v, the key's because %v", own, keys)
	}
	s.check(t)
}

// FuzzGrant: no response yields a token that it does not contain, or a longer lifetime than it states.
func FuzzGrant(f *testing.F) {
	f.Add([]byte(grantJSON("abc", 3600, 0)))
	f.Add([]byte(grantJSON("abc", 3600, 1<<40)))
	f.Fuzz(func(t *testing.T, doc []byte) {
		begun := testTime
		token, expires, err := parseGrant(doc, begun)
		if err != nil {
			return
		}
		if len(token) == 0 || !bytes.Contains(doc, token) || !expires.After(begun) || expires.After(begun.Add(maxLifetime)) {
			t.Errorf("%q: %v", token, expires)
		}
		var want struct {
			Token string `json:"access_token"`
			In    uint64 `json:"expires_in"`
		}
		var names map[string]any
		one := json.Unmarshal(doc, &names) == nil && len(names) == 4 // a member in another case may decode as access_token
		if one && json.Unmarshal(doc, &want) == nil && want.Token != "" && want.Token != string(token) {
			t.Errorf("%q, want %q", token, want.Token)
		}
	})
}
