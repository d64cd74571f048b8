package admit

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
)

// TestChromium judges what a real browser sends: testdata/chromium.jsonl has one
// of each kind of request that Chromium 156 made from a page of another origin
// that tried everything (fetch in every mode, XMLHttpRequest, beacons, forms,
// frames, sandboxed frames, workers, images, scripts, links, EventSource,
// WebSocket; with and without a referrer) to 127.0.0.1, localhost, ::1 and a
// name that was led here. None may pass.
func TestChromium(t *testing.T) {
	f, err := os.Open("testdata/chromium.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	o := NewOrigin(8080, nil)
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
		if o.check(&head) == nil {
			t.Errorf("passes: %q", text)
		}
	}
	if lines.Err() != nil || n < 70 {
		t.Errorf("%d requests: %v", n, lines.Err())
	}
}
