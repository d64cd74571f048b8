package keyleak

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

// tunnels is a forward proxy that keeps all that passes, and brings every
// tunnel to one address, whatever name it was asked for.
type tunnels struct {
	net.Listener
	to string

	mu       sync.Mutex
	heads    [][]byte
	up, down []*tape
}

// tape keeps what is written to it.
type tape struct {
	mu sync.Mutex
	bytes.Buffer
}

func (t *tape) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.Buffer.Write(p)
}

func (t *tape) copy() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.Bytes())
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func newTunnels(t *testing.T, to string) *tunnels {
	f := &tunnels{Listener: listen(t), to: to}
	go serve(f, f.tunnel)
	return f
}

func serve(l net.Listener, handle func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go handle(c)
	}
}

// tunnel reads the request byte by byte: what follows it belongs to TLS.
func (f *tunnels) tunnel(c net.Conn) {
	defer c.Close()
	var head []byte
	for one := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, one[0]) {
		if _, err := c.Read(one); err != nil {
			return
		}
	}
	up, down := &tape{}, &tape{}
	f.mu.Lock()
	f.heads, f.up, f.down = append(f.heads, head), append(f.up, up), append(f.down, down)
	f.mu.Unlock()
	to, err := net.Dial("tcp", f.to)
	if err != nil {
		return
	}
	io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
	join(c, to, up, down)
}

// join passes bytes on in both directions until one side has ended.
func join(a, b net.Conn, up, down io.Writer) {
	var wg sync.WaitGroup
	oneWay := func(to, from net.Conn, copy io.Writer) {
		io.Copy(to, io.TeeReader(from, copy))
		a.Close()
		b.Close()
	}
	wg.Go(func() { oneWay(b, a, up) })
	wg.Go(func() { oneWay(a, b, down) })
	wg.Wait()
}

// terminate takes TLS for upstream.test off and passes the rest on to plain.
// It returns its address and the authority to trust.
func terminate(t *testing.T, plain string) (addr string, ca []byte) {
	t.Helper()
	authority, err := openaitest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := authority.Leaf("upstream.test")
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	go serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{leaf}, MinVersion: tls.VersionTLS13}), func(c net.Conn) {
		to, err := net.Dial("tcp", plain)
		if err != nil {
			c.Close()
			return
		}
		join(c, to, io.Discard, io.Discard)
	})
	return l.Addr().String(), authority.PEM()
}

// TestForwardProxy looks at everything that a forward proxy gets to see.
func TestForwardProxy(t *testing.T) {
	needRoot(t)
	for _, c := range []struct{ name, user, want string }{
		{"without credentials", "", ""},
		{"with credentials", "user:pass word@", "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("user:pass word")) + "\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, f := newTunnelled(t, strings.ReplaceAll(c.user, " ", "%20"))
			if err := each(200, 8, r.askThroughProxy); err != nil {
				t.Fatal(err)
			}
			r.clean(t, "after 200 requests through a forward proxy")
			r.stop(t)
			f.mu.Lock()
			defer f.mu.Unlock()
			if len(f.heads) == 0 {
				t.Fatal("nothing went through the forward proxy")
			}
			addr := net.JoinHostPort("upstream.test", "8443")
			for i, head := range f.heads {
				if want := "CONNECT " + addr + " HTTP/1.1\r\nHost: " + addr + "\r\n" + c.want + "\r\n"; string(head) != want {
					t.Errorf("the forward proxy was told %q, want %q", head, want)
				}
				checkWire(t, head, f.up[i].copy(), f.down[i].copy())
			}
		})
	}
}

func newTunnelled(t *testing.T, user string) (*rig, *tunnels) {
	t.Helper()
	upstream, err := openaitest.Start(openaitest.Options{Key: string(key), Forget: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(upstream.Close)
	addr, ca := terminate(t, upstream.Addr())
	f := newTunnels(t, addr)
	env := []string{"SSL_CERT_FILE=" + certFile(t, ca), "HTTPS_PROXY=http://" + user + f.Addr().String(), "HTTP_PROXY=http://" + closedPort(t)}
	p := launch(t, "", env, "--upstream-url", "https://upstream.test:8443/v1/responses")
	return &rig{process: p, ctx: deadline(t), upstream: upstream, client: newClient(t)}, f
}

// askThroughProxy sends credentials of the client's own along: they must not
// come any further.
func (r *rig) askThroughProxy(i int) error {
	req := r.request(r.ctx, "json", filler(i*i))
	req.Header.Set("Proxy-Authorization", "Basic Y2xpZW50OmNsaWVudA==")
	req.Header.Set("Authorization", "Bearer sk-of-the-client")
	if status, err := r.send(req); err != nil || status != 200 {
		return fmt.Errorf("status %d, error %v", status, err)
	}
	return nil
}

// checkWire looks for the key in what was on the wire.
func checkWire(t *testing.T, head, up, down []byte) {
	t.Helper()
	for _, p := range [][]byte{head, up, down} {
		if r := memscan.Bytes(p, key); r.Full+r.Fragments > 0 {
			t.Errorf("the key is on the wire in clear: %s", counts(r))
		}
	}
	if bytes.Contains(up, []byte("POST /v1")) || bytes.Contains(up, []byte("uthorization")) {
		t.Error("there is clear text in the tunnel")
	}
	records := 0
	for len(up) >= 5 {
		records++
		up = up[min(5+(int(up[3])<<8|int(up[4])), len(up)):]
	}
	if records < 4 {
		t.Errorf("%d TLS records in a tunnel", records)
	}
}

// TestNoProxyForPlainHTTP is about an upstream without TLS: a proxy would see
// the key. 0.0.0.0 is this host, and no loopback address, which no proxy
// environment applies to.
func TestNoProxyForPlainHTTP(t *testing.T) {
	needRoot(t)
	upstream, err := openaitest.Start(openaitest.Options{Key: string(key), Forget: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(upstream.Close)
	trap := listen(t)
	var caught sync.Map
	go serve(trap, func(c net.Conn) {
		caught.Store(c.RemoteAddr().String(), true)
		c.Close()
	})
	_, port, _ := net.SplitHostPort(upstream.Addr())
	var env []string
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} {
		env = append(env, name+"=http://"+trap.Addr().String())
	}
	p := launch(t, "", env, "--upstream-tls", "off", "--upstream-url", "http://0.0.0.0:"+port+"/v1/responses")
	r := &rig{process: p, ctx: deadline(t), upstream: upstream, client: newClient(t)}
	if err := r.expect(20, 4, "auto", 200); err != nil {
		t.Error(err)
	}
	r.clean(t, "after plain requests")
	r.stop(t)
	caught.Range(func(peer, _ any) bool {
		t.Errorf("%s connected to the proxy that HTTP_PROXY names", peer)
		return true
	})
}
