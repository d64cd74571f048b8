package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/tlsrecord"
)

// Time limits on what only a broken or hostile peer does slowly.
const (
	connectTimeout   = 10 * time.Second
	handshakeTimeout = 10 * time.Second
	maxConnectHead   = 16 << 10 // of a proxy's answer to CONNECT, in bytes
)

// dialer makes connections to one target.
type dialer struct {
	target *Target
	net    net.Dialer
	tls    *tls.Config // nil for plain http
	proxy  *url.URL    // nil: straight to the target
	guard  *plainGuard // of plain http; nil with TLS
}

// newDialer reads the proxy environment, and the root certificates unless they are given: nothing is read from files
// later, except for DNS. The users are [Config]'s.
func newDialer(target *Target, legacyTLS bool, roots *x509.CertPool, users []uint32) (*dialer, error) {
	d := &dialer{target: target}
	d.net.Timeout = connectTimeout
	d.net.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 3}
	d.net.Control = setUserTimeout
	var err error
	if !target.TLS { // never through a proxy: it would see the key
		d.guard, err = newGuard(target, users)
		return d, err
	}
	if roots == nil {
		if roots, err = loadRoots(); err != nil {
			return nil, err
		}
	}
	d.tls = tlsConfig(target.Name, legacyTLS, roots)
	d.proxy, err = proxyFromEnvironment(target)
	return d, err
}

// tlsConfig pins exactly one version, and the suites of 1.2 that do not copy what they seal.
func tlsConfig(name string, legacy bool, roots *x509.CertPool) *tls.Config {
	c := &tls.Config{
		ServerName:    name,
		RootCAs:       roots,
		NextProtos:    []string{"http/1.1"},
		MinVersion:    tls.VersionTLS13,
		MaxVersion:    tls.VersionTLS13,
		Renegotiation: tls.RenegotiateNever,
	}
	if legacy {
		c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		c.ClientSessionCache = tls.NewLRUClientSessionCache(4)
		c.DynamicRecordSizingDisabled = true // fewer records, and calls
		// AEAD only: crypto/tls copies what it encrypts by CBC.
		c.CipherSuites = []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		}
	}
	return c
}

func proxyFromEnvironment(target *Target) (*url.URL, error) {
	env := httpproxy.FromEnvironment()
	u, err := env.ProxyFunc()(&url.URL{Scheme: "https", Host: target.Addr})
	if _, bad := url.Parse(env.HTTPSProxy); bad != nil { // httpproxy would go without
		err = bad
	}
	switch {
	case err != nil:
		return nil, errors.New("HTTPS_PROXY is not a URL; set it to http://HOST:PORT or unset it")
	case u != nil && (u.Scheme != "http" || u.Hostname() == ""):
		return nil, fmt.Errorf("HTTPS_PROXY has the scheme %q; only http://HOST:PORT is supported", u.Scheme)
	}
	return u, nil
}

// dial makes a connection that is ready for a request.
func (d *dialer) dial(ctx context.Context) (*conn, error) {
	tcp, err := d.reach(ctx)
	if err != nil {
		return nil, err
	}
	c := newConn(tcp)
	if d.tls == nil {
		return c, nil
	}
	layer, err := d.handshake(ctx, &c.socket)
	if err != nil {
		c.close()
		return nil, err
	}
	c.layer, c.in.layer = layer, layer
	return c, nil
}

// reach connects to the target, or to the forward proxy. The connection may carry the key once it is secure, or at once
// if it is to stay plain.
func (d *dialer) reach(ctx context.Context) (*net.TCPConn, error) {
	var failed error
	for _, addr := range addresses(d.addr()) {
		c, err := d.reachOne(ctx, addr)
		if err == nil {
			return c, nil
		}
		if failed == nil || isKind(err, Untrusted) { // which says more than that nothing listens on the other address
			failed = err
		}
	}
	return nil, failed
}

func (d *dialer) reachOne(ctx context.Context, addr string) (*net.TCPConn, error) {
	raw, err := d.net.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, dialError(Unreachable, "cannot connect", err)
	}
	c := raw.(*net.TCPConn)
	if d.guard == nil {
		return c, nil
	}
	if err := d.guard.check(ctx, c); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

const localhost = "localhost"

// addresses returns what to dial, in that order. localhost is not resolved: the hosts file may name ::1 first, which
// any user may listen on if the upstream does not, and without a hosts file the answer would be the name server's.
func addresses(addr string) []string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || !strings.EqualFold(host, localhost) {
		return []string{addr}
	}
	return []string{net.JoinHostPort("127.0.0.1", port), net.JoinHostPort("::1", port)}
}

// handshake opens the tunnel and the TLS session, within handshakeTimeout.
func (d *dialer) handshake(ctx context.Context, s *socket) (tlsrecord.Layer, error) {
	if err := s.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, fail(Unreachable, "cannot connect: %w", err)
	}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if d.proxy != nil {
		if err := d.connect(s); err != nil {
			return nil, dialError(Unreachable, "the proxy named by HTTPS_PROXY", err)
		}
	}
	layer, err := tlsrecord.Handshake(ctx, s, d.tls)
	if err != nil {
		return nil, dialError(TLSFailed, "TLS handshake", err)
	}
	if err := s.SetDeadline(time.Time{}); err != nil {
		return nil, fail(Unreachable, "cannot connect: %w", err)
	}
	return layer, nil
}

// connect asks the forward proxy for a tunnel (RFC 9110, section 9.3.6). The API key takes no part in it.
func (d *dialer) connect(tcp net.Conn) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n", d.target.Addr, d.target.Addr)
	if u := d.proxy.User; u != nil {
		password, _ := u.Password()
		fmt.Fprintf(&b, "Proxy-Authorization: Basic %s\r\n", base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	b.WriteString("\r\n")
	if _, err := tcp.Write(b.Bytes()); err != nil {
		return err
	}
	return readConnectResponse(tcp)
}

func readConnectResponse(c net.Conn) error {
	in := reader{src: oneByte{c}}
	defer in.shrink()
	head, err := http1.ReadHead(&in, maxConnectHead)
	var response http1.Response
	if err == nil {
		err = response.Parse(head)
	}
	switch {
	case err != nil:
		return fmt.Errorf("no valid response to CONNECT: %w", err)
	case response.Status/100 != 2:
		return fmt.Errorf("CONNECT was answered with status %d", response.Status)
	default:
		return nil
	}
}

// oneByte keeps a reader from taking anything that belongs to the tunnel.
type oneByte struct{ io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.Reader.Read(p[:1]) }

// port is the only TCP port that is connected to: the target's, or the proxy's.
func (d *dialer) port() uint16 {
	_, text, _ := net.SplitHostPort(d.addr())
	port, _ := strconv.ParseUint(text, 10, 16) // ParseTarget has seen to it; a proxy's name of a port is 0, and refused
	return uint16(port)
}

// addr is where connections go: the target's host:port, or the proxy's.
func (d *dialer) addr() string {
	switch {
	case d.proxy == nil:
		return d.target.Addr
	case d.proxy.Port() == "":
		return net.JoinHostPort(d.proxy.Hostname(), "80")
	default:
		return net.JoinHostPort(d.proxy.Hostname(), d.proxy.Port())
	}
}
