package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/tlsrecord"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

// host handles the one request of each connection by handler.
type host struct {
	addr  string
	roots *x509.CertPool
	heard chan []byte
}

// startHost listens; with cfg, over TLS. A request is complete when its body has the length in its head, of digits
// after "length: ".
func startHost(t testing.TB, cfg *tls.Config, handler func(c net.Conn)) *host {
	t.Helper()
	h := &host{heard: make(chan []byte, 64), roots: x509.NewCertPool()}
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	h.addr = l.Addr().String()
	if cfg != nil {
		ca := must(openaitest.NewCA())
		h.roots.AppendCertsFromPEM(ca.PEM())
		cfg.Certificates = []tls.Certificate{must(ca.Leaf("127.0.0.1"))}
		l = tls.NewListener(l, cfg)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go h.serve(c, handler)
		}
	}()
	return h
}

func (h *host) serve(c net.Conn, handler func(c net.Conn)) {
	defer c.Close()
	var got []byte
	p := make([]byte, 32<<10)
	for !bytes.HasSuffix(got, []byte("END")) {
		n, err := c.Read(p)
		if err != nil {
			return
		}
		got = append(got, p[:n]...)
	}
	h.heard <- got
	handler(c)
}

func respondWith(text string) func(net.Conn) { return func(c net.Conn) { io.WriteString(c, text) } }

// endpoint returns h as an Endpoint.
func (h *host) endpoint(t testing.TB, secure bool) *Endpoint {
	t.Helper()
	scheme := map[bool]string{true: "https", false: "http"}[secure]
	return must(NewEndpoint(Config{Target: must(ParseTarget(scheme+"://"+h.addr+"/x", false)), Roots: h.roots}))
}

func newMemory(t testing.TB) *secret.Buffer {
	t.Helper()
	return must(secret.NewBuffer(false, ExchangeMemory))
}

const roomSize = 24 << 10

func exchange(t testing.TB, memory *secret.Buffer, to *Endpoint, request string) (int, string, error) {
	t.Helper()
	status, body, err := to.Exchange(within(t, soon), memory.Bytes(), []byte(request), make([]byte, roomSize))
	if i := bytes.IndexFunc(memory.Bytes(), func(r rune) bool { return r != 0 }); i >= 0 {
		t.Errorf("byte %d of the memory is left", i)
	}
	return status, string(body), err
}

const lengthHead = "HTTP/1.1 200 OK\r\nContent-Length: "

func sized(body string) string { return fmt.Sprintf("%s%d\r\n\r\n%s", lengthHead, len(body), body) }

