package upstream

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

// TestEarlyResponseLeavesNothingUnsent: an upstream responds to a large body without reading it, and keeps the
// connection open. The next request would wait in the kernel behind that body.
func TestEarlyResponseLeavesNothingUnsent(t *testing.T) {
	l := must(net.Listen("tcp4", "127.0.0.1:0"))
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go respondEarly(c)
		}
	}()
	c := must(New(Config{Target: must(ParseTarget("http://"+l.Addr().String()+"/", false)), Key: keyOf(t, canary)}))
	defer c.Close()
	large := bytes.Repeat([]byte("x"), 1<<20)
	res, err := c.Do(within(t, soon), &Request{Start: large, Length: int64(len(large))})
	if err != nil {
		t.Fatal(err)
	}
	for ctx := within(t, soon); !res.Sent(); runtime.Gosched() {
		if ctx.Err() != nil {
			t.Fatal("the kernel does not take the body: the test proves nothing")
		}
	}
	if res.c.acknowledged() {
		t.Fatal("the upstream's kernel has taken the whole body: the test proves nothing")
	}
	finish(t, res, nil)
	for range 3 {
		res, err := c.Do(within(t, soon), &Request{Start: []byte("{}"), Length: 2})
		if err != nil {
			t.Errorf("the next request: %v", err)
		} else if finish(t, res, nil); res.Head.Status != 200 {
			t.Errorf("status %d", res.Head.Status)
		}
	}
}

// respondEarly never reads a large body.
func respondEarly(c net.Conn) {
	defer c.Close()
	in := bufio.NewReaderSize(c, 512)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if r.ContentLength > 64<<10 {
			c.Write([]byte("HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n"))
			<-time.After(soon)
			return
		}
		io.Copy(io.Discard, r.Body)
		c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	}
}

// TestLargeBodiesKeepTheConnection: after an upstream has read a large body, the next request uses the same connection.
func TestLargeBodiesKeepTheConnection(t *testing.T) {
	for _, tls := range []bool{false, true} {
		up, c := serve(t, openaitest.Options{TLS: tls})
		for range 20 {
			do(t, c, post("json", string(bytes.Repeat([]byte{' '}, 1<<20))))
		}
		if n := up.Conns(); n != 1 {
			t.Errorf("TLS %v: %d connections, want 1", tls, n)
		}
	}
}
