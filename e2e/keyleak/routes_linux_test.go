package keyleak

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestMemoryOfRoutes is about the routes that --allow-route opens, and
// WebSockets above all: their key goes out once, and they stay for long.
func TestMemoryOfRoutes(t *testing.T) {
	needRoot(t)
	for _, w := range []wire{plain, modern, legacy} {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, w, "", "--allow-route", "compact", "--allow-route", "input-tokens", "--allow-route", "models", "--allow-route", "retrieve", "--allow-route", "websocket")
			r.run(t, phase{"after 200 requests to each route", (*rig).routes})
			r.run(t, phase{"after 200 handshakes that were refused", (*rig).refusedSockets})
			r.sockets(t)
			r.stop(t)
		})
	}
}

// routes requests every route.
func (r *rig) routes() error {
	return each(200, 20, func(i int) error {
		id, err := r.made()
		if err != nil {
			return err
		}
		for _, line := range []string{
			"POST responses/compact", "POST responses/input_tokens", "GET models",
			"GET responses/" + id + "?stream=true&include%5B%5D=" + strings.Repeat("a", 1+i%60), "POST responses/" + id + "/cancel", "DELETE responses/" + id,
		} {
			method, target, _ := strings.Cut(line, " ")
			var body io.Reader
			if method == "POST" {
				body = strings.NewReader(ask)
			}
			req, err := http.NewRequestWithContext(r.ctx, method, "http://"+r.addr+"/v1/"+target, body)
			if err != nil {
				return err
			}
			// The fake upstream forgets what it has made; the proxy must not.
			if status, err := r.send(req); err != nil || status != 200 && (status != 404 || !strings.Contains(target, id)) {
				return fmt.Errorf("%s: status %d, error %v", line, status, err)
			}
		}
		return nil
	})
}

// made makes a response and returns its id.
func (r *rig) made() (string, error) {
	res, err := r.client.Do(r.request(r.ctx, "json", strings.NewReader(ask)))
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	_, after, _ := strings.Cut(string(body), `{"id":"`)
	id, _, ok := strings.Cut(after, `"`)
	if !ok {
		return "", fmt.Errorf("no id in the answer, error %v", err)
	}
	return id, err
}

// hello is a text frame with a mask of zeros.
const hello = "\x81\x85\x00\x00\x00\x00hello"

// socket opens a WebSocket, or is refused.
func (r *rig) socket(scenario string) (net.Conn, *bufio.Reader, int, error) {
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		return nil, nil, 0, err
	}
	fmt.Fprintf(c, "GET /v1/responses HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Fake: %s\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", r.addr, scenario)
	in := bufio.NewReader(c)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		c.Close()
		return nil, nil, 0, err
	}
	return c, in, res.StatusCode, nil
}

func (r *rig) refusedSockets() error {
	return each(200, 20, func(i int) error {
		scenario, want := "status code=401", 401
		if i%2 == 0 {
			scenario, want = "wswrong", 502
		}
		c, _, status, err := r.socket(scenario)
		if err != nil || status != want {
			return fmt.Errorf("%s: status %d, error %v", scenario, status, err)
		}
		return c.Close()
	})
}

// sockets looks at the program while 50 WebSockets are open, each of which has
// passed frames, and after they are gone.
func (r *rig) sockets(t *testing.T) {
	var open []net.Conn
	for range 50 {
		c, in, status, err := r.socket("ws")
		if err != nil || status != 101 {
			t.Fatalf("status %d, error %v", status, err)
		}
		defer c.Close()
		open = append(open, c)
		for range 20 {
			echo := make([]byte, len("\x81\x05hello"))
			if _, err := io.WriteString(c, hello); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(in, echo); err != nil || string(echo) != "\x81\x05hello" {
				t.Fatalf("%q, %v", echo, err)
			}
		}
	}
	r.clean(t, "while 50 WebSockets are open")
	for _, c := range open {
		c.Close()
	}
	r.clean(t, "after 50 WebSockets")
}