// responses are what the host may send, with the result.
var responses = []struct {
	what, raw string
	status    int
	body      string
}{
	{"length", sized("the body"), 200, "the body"},
	{"empty", lengthHead + "0\r\n\r\n", 200, ""},
	{"no content", "HTTP/1.1 204 No Content\r\n\r\n", 204, ""},
	{"more than its length", sized("the body") + "and more", 200, "the body"},
	{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nthe\r\n5;x=y\r\n body\r\n0\r\nT: u\r\n\r\n", 200, "the body"},
	{"until close", "HTTP/1.1 201 Created\r\n\r\nthe body", 201, "the body"},
	{"interim", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + sized("the body"), 200, "the body"},
	{"large", sized(strings.Repeat("0123456789abcdef", 1400)), 200, strings.Repeat("0123456789abcdef", 1400)},
	{"redirect", "HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1/\r\nContent-Length: 3\r\n\r\nabc", 302, ""},
	{"an error's body", "HTTP/1.1 500 No\r\nContent-Length: 99999999\r\n\r\nabc", 500, ""},
	{"informal head", "HTTP/1.0 401 \r\n\r\n", 401, ""},

	{"no HTTP", "no HTTP\r\n\r\n", 0, "malformed"},
	{"switching", "HTTP/1.1 101 Switching\r\n\r\n", 0, "malformed"},
	{"bare line feeds", "HTTP/1.1 200 OK\n\nx", 0, "malformed"},
	{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx", 0, "malformed"},
	{"bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 0, "malformed"},
	{"too long by its length", lengthHead + "1000000\r\n\r\nx", 0, "too large"},
	{"too long", "HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 30<<10), 0, "too large"},
	{"too long in chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8000\r\n" + strings.Repeat("x", 0x8000), 0, "too large"},
	{"head too long", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 30<<10), 0, "too large"},
	{"cut", sized("the body")[:len(sized("the body"))-1], 0, "ended in the middle"},
	{"cut in the head", "HTTP/1.1 200 OK\r\nContent-Le", 0, "ended before"},
	{"cut between chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nthe\r\n", 0, "ended in the middle"},
	{"nothing", "", 0, "ended before"},
}

// TestExchangeAsksForNoTickets: sessions are resumed with a copy of the first record, which may be the token; so an
// exchange, other than a request, offers no resumption (RFC 8446, section 4.2.9).
func TestExchangeAsksForNoTickets(t *testing.T) {
	const pskKeyExchangeModes = 45
	offered := make(chan []uint16, 2)
	h := startHost(t, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		offered <- hello.Extensions
		return nil, nil
	}}, respondWith(sized("the body")))
	if _, _, err := exchange(t, newMemory(t), h.endpoint(t, true), "request END"); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(<-offered, pskKeyExchangeModes) {
		t.Error("an exchange asks for tickets")
	}
	target := must(ParseTarget("https://"+h.addr+"/x", false))
	c := must(New(Config{Target: target, Key: keyOf(t, canary), Roots: h.roots}))
	defer c.Close()
	conn, err := c.dial(within(t, soon))
	if err != nil {
		t.Fatal(err)
	}
	conn.close()
	if !slices.Contains(<-offered, pskKeyExchangeModes) {
		t.Error("a request asks for none")
	}
}

func TestExchangeReadsAnswers(t *testing.T) {
	c := newMemory(t)
	for _, secure := range []bool{true, false} {
		for _, a := range responses {
			t.Run(fmt.Sprintf("tls %t: %s", secure, a.what), func(t *testing.T) {
				var cfg *tls.Config
				if secure {
					cfg = &tls.Config{}
				}
				h := startHost(t, cfg, respondWith(a.raw))
				status, body, err := exchange(t, c, h.endpoint(t, secure), "request END")
				if a.status == 0 {
					if err == nil || !strings.Contains(err.Error(), a.body) || status != 0 || body != "" {
						t.Errorf("status %d, body %.40q, error %v; want one that says %q", status, body, err, a.body)
					}
					return
				}
				if err != nil || status != a.status || body != a.body {
					t.Errorf("status %d, body %.40q, %v", status, body, err)
				}
				if got := string(<-h.heard); got != "request END" {
					t.Errorf("the host heard %q", got)
				}
			})
		}
	}
}

// TestExchangeReadsTinyRecords: the response arrives byte by byte, each in its own record.
func TestExchangeReadsTinyRecords(t *testing.T) {
	raw := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nthe\r\n5;x=y\r\n body\r\n0\r\n\r\n"
	h := startHost(t, &tls.Config{}, func(c net.Conn) {
		for i := range len(raw) {
			io.WriteString(c, raw[i:i+1])
		}
	})
	status, body, err := exchange(t, newMemory(t), h.endpoint(t, true), "END")
	if status != 200 || body != "the body" || err != nil {
		t.Errorf("%d, %q, %v", status, body, err)
	}
}

func TestExchangeSendsLargeRequests(t *testing.T) {
	c := newMemory(t)
	for _, size := range []int{1, tlsrecord.MaxPlaintext - 4, tlsrecord.MaxPlaintext - 3, tlsrecord.MaxPlaintext - 2, 2 * tlsrecord.MaxPlaintext, 50_000} {
		h := startHost(t, &tls.Config{}, respondWith(sized("ok")))
		request := strings.Repeat("r", size) + "END"
		if _, body, err := exchange(t, c, h.endpoint(t, true), request); body != "ok" || err != nil {
			t.Errorf("%d bytes: %q, %v", size, body, err)
		}
		if got := <-h.heard; string(got) != request {
			t.Errorf("the host heard %d bytes, want %d", len(got), len(request))
		}
	}
}

// TestExchangeWantsASignedEnd: without close_notify, an attacker may have cut the TLS session.
func TestExchangeWantsASignedEnd(t *testing.T) {
	h := startHost(t, &tls.Config{}, func(c net.Conn) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nthe beginning of the body")
		c.(*tls.Conn).NetConn().Close()
	})
	if _, body, err := exchange(t, newMemory(t), h.endpoint(t, true), "END"); !isKind(err, Closed) || body != "" {
		t.Errorf("%q, %v", body, err)
	}
}

