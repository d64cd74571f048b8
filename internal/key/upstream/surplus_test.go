package upstream

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

// A surplusServer sends more than was requested after its first response on a connection, as its send function
// determines.
type surplusServer struct {
	net.Listener
	tls   *tls.Config // nil for plain http
	send  func(c *surplusConn, response, surplus []byte)
	conns atomic.Int32
}

// A surplusConn collects what is written to it until flush, so that the test determines which records share a segment.
type surplusConn struct {
	net.Conn           // TCP
	stream   io.Writer // the TLS session over it, or itself
	out      []byte
}

func (c *surplusConn) Write(p []byte) (int, error) {
	c.out = append(c.out, p...)
	return len(p), nil
}

// flush sends the first n bytes of what was collected, or all of it.
func (c *surplusConn) flush(n int) {
	n = min(n, len(c.out))
	c.Conn.SetWriteDeadline(time.Time{}) // crypto/tls makes writes fail after close_notify
	c.Conn.Write(c.out[:n])
	c.out = c.out[n:]
}

const everything = 1 << 30

// serveSurplus starts a server, and a client for it.
func serveSurplus(t *testing.T, secure bool, version uint16, send func(c *surplusConn, response, surplus []byte)) (*surplusServer, *Client) {
	t.Helper()
	s := &surplusServer{Listener: must(net.Listen("tcp4", "127.0.0.1:0")), send: send}
	t.Cleanup(func() { s.Close() })
	cfg, url := Config{Key: keyOf(t, canary), LegacyTLS: version == tls.VersionTLS12}, "http://"
	if secure {
		ca := must(openaitest.NewCA())
		s.tls = &tls.Config{Certificates: []tls.Certificate{must(ca.Leaf("127.0.0.1"))}, MaxVersion: version}
		cfg.Roots, url = x509.NewCertPool(), "https://"
		cfg.Roots.AppendCertsFromPEM(ca.PEM())
	}
	cfg.Target = must(ParseTarget(url+s.Addr().String()+"/v1/responses", false))
	go s.accept()
	c := must(New(cfg))
	t.Cleanup(c.Close)
	return s, c
}

func (s *surplusServer) accept() {
	for {
		c, err := s.Accept()
		if err != nil {
			return
		}
		s.conns.Add(1)
		go s.serve(&surplusConn{Conn: c})
	}
}

// direct passes a TLS handshake through without collecting it.
type direct struct {
	*surplusConn
	shaken bool
}

func (d *direct) Write(p []byte) (int, error) {
	if d.shaken {
		return d.surplusConn.Write(p)
	}
	return d.Conn.Write(p)
}

func (s *surplusServer) serve(c *surplusConn) {
	defer c.Close()
	var stream io.ReadWriter = c
	if s.tls != nil {
		below := &direct{surplusConn: c}
		session := tls.Server(below, s.tls)
		if session.Handshake() != nil {
			return
		}
		below.shaken, stream = true, session
	}
	c.stream = stream
	in := bufio.NewReader(stream)
	for n := 0; ; n++ {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		question, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if n > 0 {
			if _, err := c.stream.Write(responseOf("answer to " + string(question))); err != nil {
				return // after close_notify
			}
			c.flush(everything)
			continue
		}
		s.send(c, responseOf("answer to "+string(question)), responseOf("STALE"))
	}
}

func responseOf(body string) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// TestSurplusResponse: bytes after the end of a response close the connection. The next request never receives them.
func TestSurplusResponse(t *testing.T) {
	together := func(c *surplusConn, response, surplus []byte) {
		c.stream.Write(append(response, surplus...))
		c.flush(everything)
	}
	nextRecord := func(c *surplusConn, response, surplus []byte) {
		c.stream.Write(response)
		c.stream.Write(surplus)
		c.flush(everything)
	}
	// partOfRecord sends the last byte of the surplus with the next request only, if that comes on the same connection.
	partOfRecord := func(c *surplusConn, response, surplus []byte) {
		c.stream.Write(response)
		c.stream.Write(surplus)
		c.flush(len(c.out) - 1)
	}
	partOfHeader := func(c *surplusConn, response, surplus []byte) {
		c.stream.Write(response)
		n := len(c.out)
		c.stream.Write(surplus)
		c.flush(n + 3)
	}
	endOfSession := func(c *surplusConn, response, _ []byte) {
		c.stream.Write(response)
		if session, ok := c.stream.(*tls.Conn); ok {
			session.CloseWrite()
		}
		c.flush(everything)
	}
	for name, send := range map[string]func(c *surplusConn, response, surplus []byte){
		"same record": together, "next record": nextRecord, "part of a record": partOfRecord, "part of a header": partOfHeader, "close_notify": endOfSession,
	} {
		for _, version := range []uint16{0, tls.VersionTLS12, tls.VersionTLS13} {
			if version == 0 && name == "close_notify" {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s", name, tls.VersionName(version)), func(t *testing.T) {
				s, c := serveSurplus(t, version != 0, version, send)
				for _, user := range []string{"alice", "bob", "carol"} {
					if got, want := ask(t, c, user), "answer to "+user; got != want {
						t.Errorf("%s received %q, want %q", user, got, want)
					}
				}
				if n := s.conns.Load(); n != 3 {
					t.Errorf("%d connections, want 3: each has a surplus", n)
				}
			})
		}
	}
}

// TestLateSurplus: the surplus arrives when the connection is in the pool.
func TestLateSurplus(t *testing.T) {
	for _, version := range []uint16{0, tls.VersionTLS13} {
		late := make(chan func(), 1)
		s, c := serveSurplus(t, version != 0, version, func(c *surplusConn, response, surplus []byte) {
			c.stream.Write(response)
			c.flush(everything)
			late <- func() {
				c.stream.Write(surplus)
				c.flush(everything)
			}
		})
		for i, user := range []string{"alice", "bob", "carol"} {
			if got, want := ask(t, c, user), "answer to "+user; got != want {
				t.Errorf("%s received %q, want %q", user, got, want)
			}
			(<-late)()
			for ctx := within(t, soon); c.pool.conns[0].idleAndOpen(); runtime.Gosched() {
				if ctx.Err() != nil {
					t.Fatal("the surplus does not arrive")
				}
			}
			if n := int(s.conns.Load()); n != i+1 {
				t.Errorf("%d connections for %d users", n, i+1)
			}
		}
	}
}

// TestNoSurplus: after responses in several records of one segment the connection is reused.
func TestNoSurplus(t *testing.T) {
	for _, version := range []uint16{0, tls.VersionTLS12, tls.VersionTLS13} {
		s, c := serveSurplus(t, version != 0, version, func(c *surplusConn, response, _ []byte) {
			for piece := range bytes.SplitAfterSeq(response, []byte("\n")) {
				c.stream.Write(piece)
			}
			c.flush(everything)
		})
		for range 5 {
			if got := ask(t, c, "alice"); got != "answer to alice" {
				t.Errorf("%q", got)
			}
		}
		large := strings.Repeat("x", 100<<10) // records that do not fit into the reader's buffer
		if got := ask(t, c, large); got != "answer to "+large {
			t.Errorf("%d bytes", len(got))
		}
		if n := s.conns.Load(); n != 1 {
			t.Errorf("version %x: %d connections, want 1", version, n)
		}
	}
}

func ask(t *testing.T, c *Client, question string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	res, err := c.Do(ctx, &Request{Start: []byte(question), Length: int64(len(question))})
	return finish(t, res, err)
}
