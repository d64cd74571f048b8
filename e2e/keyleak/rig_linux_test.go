package keyleak

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

// rig is the program between clients and an upstream, both of them in this process, whose own copies of the key are not
// scanned.
type rig struct {
	*process
	ctx      context.Context
	upstream *openaitest.Server
	client   *http.Client
}

// wire is how the program talks to its upstream.
type wire struct {
	name string
	tls  uint16 // version; zero: plain http
	args []string
}

var (
	plain  = wire{name: "http"}
	modern = wire{name: "https", tls: tls.VersionTLS13}
	legacy = wire{name: "https with TLS 1.2", tls: tls.VersionTLS12, args: []string{"--upstream-tls", "1.2"}}
)

func newRig(t *testing.T, w wire, how string, args ...string) *rig {
	t.Helper()
	upstream, err := openaitest.Start(openaitest.Options{Key: string(key), TLS: w.tls != 0, TLSMin: w.tls, TLSMax: w.tls, Forget: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(upstream.Close)
	args = append(append([]string{"--upstream-url", upstream.URL()}, w.args...), args...)
	r := &rig{
		process:  launch(t, how, []string{"SSL_CERT_FILE=" + certFile(t, upstream.CAPEM())}, args...),
		ctx:      deadline(t),
		upstream: upstream,
		client:   newClient(t),
	}
	if r.addr == "" {
		t.Fatalf("the program does not start: %s", r.written())
	}
	return r
}

// certFile writes certificates, or those of an authority that signs nothing.
func certFile(t *testing.T, pem []byte) string {
	t.Helper()
	if pem == nil {
		ca, err := openaitest.NewCA()
		if err != nil {
			t.Fatal(err)
		}
		pem = ca.PEM()
	}
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newClient(t *testing.T) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true, ExpectContinueTimeout: patience}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

const ask = `{"model":"gpt-5","stream":true,"input":"hello"}`

// request returns a request that names a scenario of the upstream.
func (r *rig) request(ctx context.Context, scenario string, body io.Reader) *http.Request {
	req, err := http.NewRequestWithContext(ctx, "POST", "http://"+r.addr+"/v1/responses", body)
	if err != nil {
		panic(err) // a bug of the test's
	}
	req.Header.Set("X-Fake", scenario)
	return req
}

// send returns the response's status, and an error if it is incomplete.
func (r *rig) send(req *http.Request) (status int, err error) {
	res, err := r.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}

func (r *rig) post(scenario string) (status int, err error) {
	return r.send(r.request(r.ctx, scenario, strings.NewReader(ask)))
}

// expect requests a scenario n times and checks that the whole response is the same each time.
func (r *rig) expect(n, workers int, scenario string, want int) error {
	return each(n, workers, func(int) error {
		status, err := r.post(scenario)
		if err != nil || status != want {
			return fmt.Errorf("%s: status %d, error %v, want %d", scenario, status, err, want)
		}
		return nil
	})
}

// each calls do n times, by so many workers at once.
func each(n, workers int, do func(i int) error) error {
	var wg sync.WaitGroup
	next, errs := make(chan int), make(chan error, n)
	for range workers {
		wg.Go(func() {
			for i := range next {
				errs <- do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// seen proves that the scanner sees the program's heap: there is something in
// it that is no secret.
func (r *rig) seen(t *testing.T) {
	t.Helper()
	line := []byte("POST /v1/responses HTTP/1.1\r\nhost: " + r.upstream.Addr() + "\r\n")
	if r.scan(t, line).Full == 0 {
		t.Error("the scan does not find the request line: it would not find a key either")
	}
}

// withoutLength hides a body's length, so that it is sent chunked.
type withoutLength struct{ io.Reader }

func filler(n int) *bytes.Reader { return bytes.NewReader(bytes.Repeat([]byte("x"), n)) }

func ignore(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return err // nothing may hang
	}
	return nil
}