func TestExchangeRefusesBadTLS(t *testing.T) {
	c := newMemory(t)
	old := startHost(t, &tls.Config{MaxVersion: tls.VersionTLS12}, respondWith(sized("x")))
	if _, _, err := exchange(t, c, old.endpoint(t, true), "END"); !isKind(err, TLSFailed) {
		t.Errorf("TLS 1.2: %v", err)
	}
	stranger := startHost(t, &tls.Config{}, respondWith(sized("x")))
	stranger.roots = x509.NewCertPool()
	if _, _, err := exchange(t, c, stranger.endpoint(t, true), "END"); !isKind(err, TLSFailed) {
		t.Errorf("an unknown authority: %v", err)
	}
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			io.WriteString(c, "HTTP/1.1 400 This is plain http\r\n\r\n")
			c.Close()
		}
	}()
	plain := &host{addr: l.Addr().String(), roots: x509.NewCertPool()}
	if _, _, err := exchange(t, c, plain.endpoint(t, true), "END"); !isKind(err, TLSFailed) {
		t.Errorf("no TLS: %v", err)
	}
	select {
	case got := <-old.heard:
		t.Errorf("something was sent: %q", got)
	case got := <-stranger.heard:
		t.Errorf("something was sent: %q", got)
	default:
	}
}

func TestExchangeGivesUp(t *testing.T) {
	for _, cfg := range []*tls.Config{nil, {}} {
		ctx, cancel := context.WithCancel(t.Context())
		h := startHost(t, cfg, func(c net.Conn) {
			cancel()
			io.Copy(io.Discard, c) // until the client has disconnected
		})
		_, _, err := h.endpoint(t, cfg != nil).Exchange(ctx, newMemory(t).Bytes(), []byte("END"), make([]byte, roomSize))
		if !isKind(err, Cancelled) {
			t.Errorf("cancelled: %v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), 0)
		defer cancel()
		_, _, err = h.endpoint(t, cfg != nil).Exchange(ctx, newMemory(t).Bytes(), []byte("END"), make([]byte, roomSize))
		if !isKind(err, Timeout) {
			t.Errorf("too late: %v", err)
		}
	}
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	nobody := &host{addr: l.Addr().String(), roots: x509.NewCertPool()}
	l.Close()
	if _, _, err := exchange(t, newMemory(t), nobody.endpoint(t, true), "END"); !isKind(err, Unreachable) {
		t.Errorf("nobody listens: %v", err)
	}
}

func TestExchangeGoesThroughTheProxy(t *testing.T) {
	addr, roots := named(t, "oidc.test")
	p := startForwardProxy(t, addr, "HTTP/1.1 200 Connection established\r\n\r\n")
	t.Setenv("HTTPS_PROXY", "http://"+p.Addr().String())
	to := must(NewEndpoint(Config{Target: must(ParseTarget("https://oidc.test/v1/responses", false)), Roots: roots}))
	if got, want := to.Port(), p.Addr().(*net.TCPAddr).Port; int(got) != want {
		t.Errorf("port %d, want the proxy's, %d", got, want)
	}
	request := "POST /v1/responses HTTP/1.1\r\nhost: oidc.test\r\nauthorization: Bearer " + canary + "\r\nconnection: close\r\nx-fake: json\r\ncontent-length: 2\r\n\r\n{}"
	status, body, err := exchange(t, newMemory(t), to, request)
	if status != 200 || !strings.HasPrefix(body, "{") || err != nil {
		t.Errorf("%d, %.40q, %v", status, body, err)
	}
	if seen := p.text(); strings.Contains(seen, "sk-") || !strings.HasPrefix(seen, "CONNECT oidc.test:443 ") {
		t.Errorf("the proxy saw %.200q", seen)
	}
}

func TestEndpointPort(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "")
	for url, want := range map[string]uint16{"https://h/x": 443, "https://h:8443/x": 8443, "http://localhost/": 80} {
		if got := must(NewEndpoint(Config{Target: must(ParseTarget(url, false)), Roots: x509.NewCertPool()})).Port(); got != want {
			t.Errorf("%s: port %d", url, got)
		}
	}
}

// FuzzResponse: for any bytes in any pieces, returned content lies within room and has the announced length.
func FuzzResponse(f *testing.F) {
	for _, a := range responses {
		f.Add([]byte(a.raw[:min(len(a.raw), 512)]), uint8(7))
	}
	f.Fuzz(func(t *testing.T, raw []byte, size uint8) {
		room := make([]byte, int(size)*8)
		r := &Response{c: &conn{}, request: &Request{}}
		r.c.in = reader{src: &pieces{raw, []byte{size}}, buf: make([]byte, int(size)*8), fixed: true}
		status, body, err := receive(r, room)
		if err != nil && (status != 0 || body != nil) {
			t.Fatal("a response beside an error")
		}
		if err == nil && status/100 == 2 && len(body) > 0 && !bytes.Contains(room, body) {
			t.Error("the body does not lie in the room")
		}
	})
}
