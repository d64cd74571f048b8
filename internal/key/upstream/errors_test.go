package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

// TestErrorsNameHostAndRemedy: the operator's message says which host it is about, and names the flag or variable that helps.
func TestErrorsNameHostAndRemedy(t *testing.T) {
	ca := must(openaitest.NewCA())
	known, none := x509.NewCertPool(), x509.NewCertPool()
	known.AppendCertsFromPEM(ca.PEM())
	certificates := []tls.Certificate{must(ca.Leaf("127.0.0.1"))}
	listen := func(cfg *tls.Config) string {
		l := must(net.Listen("tcp", "127.0.0.1:0"))
		t.Cleanup(func() { l.Close() })
		go func() {
			for c, err := l.Accept(); err == nil; c, err = l.Accept() {
				if cfg == nil {
					io.WriteString(c, "220 ready\r\n")
				} else {
					go tls.Server(c, cfg).Handshake()
				}
			}
		}()
		return l.Addr().String()
	}
	closed := must(net.Listen("tcp", "127.0.0.1:0"))
	nobody := closed.Addr().String()
	closed.Close()
	for _, c := range []struct {
		what, addr, proxy string
		roots             *x509.CertPool
		legacy            bool
		kind              Kind
		cause, hint       string // parts of both
	}{
		{"nobody listens", nobody, "", known, false, Unreachable, "cannot connect to " + nobody + ": ", ""},
		{"no forward proxy", "upstream.test:443", nobody, known, false, Unreachable, "cannot connect to the forward proxy " + nobody + ": ", "HTTPS_PROXY"},
		{"unknown CA", listen(&tls.Config{Certificates: certificates}), "", none, false, TLSFailed, "unknown authority", "--ca-file or SSL_CERT_FILE"},
		{"TLS 1.2 only", listen(&tls.Config{Certificates: certificates, MaxVersion: tls.VersionTLS12}), "", known, false, TLSFailed, "protocol version", "--upstream-tls 1.2"},
		{"TLS 1.3 only", listen(&tls.Config{Certificates: certificates, MinVersion: tls.VersionTLS13}), "", known, true, TLSFailed, "protocol version", "omit --upstream-tls"},
		{"no TLS", listen(nil), "", known, false, TLSFailed, "does not look like a TLS handshake", "--upstream-url"},
	} {
		t.Setenv("HTTPS_PROXY", "")
		if c.proxy != "" {
			t.Setenv("HTTPS_PROXY", "http://user:secret@"+c.proxy)
		}
		client := must(New(Config{Target: must(ParseTarget("https://"+c.addr+"/v1/responses", false)), Key: keyOf(t, canary), Roots: c.roots, LegacyTLS: c.legacy}))
		_, err := client.Do(within(t, soon), post("json", "{}"))
		client.Close()
		var e *Error
		switch {
		case !errors.As(err, &e) || e.Kind != c.kind:
			t.Errorf("%s: %v", c.what, err)
		case !strings.Contains(e.Error(), c.cause) || !strings.Contains(e.Hint, c.hint) || c.hint == "" && e.Hint != "":
			t.Errorf("%s: %q, %q; want %q and %q", c.what, e.Error(), e.Hint, c.cause, c.hint)
		case c.kind == TLSFailed && !strings.HasPrefix(e.Error(), "TLS handshake with "+c.addr+": "):
			t.Errorf("%s: %q does not name the host", c.what, e.Error())
		case strings.Contains(e.Error()+e.Hint, "secret"):
			t.Errorf("%s: %q shows the forward proxy's password", c.what, e.Error()+e.Hint)
		}
	}
}
