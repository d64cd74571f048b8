package server_test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// TestPipelinedBehindChunks checks that bytes that arrive together with the end of a chunked body are the next request,
// whatever number of blank lines precedes it.
func TestPipelinedBehindChunks(t *testing.T) {
	s := start(t)
	p := s.dial()
	p.send(request("X-Fake: json", "Transfer-Encoding: chunked") + "1\r\n{\r\n")
	second := request("X-Fake: json", "Content-Length: 2") + "{}"
	p.send("1\r\n}\r\n0\r\n\r\n" + strings.Repeat("\r\n", 150<<10) + second + second)
	for i := range 3 {
		res := p.answer()
		if body := read(t, res); res.StatusCode != 200 || res.Close {
			t.Errorf("response %d: %d %q, close %t", i, res.StatusCode, body, res.Close)
		}
	}
	if n := s.up.Count(); n != 3 {
		t.Errorf("the upstream saw %d requests", n)
	}
	s.clean()
}

// TestBytesBehindTheLastRequest checks that bytes that nobody reads, such as the line end that old clients send behind
// a body, do not cut the last response of a connection: the kernel resets a connection that is closed with unread bytes,
// and drops what the client has not read yet.
func TestBytesBehindTheLastRequest(t *testing.T) {
	const size = 1_000_000 // more than the client's kernel takes at once
	s := start(t)
	p := s.dial()
	p.send(request(fmt.Sprint("X-Fake: bytes s=", size), "Connection: close", "Content-Length: 2") + "{}")
	must(s.up.Await(within(t, soon), 1))
	p.send("\r\n")
	proctest.Eventually(t, "the connection is closed", func() bool { return s.server.Connections() == 0 })
	if n, err := io.Copy(io.Discard, p.answer().Body); n != size || err != nil {
		t.Errorf("%d bytes of %d, %v", n, size, err)
	}
}
