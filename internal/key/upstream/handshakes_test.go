package upstream

import (
	"context"
	"crypto/x509"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// TestHandshakesAreLimited checks that a handshake waits while too many others run, that the wait ends with the request,
// and that all make room for others in the end.
func TestHandshakesAreLimited(t *testing.T) {
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	defer l.Close()
	go func() { // accepts, and says nothing
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	e := must(NewEndpoint(Config{Target: must(ParseTarget("https://"+l.Addr().String()+"/", false)), Roots: x509.NewCertPool()}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var dials sync.WaitGroup
	dial := func(ctx context.Context) {
		dials.Go(func() {
			if c, err := e.dial(ctx); err == nil {
				t.Error("a handshake succeeded with a silent peer")
				c.close()
			}
		})
	}
	for range maxHandshakes {
		dial(ctx)
	}
	patience := proctest.Within(t, 8*time.Second) // less than dialTimeout
	for len(e.handshakes) < maxHandshakes && patience.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if len(e.handshakes) < maxHandshakes {
		t.Fatalf("timed out waiting for %d handshakes: %d run", maxHandshakes, len(e.handshakes))
	}
	last, leave := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := e.dial(last)
		ended <- err
	}()
	leave()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a handshake succeeded with a silent peer")
		}
	case <-patience.Done():
		t.Fatal("timed out waiting for a dial that was cancelled")
	}
	cancel()
	dials.Wait()
	if n := len(e.handshakes); n != 0 {
		t.Errorf("%d handshakes still count", n)
	}
}

// TestPanicInHandshake checks that a panic ends the dial alone: it is an error, and the connection is closed.
func TestPanicInHandshake(t *testing.T) {
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	defer l.Close()
	e := must(NewEndpoint(Config{Target: must(ParseTarget("https://"+l.Addr().String()+"/", false)), Roots: x509.NewCertPool()}))
	e.roots = func() { panic("in a test") }
	if c, err := e.dial(t.Context()); c != nil || !isKind(err, TLSFailed) {
		t.Errorf("%v, %v", c, err)
	}
	peer := must(l.Accept())
	defer peer.Close()
	peer.SetDeadline(time.Now().Add(10 * time.Second))
	if n, err := peer.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the peer read %d bytes, %v, want the connection's end", n, err)
	}
	if n := len(e.handshakes); n != 0 {
		t.Errorf("%d handshakes still count", n)
	}
}
