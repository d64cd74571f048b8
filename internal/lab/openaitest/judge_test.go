package openaitest

import (
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// TestDisagreement: heads that both parsers read in the same way are no faults, and every wrong reading of one is.
func TestDisagreement(t *testing.T) {
	parse := func(head string) *http1.Request {
		r := &http1.Request{}
		if err := r.Parse([]byte(head)); err != nil {
			t.Fatalf("%q: %v", head, err)
		}
		return r
	}
	for _, fields := range [][]string{
		nil, {"Content-Length: 12"}, {"transfer-ENCODING: chunked", "Trailer: X"}, {"Connection: keep-alive, CLOSE"},
		{"a_b:\t x \t", "A_B: \xe9", "a_b:"}, {"Pragma: no-cache"}, {"Expect: 100-continue", "Content-Length: 1"},
	} {
		head := plainHead("json", fields...)
		if got := disagreement([]byte(head), parse(head)); got != "" {
			t.Errorf("%q: %s", head, got)
		}
	}
	head := plainHead("json", "Content-Length: 12", "A: b", "A: c")
	for _, c := range []struct {
		what    string
		misread func(r *http1.Request)
	}{
		{"method", func(r *http1.Request) { r.Method = r.Method[1:] }},
		{"target", func(r *http1.Request) { r.Target = r.Target[1:] }},
		{"version", func(r *http1.Request) { r.Minor = 0 }},
		{"Host", func(r *http1.Request) { r.Fields[0].Value = []byte("y") }},
		{"length", func(r *http1.Request) { r.Length = http1.Chunked }},
		{"closing", func(r *http1.Request) { r.Close = true }},
		{"fields", func(r *http1.Request) { r.Fields = r.Fields[:len(r.Fields)-1] }},
		{"fields", func(r *http1.Request) { r.Fields[len(r.Fields)-1].Value = []byte("b") }},
	} {
		r := parse(head)
		c.misread(r)
		if got := disagreement([]byte(head), r); !strings.Contains(got, c.what) {
			t.Errorf("%s: %q", c.what, got)
		}
	}
	if got := disagreement([]byte(head+"x"), parse(head)); !strings.Contains(got, "end") {
		t.Errorf("a head that ends too late: %q", got)
	}
}
