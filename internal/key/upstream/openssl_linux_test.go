package upstream

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

// openssl is another implementation of a TLS server: it can select the cipher suite and update keys, which crypto/tls
// cannot.
type openssl struct {
	cmd  *exec.Cmd
	in   io.Writer
	out  *bufio.Reader
	addr string
}

func startOpenSSL(t *testing.T, suite string) (*openssl, *x509.CertPool) {
	path, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("openssl is missing")
		}
		t.Skip("SECURITY TEST SKIPPED: openssl is missing")
	}
	ca := must(openaitest.NewCA())
	leaf := must(ca.Leaf("127.0.0.1"))
	file := t.TempDir() + "/server.pem"
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]})
	b = append(b, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(leaf.PrivateKey))})...)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	s := &openssl{addr: l.Addr().String()}
	l.Close()
	s.cmd = exec.Command(path, "s_server", "-accept", s.addr, "-cert", file, "-tls1_3", "-ciphersuites", suite, "-crlf")
	s.in = must(s.cmd.StdinPipe())
	s.out = bufio.NewReader(must(s.cmd.StdoutPipe()))
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	})
	s.until(t, "ACCEPT")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.PEM())
	return s, roots
}

// until reads the server's output up to a line that contains text, and returns the line.
func (s *openssl) until(t *testing.T, text string) string {
	t.Helper()
	for {
		line, err := s.out.ReadString('\n')
		if strings.Contains(line, text) {
			return line
		}
		if err != nil {
			t.Fatalf("openssl ends before it says %q", text)
		}
	}
}

// respond waits for a request and responds to it.
func (s *openssl) respond(t *testing.T) {
	t.Helper()
	if line := s.until(t, "authorization"); strings.TrimSpace(line) != "authorization: Bearer "+canary {
		t.Errorf("openssl got %q", line)
	}
	s.until(t, "hello")
	io.WriteString(s.in, "HTTP/1.1 200 OK\nContent-Length: 4\n\nok\n")
}

// TestOpenSSL uses each suite, before and after a key update.
func TestOpenSSL(t *testing.T) {
	for _, suite := range []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"} {
		t.Run(suite, func(t *testing.T) {
			s, roots := startOpenSSL(t, suite)
			c := must(New(Config{Target: must(ParseTarget("https://"+s.addr+"/v1/responses", false)), Key: keyOf(t, canary), Roots: roots}))
			defer c.Close()
			for range 3 {
				s.exchange(t, c)
			}
			first := c.pool.conns[0]
			io.WriteString(s.in, "K\n") // update the keys, and request an update of ours
			for ctx := within(t, soon); first.idleAndOpen() && ctx.Err() == nil; {
				runtime.Gosched()
			}
			s.exchange(t, c)
			if c.pool.conns[0] == first {
				t.Error("a connection is used on which something has arrived")
			}
		})
	}
}

// TestOpenSSLUpdatesKeys: the server updates keys in the middle of a response, and requests an update of ours, for each
// suite: the response and the next requests pass on the same connection.
func TestOpenSSLUpdatesKeys(t *testing.T) {
	for _, suite := range []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"} {
		for _, command := range []string{"k\n", "K\n"} { // K requests an update of ours too
			t.Run(suite+" "+command, func(t *testing.T) {
				s, roots := startOpenSSL(t, suite)
				c := must(New(Config{Target: must(ParseTarget("https://"+s.addr+"/v1/responses", false)), Key: keyOf(t, canary), Roots: roots}))
				defer c.Close()
				s.exchange(t, c)
				first := c.pool.conns[0]
				for range 3 {
					s.updateWithin(t, c, command)
				}
				s.exchange(t, c)
				if len(c.pool.conns) != 1 || c.pool.conns[0] != first {
					t.Error("another connection was made")
				}
			})
		}
	}
}

// updateWithin sends one request, and updates the keys between the head and the body of the response.
func (s *openssl) updateWithin(t *testing.T, c *Client, command string) {
	t.Helper()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		s.until(t, "authorization: Bearer "+canary)
		s.until(t, "hello")
		io.WriteString(s.in, "HTTP/1.1 200 OK\nContent-Length: 4\n\n")
	}()
	res, err := c.Do(within(t, soon), &Request{Start: []byte("hello\n"), Length: 6})
	if err != nil {
		t.Fatal(err)
	}
	<-answered
	io.WriteString(s.in, command) // s_server must read it as a separate command
	awaitReadable(t, res.c.TCPConn, "key update")
	io.WriteString(s.in, "ok\n")
	if body := finish(t, res, nil); body != "ok\r\n" {
		t.Errorf("body %q", body)
	}
}

// exchange sends one request and responds to it.
func (s *openssl) exchange(t *testing.T, c *Client) {
	t.Helper()
	answered := make(chan struct{})
	go func() { defer close(answered); s.respond(t) }()
	defer func() { <-answered }()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	res, err := c.Do(ctx, &Request{Start: []byte("hello\n"), Length: 6})
	if err != nil {
		t.Fatal(err)
	}
	if body := finish(t, res, nil); body != "ok\r\n" {
		t.Errorf("body %q", body)
	}
}
