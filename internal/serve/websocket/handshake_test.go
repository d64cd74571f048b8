package websocket

import (
	"net/http"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

const sampleKey = "dGhlIHNhbXBsZSBub25jZQ==" // of RFC 6455, section 1.3

func request(t testing.TB, lines ...string) *http1.Request {
	t.Helper()
	var r http1.Request
	if err := r.Parse([]byte("GET /v1/responses HTTP/1.1\r\nHost: h\r\n" + strings.Join(append(lines, ""), "\r\n") + "\r\n")); err != nil {
		t.Fatal(err)
	}
	return &r
}

var plain = []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + sampleKey}

func TestParse(t *testing.T) {
	allow := func(lines ...string) {
		t.Helper()
		if _, err := Parse(request(t, lines...)); err != nil {
			t.Errorf("%q is refused: %v", lines, err)
		}
	}
	deny := func(status int, lines ...string) {
		t.Helper()
		if h, err := Parse(request(t, lines...)); err == nil || err.Status != status || h != nil {
			t.Errorf("%q: %v, want status %d", lines, err, status)
		}
	}
	allow(plain...)
	allow("CONNECTION: close , upgrade", "UPGRADE: WebSocket", "sec-websocket-version: 13", "sec-websocket-key:  "+sampleKey+" ")
	allow(append(plain, "Connection: keep-alive", "Sec-WebSocket-Extensions: a; b=\"c,d\", e", "Sec-WebSocket-Protocol: x, y")...)
	allow(append(plain, "Content-Length: 0")...)
	for _, name := range []string{"Extensions", "Protocol"} {
		allow(append(plain, "Sec-WebSocket-"+name+": "+strings.Repeat("a,", 64))...)
		deny(400, append(plain, "Sec-WebSocket-"+name+": "+strings.Repeat("a,", 64), "Sec-WebSocket-"+name+": a")...)
	}
	for i := range plain {
		without := append(append([]string{}, plain[:i]...), plain[i+1:]...)
		status := 400
		if i == 2 {
			status = 426
		}
		deny(status, without...)
		if i > 0 {
			deny(status, append(without, plain[i], plain[i])...)
		}
	}
	old := request(t, plain...)
	old.Minor = 0
	if h, err := Parse(old); err == nil || err.Status != 400 || h != nil {
		t.Errorf("HTTP/1.0: %v", err)
	}
	deny(400, append(plain, "Upgrade: h2c")...)
	deny(400, append(plain, "Content-Length: 1")...)
	deny(400, append(plain, "Transfer-Encoding: chunked")...)
	deny(400, "Connection: xupgrade", plain[1], plain[2], plain[3])
	deny(400, plain[0], "Upgrade: websocket/13", plain[2], plain[3])
	for _, version := range []string{"", "1", "14", "13.0", "+13", "13,13", "0x0d"} {
		deny(426, plain[0], plain[1], "Sec-WebSocket-Version: "+version, plain[3])
	}
	for _, key := range []string{"", "=", sampleKey + "=", sampleKey[:23], strings.Repeat("A", 24), "dGhlIHNhbXBsZSBub25jZR==", "dGhlIHNhbXBsZSBub25j\x80Q==", "-_-_-_-_-_-_-_-_-_-_-_=="} {
		deny(400, plain[0], plain[1], plain[2], "Sec-WebSocket-Key: "+key)
	}
}

func TestCheck(t *testing.T) {
	offer := append(plain, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-a", "Sec-WebSocket-Protocol: p, q")
	good := []string{"Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="}
	check := func(lines []string) error {
		h, bad := Parse(request(t, offer...))
		if bad != nil {
			t.Fatal(bad)
		}
		var head http1.Response
		if err := head.Parse([]byte("HTTP/1.1 101 Switching Protocols\r\n" + strings.Join(append(lines, ""), "\r\n") + "\r\n")); err != nil {
			t.Fatal(err)
		}
		return h.Check(&head)
	}
	allow := func(lines ...string) {
		t.Helper()
		if err := check(lines); err != nil {
			t.Errorf("%q: %v", lines, err)
		}
	}
	deny := func(lines ...string) {
		t.Helper()
		if check(lines) == nil {
			t.Errorf("%q passes", lines)
		}
	}
	allow(good...)
	allow(append(good, "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover", "Sec-WebSocket-Protocol: q")...)
	allow("upgrade: WebSocket", "connection: upgrade", good[2])
	for i := range good {
		deny(append(append([]string{}, good[:i]...), good[i+1:]...)...)
	}
	deny(append(good, good[2])...)
	deny(append(good, "Upgrade: h2c")...)
	deny(good[0], good[1], "Sec-WebSocket-Accept: S3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
	deny(append(good, "Sec-WebSocket-Extensions: permessage-deflate, foo")...)
	allow(append(good, "Sec-WebSocket-Extensions: "+strings.Repeat("x-a,", maxOffers))...)
	deny(append(good, "Sec-WebSocket-Extensions: "+strings.Repeat("x-a,", maxOffers)+"x-a")...)
	deny(append(good, "Sec-WebSocket-Extensions: "+strings.Repeat("x-a,", maxOffers+1)+"foo")...)
	deny(append(good, "Sec-WebSocket-Protocol: r")...)
	deny(append(good, "Sec-WebSocket-Protocol: P")...)
	deny(append(good, "Sec-WebSocket-Protocol: p, q")...)
	deny(append(good, "Sec-WebSocket-Protocol: p", "Sec-WebSocket-Protocol: p")...)
}

// FuzzHandshake: an accepted head is a handshake of RFC 6455 as net/http parses the same head.
func FuzzHandshake(f *testing.F) {
	f.Add(strings.Join(plain, "\r\n"))
	f.Add("Connection: a\r\nConnection: b, UPGRADE\r\nUpgrade: WEBSOCKET\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + sampleKey)
	f.Add("Upgrade: websocket\r\nContent-Length: 3")
	f.Fuzz(func(t *testing.T, fields string) {
		head := []byte("GET / HTTP/1.1\r\nHost: h\r\n" + fields + "\r\n\r\n")
		end, err := http1.HeadEnd(head, 0)
		var r http1.Request
		if err != nil || end != len(head) || r.Parse(head) != nil {
			return
		}
		h, bad := Parse(&r)
		if (h == nil) == (bad == nil) {
			t.Fatalf("%v and %v", h, bad)
		}
		if bad != nil {
			if bad.Status != 400 && bad.Status != 426 || bad.Detail == "" {
				t.Fatalf("refused with %d %q", bad.Status, bad.Detail)
			}
			return
		}
		all := http.Header{}
		for _, f := range r.Fields {
			all.Add(string(f.Name), string(f.Value))
		}
		if len(all["Upgrade"]) != 1 || !strings.EqualFold(all.Get("Upgrade"), "websocket") || len(all["Sec-Websocket-Key"]) != 1 || len(all.Get("Sec-Websocket-Key")) != 24 ||
			len(all["Sec-Websocket-Version"]) != 1 || all.Get("Sec-Websocket-Version") != "13" || !strings.Contains(strings.ToLower(strings.Join(all["Connection"], ",")), "upgrade") {
			t.Fatalf("%q is accepted", fields)
		}
	})
}
