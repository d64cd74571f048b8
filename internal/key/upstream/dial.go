package upstream

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/roots"
	"github.com/responses-api-proxy/responses-api-proxy/internal/host/socket"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/tlsrecord"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

const (
	// dialTimeout limits connecting to one address, and then CONNECT and the TLS handshake together: only a faulty or
	// hostile peer needs longer.
	dialTimeout = 10 * time.Second
	// maxHandshakes limits the memory that a storm of requests takes: a TLS handshake needs several times that of a stream.
	maxHandshakes  = 128
	maxConnectHead = 16 << 10 // size of a proxy's response to CONNECT, in bytes
)

// Endpoint is a host to connect to, by TLS unless the scheme of its URL is http.
type Endpoint struct {
	target *Target
	addr   string // host:port of the target, or of the proxy
	net    net.Dialer
	tls    *tls.Config // nil for plain http
	roots  func()      // sets tls.RootCAs, or waits until they are set

	handshakes chan struct{} // has one for each that runs
	proxy      *url.URL      // nil for a direct connection
	guard      *plainGuard   // for plain http; nil with TLS
}

// NewEndpoint reads the proxy environment, and the root certificates unless they are given: no file is read later,
// except for name resolution. It uses no Key, and makes no connections.
func NewEndpoint(cfg Config) (*Endpoint, error) {
	e := &Endpoint{target: cfg.Target, addr: cfg.Target.Addr, net: net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 3},
		Control:         setUserTimeout,
	}}
	var err error
	if !cfg.Target.TLS { // never through a proxy, which would receive the key
		e.guard, err = newGuard(cfg.Target, cfg.Users)
		return e, err
	}
	parse := func() *x509.CertPool { return cfg.Roots }
	if cfg.Roots == nil {
		if parse, err = roots.System(); err != nil {
			return nil, err
		}
	}
	e.tls = tlsConfig(cfg.Target.Name, cfg.LegacyTLS)
	e.roots = sync.OnceFunc(func() { e.tls.RootCAs = parse() })
	e.handshakes = make(chan struct{}, maxHandshakes)
	go e.roots() // while the start goes on
	if e.proxy, err = proxyFromEnvironment(cfg.Target); e.proxy != nil {
		e.addr = net.JoinHostPort(e.proxy.Hostname(), cmp.Or(e.proxy.Port(), "80"))
	}
	return e, err
}

// ForwardProxy returns the host:port of the forward proxy in HTTPS_PROXY; "" if none is used.
func (e *Endpoint) ForwardProxy() string {
	if e.proxy == nil {
		return ""
	}
	return e.addr
}

// Port returns the only TCP port that is connected to: the target's, or the forward proxy's.
func (e *Endpoint) Port() uint16 {
	_, text, _ := net.SplitHostPort(e.addr)
	port, _ := strconv.ParseUint(text, 10, 16) // both were checked
	return uint16(port)
}

// Unguarded reports whether plain http to this host may send the key to any user who listens on the upstream's port,
// because the system does not report the user.
func (e *Endpoint) Unguarded() bool { return e.guard != nil && e.guard.blind }

// Close closes what plain http to this host needs: no connection can be made afterwards.
func (e *Endpoint) Close() {
	if e != nil && e.guard != nil && e.guard.err == nil {
		e.guard.peers.Close()
	}
}

// tlsConfig allows exactly one version, and the suites of 1.2 that do not copy the plaintext.
func tlsConfig(name string, legacy bool) *tls.Config {
	c := &tls.Config{
		ServerName:    name,
		NextProtos:    []string{"http/1.1"},
		MinVersion:    tls.VersionTLS13,
		MaxVersion:    tls.VersionTLS13,
		Renegotiation: tls.RenegotiateNever,
	}
	if legacy {
		c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		c.DynamicRecordSizingDisabled = true // fewer records, and system calls
		// AEAD only: crypto/tls copies the plaintext for CBC.
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
	if env.HTTPSProxy != "" && !strings.Contains(env.HTTPSProxy, "://") { // HOST:PORT, which url.Parse refuses for an IP address
		env.HTTPSProxy = "http://" + env.HTTPSProxy
	}
	u, err := env.ProxyFunc()(&url.URL{Scheme: "https", Host: target.Addr})
	if _, bad := url.Parse(env.HTTPSProxy); bad != nil { // httpproxy would connect without a proxy
		err = bad
	}
	switch {
	case err != nil:
		return nil, errors.New("HTTPS_PROXY is not a URL; set it to http://HOST:PORT or unset it")
	case u == nil:
		return nil, nil
	case u.Scheme != "http" || u.Hostname() == "":
		return nil, fmt.Errorf("HTTPS_PROXY has the scheme %q; only http://HOST:PORT is supported", u.Scheme)
	case !isPort(cmp.Or(u.Port(), "80")):
		return nil, fmt.Errorf("HTTPS_PROXY: %.32q is not a port (1 to 65535); set it to http://HOST:PORT or unset it", u.Port())
	}
	return u, nil
}

// dial makes a connection that is ready for a request, in a goroutine of its own: its stack grows to several times what
// the caller needs afterwards, for as long as a stream lasts.
func (e *Endpoint) dial(ctx context.Context) (c *conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if recover() != nil { // no peer's data may end the process
				err = fail(TLSFailed, "bug: a panic while connecting")
			}
		}()
		c, err = e.open(ctx)
	}()
	<-done
	return c, err
}

