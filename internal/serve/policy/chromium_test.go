package policy

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// TestChromium checks the requests of a real browser: testdata/chromium.jsonl has one of each kind that Chromium 156
// sent from a page of another origin that tried everything (fetch in every mode, XMLHttpRequest, beacons, forms,
// frames, sandboxed frames, workers, images, scripts, links, EventSource, WebSocket; with and without a referrer) to
// 127.0.0.1, localhost, ::1 and a name that resolved to this host. None may pass. If --allow-host has that name, none
// of them may stop the proxy, and none but a GET may pass.
func TestChromium(t *testing.T) {
	f, err := os.Open("testdata/chromium.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	o, named := NewOrigin(8080, nil), NewOrigin(8080, []string{"rebind.test"})
	passing := 0
	n, lines := 0, bufio.NewScanner(f)
	for ; lines.Scan(); n++ {
		var r struct {
			Method, Target string
			Fields         []string
		}
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		var head http1.Request
		text := r.Method + " " + r.Target + " HTTP/1.1\r\n" + strings.Join(append(r.Fields, ""), "\r\n") + "\r\n"
		if err := head.Parse([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if o.check(&head, false) == nil {
			t.Errorf("passes: %q", text)
		}
		if named.check(&head, true) == nil {
			t.Errorf("stops a proxy with --allow-host: %q", text)
		}
		if named.check(&head, false) == nil {
			passing++
			if r.Method != "GET" {
				t.Errorf("passes with --allow-host: %q", text)
			}
		}
	}
	if passing == 0 {
		t.Error("no request passes with --allow-host: the records lack the GET that /shutdown must refuse")
	}
	if lines.Err() != nil || n < 70 {
		t.Errorf("%d requests: %v", n, lines.Err())
	}
}
