package main

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

// internet is a forward proxy, behind which one server is a fake of both GitHub and OpenAI.
type internet struct {
	url, ca, request string // the last is GitHub's request token

	mu         sync.Mutex
	identities []string // made so far; the last one counts
	tokens     []string
	seen       []string // what was asked for
}

func startInternet(t *testing.T) *internet {
	t.Helper()
	n := &internet{request: "ghs." + rand.Text() + rand.Text(), ca: filepath.Join(t.TempDir(), "ca.pem")}
	ca, err := openaitest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.Leaf("pipelines.actions.githubusercontent.com", "auth.openai.com", "api.openai.com")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.ca, ca.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(n)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{leaf}}
	s.StartTLS()
	t.Cleanup(s.Close)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	n.url = "http://" + l.Addr().String()
	go n.tunnel(l, s.Listener.Addr().String())
	return n
}

// tunnel responds to CONNECT, and connects every target to the same server.
func (n *internet) tunnel(l net.Listener, to string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			in := bufio.NewReader(c)
			req, err := http.ReadRequest(in)
			if err != nil || req.Method != "CONNECT" {
				return
			}
			up, err := net.Dial("tcp", to)
			if err != nil {
				return
			}
			defer up.Close()
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			go io.Copy(up, in)
			io.Copy(c, up)
		}()
	}
}

// ServeHTTP implements http.Handler.
func (n *internet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen = append(n.seen, r.Method+" "+r.Host+r.URL.Path)
	credential := r.Header.Get("Authorization")
	switch r.Host {
	case "pipelines.actions.githubusercontent.com":
		if credential != "Bearer "+n.request || r.URL.Query().Get("audience") != "https://api.openai.com/v1" {
			w.WriteHeader(401)
			return
		}
		n.identities = append(n.identities, "eyJ"+rand.Text()+".eyJ"+rand.Text()+"."+rand.Text())
		fmt.Fprintf(w, `{"count":1,"value":%q}`, n.identities[len(n.identities)-1])
	case "auth.openai.com":
		if len(n.identities) == 0 || !strings.Contains(string(body), `"subject_token":"`+n.identities[len(n.identities)-1]+`"`) {
			w.WriteHeader(400)
			return
		}
		n.tokens = append(n.tokens, "at-"+rand.Text()+"."+rand.Text()+"_"+rand.Text())
		fmt.Fprintf(w, `{"access_token":%q,"issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":3600}`, n.tokens[len(n.tokens)-1])
	default:
		if credential != "Bearer "+n.tokens[len(n.tokens)-1] {
			w.WriteHeader(401)
			return
		}
		io.WriteString(w, `{"id":"resp_1"}`)
	}
}

// revoke makes the token there is worthless.
func (n *internet) revoke() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tokens = append(n.tokens, "revoked")
}

// TestWorkloadIdentity checks that the whole program gets its key from GitHub and
// OpenAI before it listens, uses it and renews it when it is refused, and that
// none of the tokens can be read.
func TestWorkloadIdentity(t *testing.T) {
	t.Parallel()
	n := startInternet(t)
	args := []string{"--github-oidc", "--oidc-audience", "https://api.openai.com/v1", "--identity-provider-id", "idp_1", "--service-account-id", "sa_1",
		"--github-oidc-request-url", "https://pipelines.actions.githubusercontent.com/x/idtoken?api-version=2.0", "--ca-file", n.ca}
	if os.Geteuid() == 0 {
		args = append(args, "--user", "nobody", "--protection=strict")
	}
	r := launchIn(t, []string{"HTTPS_PROXY=" + n.url}, n.request+"\n", args...)
	ask := func() (status int) {
		res, err := http.Post(r.url, "application/json", strings.NewReader(`{"input":"hi"}`))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	if got := ask(); got != 200 {
		t.Fatalf("status %d, and the internet saw %q", got, n.seen)
	}
	n.revoke()
	if got := ask(); got != 401 {
		t.Errorf("a refusal is passed on as %d", got)
	}
	for deadline := time.Now().Add(2 * patience); ask() != 200; {
		if time.Now().After(deadline) {
			t.Fatalf("the token was not renewed; the internet saw %q", n.seen)
		}
		<-time.After(50 * time.Millisecond) // paces the polling
	}
	n.scan(t, r.cmd.Process.Pid)
}

// scan looks for all tokens in the program's memory, which takes root.
func (n *internet) scan(t *testing.T, pid int) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("NOT TESTED, and CI must: only root can look for the tokens")
		}
		t.Log("NOT TESTED: only root can look for the tokens")
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, token := range append(append([]string{n.request}, n.identities...), n.tokens...) {
		if token == "revoked" {
			continue
		}
		report, err := memscan.Process(pid, []byte(token))
		if err != nil || report.Full > 0 || report.Fragments > 0 || report.Bytes == 0 {
			t.Errorf("%s...: %+v, %v", token[:4], report, err)
		}
	}
}
