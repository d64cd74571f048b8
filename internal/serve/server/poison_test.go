package server

import (
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/relay"
)

// All tests of this package run with memory that is overwritten as soon as it is
// released: what reads it afterwards reads nothing that any test expects.
func init() {
	poison = func(b []byte) {
		for i := range b {
			b[i] = 0xDB
		}
	}
}

// TestPoisonedHead checks that a released head can no longer be read, in its buffer or in the request, while the bytes
// behind it can.
func TestPoisonedHead(t *testing.T) {
	const head, rest = "POST /v1/responses HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n", "{}GET / HTTP/1.1\r\n"
	for name, size := range map[string]int{"pooled": firstBuffer, "large": 4 * firstBuffer} {
		c := &conn{in: &input{buf: append(make([]byte, 0, size), head+rest...)}}
		buf := c.in.buf
		if err := c.in.req.Parse(buf[:len(head)]); err != nil {
			t.Fatal(err)
		}
		c.in.used = len(head)
		c.request.Head, c.request.Buffer = &c.in.req, c
		c.body.begin(c)
		c.request.Release()
		if c.request.Head != nil || string(c.in.buf[c.in.used:]) != rest {
			t.Errorf("%s: head %v, behind it %q", name, c.request.Head, c.in.buf[c.in.used:])
		}
		for i, b := range buf[:len(head)] {
			if b != 0xDB {
				t.Fatalf("%s: byte %d of the released head is %q", name, i, b)
			}
		}
		var p [2]byte
		if n, err := c.body.Read(p[:]); n != 2 || err != nil || string(p[:]) != "{}" {
			t.Errorf("%s: the body is %q, %v", name, p[:n], err)
		}
		c.request.Release() // nothing that the next request has
		if string(c.in.buf[c.in.used:]) != rest[2:] {
			t.Errorf("%s: behind the body is %q", name, c.in.buf[c.in.used:])
		}
	}
}

// TestMissingParts checks that a server without a policy or a relay is an error.
func TestMissingParts(t *testing.T) {
	for _, cfg := range []Config{{}, {Policy: &policy.Policy{}}, {Relay: &relay.Relay{}}} {
		if s, err := New(cfg); s != nil || err == nil {
			t.Errorf("a server of relay %v and policy %v was made", cfg.Relay, cfg.Policy)
		}
	}
}
