package upstream

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

// forwardProxy is a forward proxy that connects every name to one address and records what it receives from the client.
type forwardProxy struct {
	net.Listener
	to       string
	response string

	mu   sync.Mutex
	seen bytes.Buffer
}

func startForwardProxy(t *testing.T, to, response string) *forwardProxy {
	p := &forwardProxy{Listener: must(net.Listen("tcp", "127.0.0.1:0")), to: to, response: response}
	t.Cleanup(func() { p.Close() })
	go func() {
		for {
			c, err := p.Accept()
			if err != nil {
				return
			}
			go p.tunnel(c)
		}
	}()
	return p
}

func (p *forwardProxy) tunnel(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(io.TeeReader(c, p))
	if _, err := http.ReadRequest(in); err != nil {
		return
	}
	io.WriteString(c, p.response)
	up, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer up.Close()
	go io.Copy(c, up)
	io.Copy(up, in)
}

func (p *forwardProxy) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.Write(b)
}

func (p *forwardProxy) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.String()
}

// named gives the fake upstream's address another name, with a certificate for it.
func named(t *testing.T, name string) (address string, roots *x509.CertPool) {
	ca := must(openaitest.NewCA())
	up := must(openaitest.Start(openaitest.Options{Key: canary}))
	t.Cleanup(up.Close)
	l := tls.NewListener(must(net.Listen("tcp", "127.0.0.1:0")), &tls.Config{Certificates: []tls.Certificate{must(ca.Leaf(name))}})
	t.Cleanup(func() { l.Close() })
	go func() { // terminates TLS for the fake upstream
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			back, err := net.Dial("tcp", up.Addr())
			if err != nil {
				c.Close()
				return
			}
			go func() { io.Copy(back, c); back.Close() }()
			go func() { io.Copy(c, back); c.Close() }()
		}
	}()
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.PEM())
	return l.Addr().String(), roots
}

func TestConnect(t *testing.T) {
	addr, roots := named(t, "upstream.test")
	p := startForwardProxy(t, addr, "HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n")
	t.Setenv("HTTPS_PROXY", "http://user:pass@"+p.Addr().String())
	c := must(New(Config{Target: must(ParseTarget("https://upstream.test/v1/responses", false)), Key: keyOf(t, canary), Roots: roots}))
	defer c.Close()
	if got := c.ForwardProxy(); got != p.Addr().String() {
		t.Errorf("the forward proxy is %q", got)
	}
	do(t, c, post("json", "{}"))
	seen := p.text()
	if !strings.HasPrefix(seen, "CONNECT upstream.test:443 HTTP/1.1\r\nHost: upstream.test:443\r\nProxy-Authorization: Basic dXNlcjpwYXNz\r\n\r\n") {
		t.Errorf("the proxy was asked %.200q", seen)
	}
	if strings.Contains(seen, "sk-") || strings.Contains(seen, "\nauthorization") {
		t.Error("the key went over the proxy's wire")
	}
}

func TestConnectRefused(t *testing.T) {
	for _, response := range []string{"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "HTTP/1.1 302 F\r\nLocation: /\r\n\r\n", "garbage\r\n\r\n", "HTTP/1.1 200 OK\n\n"} {
		addr, roots := named(t, "upstream.test")
		p := startForwardProxy(t, addr, response)
		t.Setenv("HTTPS_PROXY", "http://"+p.Addr().String())
		c := must(New(Config{Target: must(ParseTarget("https://upstream.test/v1/responses", false)), Key: keyOf(t, canary), Roots: roots}))
		if _, err := c.Do(within(t, soon), post("json", "{}")); !isKind(err, Unreachable) {
			t.Errorf("%q: %v", response, err)
		}
	}
}

func TestProxyEnvironment(t *testing.T) {
	straight := func(why, url string) {
		t.Helper()
		d, err := NewEndpoint(Config{Target: must(ParseTarget(url, true)), Roots: x509.NewCertPool()})
		if err != nil || d.ForwardProxy() != "" {
			t.Errorf("%s: proxy %v, %v", why, d.proxy, err)
		}
	}
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	straight("a plain http upstream never goes through a proxy", "http://10.0.0.1/x")
	straight("HTTP_PROXY is not for https", "https://upstream.test/x")
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("NO_PROXY", "upstream.test")
	straight("NO_PROXY", "https://upstream.test/x")
	straight("loopback", "https://127.0.0.1/x")
	t.Setenv("NO_PROXY", "")
	for _, good := range []string{"http://127.0.0.1:1", "127.0.0.1:1", "[::1]:1", "proxy.test:1"} {
		t.Setenv("HTTPS_PROXY", good)
		e, err := NewEndpoint(Config{Target: must(ParseTarget("https://upstream.test/x", false)), Roots: x509.NewCertPool()})
		if want := strings.TrimPrefix(good, "http://"); err != nil || e.ForwardProxy() != want {
			t.Errorf("%s: proxy %v, %v", good, e.proxy, err)
		}
	}
	for _, bad := range []string{"socks5://127.0.0.1:1", "https://127.0.0.1:1", "http://[bad", "localhost:99999999", "http://127.0.0.1:0", "http://127.0.0.1:x"} {
		t.Setenv("HTTPS_PROXY", bad)
		if _, err := NewEndpoint(Config{Target: must(ParseTarget("https://upstream.test/x", false)), Roots: x509.NewCertPool()}); err == nil || !strings.Contains(err.Error(), "HTTPS_PROXY") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
