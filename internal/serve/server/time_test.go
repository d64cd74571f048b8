package server

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/upstream"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/relay"
)

// hanging is an upstream that does not respond until its caller gives up.
type hanging struct{}

func (hanging) Do(ctx context.Context, _ *upstream.Request) (*upstream.Response, error) {
	<-ctx.Done()
	return nil, &upstream.Error{Kind: upstream.Cancelled, Cause: ctx.Err()}
}

// pipes is a listener whose connections are made in memory.
type pipes struct {
	net.Listener
	closed chan struct{}
}

func (p pipes) Close() error { close(p.closed); return nil }

// newHanging returns a server for everyone, whose upstream does not respond. log may be nil.
func newHanging(t *testing.T, log func(string)) *Server {
	t.Helper()
	r, err := relay.New(relay.Config{Upstream: hanging{}})
	if err != nil {
		t.Fatal(err)
	}
	everyone, err := policy.New(policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Relay: r, Policy: everyone, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// bubble runs test with a server, in synctest's time.
func bubble(t *testing.T, test func(t *testing.T, e *Server, dial func() net.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := newHanging(t, nil)
		test(t, e, func() net.Conn {
			ours, theirs := net.Pipe()
			e.admit(theirs)
			return ours
		})
	})
}

// lasts returns how long it takes until the connection ends, and the status
// that was answered before, or 0.
func lasts(t *testing.T, c net.Conn) (time.Duration, int) {
	t.Helper()
	begun := time.Now()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(string(b))), nil)
	if err != nil {
		return time.Since(begun), 0
	}
	return time.Since(begun), res.StatusCode
}

func TestTimeLimits(t *testing.T) {
	for _, c := range []struct {
		name, sent string
		after      time.Duration
		status     int
	}{
		{"nothing is sent", "", 30 * time.Second, 0},
		{"half a head", "POST /v1/res", 30 * time.Second, 408},
		{"half a body", "POST /v1/responses HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n12345", time.Minute, 408},
		{"half a chunk", "POST /v1/responses HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12", time.Minute, 408},
		{"half a refused body", "POST /no HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n12345", time.Minute, 403},
		{"no further request", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", 5 * time.Minute, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *Server, dial func() net.Conn) {
				conn := dial()
				io.WriteString(conn, c.sent)
				if after, status := lasts(t, conn); after != c.after || status != c.status {
					t.Errorf("status %d after %v, want %d after %v", status, after, c.status, c.after)
				}
			})
		})
	}
}

// TestTrickle checks that a byte now and then does not extend the limit on a head.
func TestTrickle(t *testing.T) {
	bubble(t, func(t *testing.T, e *Server, dial func() net.Conn) {
		conn := dial()
		begun := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			for _, b := range []byte(strings.Repeat("A", 1000)) {
				<-time.After(time.Second) // the bubble's time
				if _, err := conn.Write([]byte{b}); err != nil {
					return
				}
			}
		}()
		lasts(t, conn)
		<-done
		if d := time.Since(begun); d > 32*time.Second {
			t.Errorf("a head that trickles in was waited for %v", d)
		}
	})
}

// TestNoLimitOnThinking checks that the upstream may take hours to respond.
func TestNoLimitOnThinking(t *testing.T) {
	bubble(t, func(t *testing.T, e *Server, dial func() net.Conn) {
		client := dial()
		io.WriteString(client, "POST /v1/responses HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}")
		client.SetReadDeadline(time.Now().Add(24 * time.Hour))
		var p [1]byte
		if _, err := client.Read(p[:]); !isTimeout(err) {
			t.Errorf("the connection did not last a day: %v", err)
		}
		client.Close()
		e.closeIf(func(*conn) bool { return true }) // a pipe is not watched
	})
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func TestDrainTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, e *Server, dial func() net.Conn) {
		running, fresh := dial(), dial()
		io.WriteString(running, "POST /v1/responses HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}")
		synctest.Wait()
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		drained := make(chan error, 1)
		go func() { drained <- e.Drain(ctx, pipes{closed: make(chan struct{})}) }()
		if d, _ := lasts(t, fresh); d != freshTimeout {
			t.Errorf("the connection without a request lasted %v", d)
		}
		if b, err := io.ReadAll(running); len(b) > 0 || err != nil {
			t.Errorf("the request that runs got %q, %v", b, err)
		}
		if err := <-drained; err != context.DeadlineExceeded || time.Since(begun) != 10*time.Second {
			t.Errorf("Drain: %v after %v", err, time.Since(begun))
		}
	})
}
