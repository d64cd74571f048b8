package server_test

import (
	"strings"
	"testing"
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
