package tokenexchange

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

var testTime = time.Unix(1_800_000_000, 0)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// jwt returns a token of about n characters that occurs nowhere else.
func jwt(n int) string {
	var b strings.Builder
	for b.Len() < n/3 {
		b.WriteString(rand.Text())
	}
	part := b.String()
	return "eyJ" + part + "." + strings.ToLower(part) + ".sig-_" + rand.Text() + part
}

func grantJSON(token string, in, at int64) string {
	end := ""
	if at != 0 {
		end = fmt.Sprintf(`,"expires_at":%d`, at)
	}
	return fmt.Sprintf(`{"access_token":%q,"issued_token_type":%q,"token_type":"Bearer","expires_in":%d%s,"scope":"x","y":[{}]}`, token, accessTokenType, in, end)
}

// issuer is a fake of GitHub's endpoint, at /identity, and of OpenAI's, at /oauth/token.
type issuer struct {
	*httptest.Server
	roots *x509.CertPool
	ca    []byte
	// respond, if set, replaces the response to a path.
	respond func(path string, n int, w http.ResponseWriter) bool
	// piecewise sends each response in two chunks, and so in several records.
	piecewise bool

	mu         sync.Mutex
	source     string
	faults     []string
	identities []string
	access     []string
	asked      map[string]int
	current    int
	together   int // maximum number of concurrent requests
}

func startIssuer(t testing.TB) *issuer {
	t.Helper()
	ca := must(openaitest.NewCA())
	s := &issuer{source: jwt(900), asked: map[string]int{}, roots: x509.NewCertPool(), ca: ca.PEM()}
	s.roots.AppendCertsFromPEM(ca.PEM())
	s.Server = httptest.NewUnstartedServer(s)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{must(ca.Leaf("127.0.0.1"))}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *issuer) fault(format string, args ...any) {
	s.faults = append(s.faults, fmt.Sprintf(format, args...))
}

func (s *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked[r.URL.Path]++
	n := s.asked[r.URL.Path]
	s.current++
	s.together = max(s.together, s.current)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.current--
		s.mu.Unlock()
	}()
	body, _ := io.ReadAll(r.Body)
	if s.respond != nil && s.respond(r.URL.Path, n, w) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.URL.Path {
	case "/identity":
		s.identity(w, r)
	case "/oauth/token":
		s.token(w, r, body)
	default:
		s.fault("request for %s", r.URL)
	}
}

func (s *issuer) identity(w http.ResponseWriter, r *http.Request) {
	if r.Method != "GET" || r.Header.Get("Authorization") != "Bearer "+s.source || r.Header.Get("Accept") != "*/*" || r.URL.RawQuery != "api-version=2.0&audience=an+audience%2F1" {
		s.fault("identity: %s %s %v", r.Method, r.URL, r.Header)
	}
	s.identities = append(s.identities, jwt(1500))
	s.send(w, fmt.Sprintf(`{"count":1,"value":%q}`, s.identities[len(s.identities)-1]))
}

func (s *issuer) token(w http.ResponseWriter, r *http.Request, body []byte) {
	var got map[string]string
	err := json.Unmarshal(body, &got)
	want := map[string]string{
		"grant_type":           "urn:ietf:params:oauth:grant-type:token-exchange",
		"subject_token_type":   "urn:ietf:params:oauth:token-type:jwt",
		"subject_token":        s.identities[len(s.identities)-1], // issued here, or set by use
		"identity_provider_id": `idp "1"`,
		"service_account_id":   "sa_1",
	}
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) || r.Method != "POST" || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Authorization") != "" {
		s.fault("token: %s %v %s", r.Method, r.Header, body)
	}
	s.access = append(s.access, jwt(1200))
	s.send(w, grantJSON(s.access[len(s.access)-1], 3600, time.Now().Unix()+3600))
}

func (s *issuer) send(w http.ResponseWriter, body string) {
	if s.piecewise {
		io.WriteString(w, body[:len(body)/2])
		w.(http.Flusher).Flush()
		body = body[len(body)/2:]
	}
	io.WriteString(w, body)
}

// use makes identity the expected one.
func (s *issuer) use(identity string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identities = append(s.identities, identity)
}

// last returns the current access token.
func (s *issuer) last() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.access[len(s.access)-1]
}

func (s *issuer) check(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.faults {
		t.Errorf("the issuer: %.300s", f)
	}
}

// config returns the configuration of a proxy that uses the issuer.
func (s *issuer) config(t testing.TB) Config {
	t.Helper()
	return Config{
		Audience:           "an audience/1",
		IdentityProviderID: `idp "1"`,
		ServiceAccountID:   "sa_1",
		RequestURL:         s.URL + "/identity?api-version=2.0",
		AllowHosts:         []string{"127.0.0.1"},
		Source:             sourceOf(t, s.source),
		TokenURL:           s.URL + "/oauth/token",
		Key:                emptyKey(t),
		Roots:              s.roots,
		Report:             func(string) {},
	}
}

func emptyKey(t testing.TB) *secret.Key {
	t.Helper()
	key := must(secret.New(secret.Config{Token: true, Spare: true}))
	t.Cleanup(key.Wipe)
	return key
}

// sourceOf returns a token that Read has read.
func sourceOf(t testing.TB, text string) *secret.Key {
	t.Helper()
	path := t.TempDir() + "/source"
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := must(os.Open(path))
	defer f.Close()
	key := must(secret.Read(int(f.Fd()), secret.Config{Token: true, NoSlots: true}))
	t.Cleanup(key.Wipe)
	return key
}

func lineOf(k *secret.Key) (line string) {
	if err := k.Line(func(p []byte) error { line = string(p); return nil }); err != nil {
		return err.Error()
	}
	return line
}

func bearer(token string) string { return "authorization: Bearer " + token + "\r\n" }

// wiped reports whether the exchange's memory is zero.
func wiped(x *Exchanger) bool {
	for _, c := range x.memory.Bytes() {
		if c != 0 {
			return false
		}
	}
	return true
}
