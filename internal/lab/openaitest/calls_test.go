package openaitest

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// A response can be asked for again until it is deleted.
func TestStoredResponses(t *testing.T) {
	s := start(t, Options{})
	ask := func(status int, text, method, suffix string) {
		t.Helper()
		req, err := http.NewRequest(method, s.URL()+suffix, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+canary)
		res, err := client(t, s).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		if res.StatusCode != status || !strings.Contains(string(body), text) {
			t.Errorf("%s %s: %d %s", method, suffix, res.StatusCode, body)
		}
	}
	ask(404, "not found", "GET", "/resp_1")
	_, answer := mustDo(t, s, "background s=100", `{"model":"m"}`)
	made := "/" + string(answer[len(`{"id":"`):][:len("resp_")+32])
	ask(200, `"status":"completed"`, "GET", made)
	ask(200, `response.completed`, "GET", made+"?stream=true")
	ask(200, `"status":"cancelled"`, "POST", made+"/cancel")
	ask(200, `"deleted":true`, "DELETE", made)
	ask(404, "not found", "GET", made)
	ask(404, "Invalid URL", "GET", made+"/input_items")
	ask(200, "response.compaction", "POST", "/compact")
	ask(200, "input_tokens", "POST", "/input_tokens")
	ask(405, "Invalid method", "GET", "")
	noFaults(t, s)
}

// TestCallsBeside are those that stand beside the server's own path, and Anthropic's.
func TestCallsBeside(t *testing.T) {
	for _, c := range []struct{ own, target, body, comes string }{
		{"", "POST /v1/alpha/search", `{}`, "encrypted_output"},
		{"", "GET /v1/alpha/search", "", "Invalid URL"},
		{"", "GET /v1/models", "", `"object":"list"`},
		{"", "GET /v1/models?client_version=1", "", `{"models":[{"slug":"gpt-5"`},
		{"/v1/messages", "POST /v1/messages", `{"stream":true}`, `"usage":{"input_tokens":3,"cache_creation_input_tokens":3,"cache_read_input_tokens":4,"output_tokens":1}`},
		{"/v1/messages", "POST /v1/messages?beta=true", `{}`, `"output_tokens":10`},
		{"/v1/messages", "POST /v1/messages/count_tokens", `{"a":[]}`, `{"input_tokens":2}`},
		{"/v1/messages", "POST /v1/messages/batches", `{}`, "Invalid URL"},
		{"/v1/messages", "POST /v1/alpha/search", `{}`, "Invalid URL"},
	} {
		s := start(t, Options{Path: c.own})
		conn := dialRaw(t, s, fmt.Sprintf("%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nX-Api-Key: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s",
			c.target, canary, canary, len(c.body), c.body))
		if got, err := io.ReadAll(conn); err != nil || !strings.Contains(string(got), c.comes) {
			t.Errorf("%s: %q, %v; want %s", c.target, got, err, c.comes)
		}
	}
}

// websockets are the scenarios of WebSockets, each with what comes behind the
// head when one message, "hello", is sent.
var websockets = []struct{ scenario, comes string }{
	{"ws n=1", "\x81\x05hello"},
	{"ws n=1 code=1001", "\x81\x05hello\x88\x02\x03\xe9"},
	{"wstorn", "\x81\x64" + strings.Repeat("t", 50)},
	{"wsslow d=1ms", "\x81\x0ahelloworld\x88\x00"},
	{"wssilent", ""},
	{"wswrong", ""},
}

// hello is a text frame with the mask "0000", and a close frame.
var hello = "\x81\x850000" + masked("hello")

func masked(text string) string {
	p := []byte(text)
	for i := range p {
		p[i] ^= '0'
	}
	return string(p)
}

func TestWebsocketScenarios(t *testing.T) {
	for _, c := range websockets {
		s := start(t, Options{})
		conn := dialRaw(t, s, "GET /v1/responses HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+canary+"\r\nX-Fake: "+c.scenario+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"+hello)
		in := bufio.NewReader(conn)
		res, err := http.ReadResponse(in, nil)
		if err != nil || res.StatusCode != 101 {
			t.Fatalf("%s: %v %v", c.scenario, res, err)
		}
		// RFC 6455, section 1.3, has this pair.
		if got := res.Header.Get("Sec-WebSocket-Accept"); (got == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") == (c.scenario == "wswrong") {
			t.Errorf("%s: accept %q", c.scenario, got)
		}
		if c.comes != "" {
			got := make([]byte, len(c.comes))
			fmt.Fprint(conn, "\x88\x800000")
			if _, err := io.ReadFull(in, got); err != nil || string(got) != c.comes {
				t.Errorf("%s: %q, %v, want %q", c.scenario, got, err, c.comes)
			}
		}
		conn.Close()
		waitFor(t, "done", s.Requests()[0].Done())
	}
}