// open is dial, in the caller's goroutine. On an error or a panic it closes what it has opened.
func (e *Endpoint) open(ctx context.Context) (*conn, error) {
	tcp, err := e.reach(ctx)
	if err != nil {
		return nil, err
	}
	c := &conn{TCPConn: tcp, socket: socket.New(tcp)}
	ok := false
	defer func() {
		if !ok {
			c.close()
		}
	}()
	c.raw, _ = tcp.SyscallConn() // fails only for a nil connection
	c.abort, c.start = c.close, func(fd uintptr) bool { return c.current.start(fd) }
	c.in.src = c.socket
	if e.tls != nil {
		if err := e.secure(ctx, c); err != nil {
			return nil, err
		}
	}
	ok = true
	return c, nil
}

// reach connects to the target, or to the forward proxy. The caller must secure the connection before it sends the key,
// unless it is plain http.
func (e *Endpoint) reach(ctx context.Context) (*net.TCPConn, error) {
	var failed error
	for _, addr := range addresses(e.addr) {
		c, err := e.reachOne(ctx, addr)
		if err == nil {
			return c, nil
		}
		if failed == nil || isKind(err, Untrusted) { // more specific than a refused connection to the other address
			failed = err
		}
	}
	return nil, failed
}

func (e *Endpoint) reachOne(ctx context.Context, addr string) (*net.TCPConn, error) {
	raw, err := e.net.DialContext(ctx, "tcp", addr)
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err // without the address, which stands before it
	}
	switch {
	case err != nil && e.proxy != nil:
		return nil, dialError(Unreachable, "cannot connect to the forward proxy "+addr, err, proxyHint)
	case err != nil:
		return nil, dialError(Unreachable, "cannot connect to "+addr, err, "")
	}
	c := raw.(*net.TCPConn)
	if e.tls == nil {
		if err := e.guard.check(ctx, c); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

const proxyHint = "HTTPS_PROXY names the forward proxy, with USER:PASSWORD@ if it asks for them (407); correct it, " +
	"unset it, or except the upstream by NO_PROXY"

const localhost = "localhost"

// addresses returns the addresses to dial, in order. localhost is not resolved (RFC 6761, section 6.3): the hosts file
// may name ::1 first, where any user may listen if the upstream does not, and without a hosts file the name server
// would determine the address.
func addresses(addr string) []string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || !strings.EqualFold(host, localhost) {
		return []string{addr}
	}
	return []string{net.JoinHostPort("127.0.0.1", port), net.JoinHostPort("::1", port)}
}

// secure performs CONNECT and the TLS handshake, within dialTimeout.
func (e *Endpoint) secure(ctx context.Context, c *conn) error {
	c.SetDeadline(time.Now().Add(dialTimeout)) // fails only if all later calls do
	defer context.AfterFunc(ctx, c.close)()
	if e.proxy != nil {
		if err := e.connect(c); err != nil {
			return dialError(Unreachable, "forward proxy "+e.addr, err, proxyHint)
		}
	}
	layer, err := e.handshake(ctx, c)
	if err != nil {
		return dialError(TLSFailed, "TLS handshake with "+e.target.Addr, err, e.handshakeHint(err))
	}
	c.layer, c.in.layer = layer, layer
	if err := c.SetDeadline(time.Time{}); err != nil {
		return fail(Unreachable, "cannot connect: %w", err)
	}
	return nil
}

// handshake performs the TLS handshake. At most maxHandshakes run at a time.
func (e *Endpoint) handshake(ctx context.Context, c *conn) (tlsrecord.Layer, error) {
	select {
	case e.handshakes <- struct{}{}:
		defer func() { <-e.handshakes }()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(dialTimeout):
		return nil, os.ErrDeadlineExceeded
	}
	e.roots()
	return tlsrecord.Handshake(ctx, c, e.tls)
}

// handshakeHint returns a hint for a failed handshake; "" if there is none. crypto/tls has no type for the error of an
// unsupported version.
func (e *Endpoint) handshakeHint(err error) string {
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, plain := errors.AsType[tls.RecordHeaderError](err)
	version := strings.Contains(err.Error(), "protocol version")
	switch {
	case unknown:
		return "if the CA is to be trusted, as that of a network which inspects TLS, name its certificate by --ca-file or SSL_CERT_FILE"
	case plain:
		return "this port does not speak TLS; correct --upstream-url"
	case version && e.tls.MaxVersion == tls.VersionTLS13:
		return "if the upstream has no TLS 1.3, add --upstream-tls 1.2"
	case version:
		return "the upstream does not accept TLS 1.2; omit --upstream-tls"
	}
	return ""
}

// connect requests a tunnel from the forward proxy (RFC 9110, section 9.3.6). The request does not contain the API key.
func (e *Endpoint) connect(c *conn) error {
	request := fmt.Appendf(nil, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n", e.target.Addr)
	if u := e.proxy.User; u != nil {
		password, _ := u.Password()
		credentials := base64.StdEncoding.EncodeToString([]byte(u.Username() + ":" + password))
		request = fmt.Appendf(request, "Proxy-Authorization: Basic %s\r\n", credentials)
	}
	if _, err := c.Write(append(request, "\r\n"...)); err != nil {
		return err
	}
	head, err := http1.ReadHead(&c.in, maxConnectHead)
	var response http1.Response
	if err == nil {
		err = response.Parse(head)
	}
	switch {
	case err != nil:
		return fmt.Errorf("no valid response to CONNECT: %w", err)
	case response.Status/100 != 2:
		return fmt.Errorf("CONNECT returned status %d", response.Status)
	case !c.in.empty(): // a TLS server does not send first
		return errors.New("unexpected bytes after the response to CONNECT")
	}
	c.in.shrink()
	return nil
}
