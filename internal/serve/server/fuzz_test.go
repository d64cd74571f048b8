package server_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

// unforwarded are what must never reach the upstream, as a server could read it
// that makes CGI variables of header names.
var unforwarded = []string{"CONNECTION", "KEEP_ALIVE", "PROXY_CONNECTION", "TE", "TRAILER", "UPGRADE", "EXPECT", "HTTP2_SETTINGS",
	"FORWARDED", "VIA", "X_REAL_IP", "X_CLIENT_IP", "X_CLUSTER_CLIENT_IP", "TRUE_CLIENT_IP", "CF_CONNECTING_IP", "X_HOST",
	"PROXY_AUTHORIZATION", "COOKIE", "API_KEY", "X_API_KEY", "X_GOOG_API_KEY"}

var notInCGI = regexp.MustCompile("[^A-Z0-9]")

// FuzzRequest checks that the upstream receives only well-formed requests to the one route, each with exactly one
// credential, the proxy's, whatever a client sends.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		request("Content-Length: 2") + "{}",
		request("Content-Length: 2") + "{}" + request("Content-Length: 2") + "{}",
		request("Transfer-Encoding: chunked") + "2\r\n{}\r\n0\r\n\r\n",
		request("Content-Length: 2", "Transfer-Encoding: chunked") + "2\r\n{}\r\n0\r\n\r\n",
		request("Content-Length: 2", "Authorization: Bearer x", "Cookie: y", "Connection: authorization, host, content-length") + "{}",
		request("Content-Length: 50") + "{}",
		request("Content-Length: 2", "Content_Length: 0", "Transfer_Encoding: chunked", "X_Api_Key: x", "X_Forwarded_For: x", "Cf-Connecting-Ip: x") + "{}",
		request("Transfer-Encoding: chunked") + "2;a=b\r\n{}\r\n0\r\nX: y\r\n\r\n",
		request("Expect: 100-continue", "Content-Length: 2") + "{}",
		request("X: y\r\n z", "Content-Length: 0"),
		"POST /v1/responses HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}",
		"GET /v1/responses HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n",
		"POST http://h/v1/responses HTTP/1.1\r\nHost: h\r\n\r\n",
		"\r\nPOST /v1/responses HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST /v1/responses HTTP/1.1\nHost: h\n\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		f.Add([]byte(seed), uint8(0))
		f.Add([]byte(seed), uint8(30))
	}
	s := start(f)
	f.Fuzz(func(t *testing.T, sent []byte, split uint8) {
		before := s.up.Count()
		answers := s.exchange(t, sent, int(split))
		requests := s.up.Requests()[before:]
		for _, r := range requests {
			checkForwarded(t, r)
		}
		if n := strings.Count(answers, "HTTP/1.1 200 OK"); n > len(requests) {
			t.Errorf("%d answers for %d forwarded requests", n, len(requests))
		}
		if faults := s.up.Faults(); len(faults) > 0 {
			t.Fatalf("the upstream found faults: %q", faults)
		}
	})
}

// exchange sends bytes in two pieces, and returns what came back within 20 ms.
func (s *stack) exchange(t *testing.T, sent []byte, split int) string {
	c, err := net.Dial("tcp", s.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Millisecond)) // what waits for more is not waited for
	split = min(split, len(sent))
	c.Write(sent[:split])
	c.Write(sent[split:])
	b, _ := io.ReadAll(c)
	return string(b)
}

// checkForwarded is the invariant.
func checkForwarded(t *testing.T, r *openaitest.Request) {
	t.Helper()
	if r.Method != "POST" || r.Target != "/v1/responses" {
		t.Errorf("%s %s was forwarded", r.Method, r.Target)
	}
	if c := r.Credentials(); !slices.Equal(c, []string{"Bearer " + canary}) {
		t.Errorf("forwarded with the credentials %q", c)
	}
	seen := map[string]int{}
	for _, f := range r.Fields {
		name := notInCGI.ReplaceAllString(strings.ToUpper(f.Name), "_")
		seen[name]++
		if slices.Contains(unforwarded, name) || strings.HasPrefix(name, "X_FORWARDED_") && name != "X_FORWARDED_" {
			t.Errorf("%s was forwarded", f.Name)
		}
	}
	if n := seen["AUTHORIZATION"]; n != 1 {
		t.Errorf("forwarded with %d credentials", n)
	}
	if n := seen["HOST"]; n != 1 {
		t.Errorf("forwarded with %d hosts", n)
	}
	if n := seen["CONTENT_LENGTH"] + seen["TRANSFER_ENCODING"]; n != 1 {
		t.Errorf("forwarded with %d framings", n)
	}
}

// FuzzAnswer checks that the client receives a well-formed response or an error, whatever the upstream sends, and that
// Go's own client accepts a body as complete only if it does so without the proxy as well.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.0 200 OK\r\n\r\nuntil close",
		"HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
		"HTTP/1.1 307 T\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n",
		"HTTP/1.1 999 \r\nX: \xff\r\nSet-Cookie: a\r\nConnection: X\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
		"\x00\x01\x02",
		"",
	} {
		f.Add([]byte(seed))
	}
	var answer []byte
	upstream := listenAndSay(f, &answer)
	s := start(f, func(s *setup) { s.url = "http://" + upstream + "/v1/responses" })
	f.Fuzz(func(t *testing.T, b []byte) {
		answer = b
		res, err := s.do(context.Background(), "", strings.NewReader("{}"))
		if err != nil {
			return // cut before the head: an error is what it must be
		}
		got, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode == 502 {
			return
		}
		checkPassed(t, b, res, got)
	})
}

// checkPassed compares with what net/http reads from the same bytes.
func checkPassed(t *testing.T, sent []byte, got *http.Response, body []byte) {
	t.Helper()
	want, wantBody, err := readFinal(sent)
	if err != nil {
		t.Fatalf("status %d with a whole body of %d bytes, and net/http says of the answer: %v", got.StatusCode, len(body), err)
	}
	if got.StatusCode != want.StatusCode || !bytes.Equal(body, wantBody) {
		t.Errorf("status %d and %q, net/http reads %d and %q", got.StatusCode, body, want.StatusCode, wantBody)
	}
	for _, name := range []string{"Set-Cookie", "Alt-Svc", "Strict-Transport-Security", "Authorization", "Keep-Alive", "Upgrade"} {
		if got.Header.Get(name) != "" {
			t.Errorf("%s was passed on", name)
		}
	}
}

// readFinal reads the response that follows the interim ones.
func readFinal(sent []byte) (*http.Response, []byte, error) {
	in := newReader(sent)
	for {
		res, err := http.ReadResponse(in, &http.Request{Method: "POST"})
		if err != nil {
			return nil, nil, err
		}
		if res.StatusCode >= 200 {
			b, err := io.ReadAll(res.Body)
			return res, b, err
		}
	}
}

// listenAndSay is an upstream that reads a request and responds with *answer.
func listenAndSay(f *testing.F, answer *[]byte) string {
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	f.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if req, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				io.Copy(io.Discard, req.Body)
				c.Write(*answer)
			}
			c.Close()
		}
	}()
	return l.Addr().String()
}

func newReader(b []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(b)) }
