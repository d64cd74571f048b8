package keyleak

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// optedIn starts the program with every flag that has it do more with a request than pass it on, and as another user.
// Its metrics are read all the time. At the end of the test it scans all of the program's output.
func optedIn(t *testing.T, w wire) *rig {
	t.Helper()
	upstream, err := openaitest.Start(openaitest.Options{TLS: w.tls != 0, TLSMin: w.tls, TLSMax: w.tls})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(upstream.Close)
	dir := t.TempDir()
	logged, audited := filepath.Join(dir, "log"), filepath.Join(dir, "audit")
	dumps := filepath.Join(proctest.Dir(t, 0o755), "dumps")
	args := []string{
		"--upstream-url", upstream.URL(), "--ca-file", certFile(t, upstream.CAPEM()), "--auth-header", "x-api-key",
		"--dump-dir", dumps, "--audit", audited, "--log-file", logged, "--metrics", "127.0.0.1:0", "--max-tokens-per-user", "1000000000",
		"--user", "nobody", "--protection=strict",
	}
	p := launch(t, "", nil, append(args, w.args...)...)
	if p.addr == "" {
		t.Fatalf("the program does not start: %s", p.written())
	}
	r := &rig{process: p, ctx: deadline(t), upstream: upstream, client: newClient(t)}
	t.Cleanup(func() { r.checkSent(t) })
	t.Cleanup(func() { checkFiles(t, logged, audited) })
	t.Cleanup(func() { checkDumps(t, dumps) })
	r.scrape(t)
	return r
}

// checkSent checks that the key is in the configured field, and that no other field has a credential.
func (r *rig) checkSent(t *testing.T) {
	all := r.upstream.Requests()
	if len(all) == 0 {
		t.Error("the upstream was sent nothing")
	}
	for _, req := range all {
		if req.Get("X-Api-Key") != string(key) || len(req.Credentials()) != 1 {
			t.Fatalf("a request with %d credentials, none of which is the key in x-api-key", len(req.Credentials()))
		}
	}
}

// checkFiles looks through what the program has written. It has nothing to log
// while all is well.
func checkFiles(t *testing.T, logged, audited string) {
	for _, name := range []string{logged, audited} {
		got, err := memscan.File(name, key)
		if err != nil || got.Full+got.Fragments > 0 || got.Bytes == 0 && name == audited {
			t.Errorf("%s: %s, error %v", filepath.Base(name), counts(got), err)
		}
	}
}

// checkDumps looks through the requests and responses that were dumped.
func checkDumps(t *testing.T, dir string) {
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Errorf("nothing was dumped (%v)", err)
	}
	for _, name := range files {
		if got, err := memscan.File(name, key); err != nil || got.Full+got.Fragments > 0 {
			t.Errorf("%s: %s, error %v", filepath.Base(name), counts(got), err)
		}
	}
}

// scrape reads the metrics ten times a second until the test's end.
func (r *rig) scrape(t *testing.T) {
	t.Helper()
	r.awaitOutput(t, " protections ") // the line after the one that is wanted
	_, addr, _ := strings.Cut(r.written(), " metrics=")
	addr, _, _ = strings.Cut(addr, "\n")
	quit, done := make(chan struct{}), make(chan int)
	go func() { done <- r.scrapeUntil(t, quit, "http://"+addr+"/metrics") }()
	t.Cleanup(func() {
		close(quit)
		if n := <-done; n == 0 {
			t.Error("the metrics were never read")
		}
	})
}

func (r *rig) scrapeUntil(t *testing.T, quit <-chan struct{}, url string) (scrapes int) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-quit:
			return scrapes
		case <-tick.C:
		}
		page, err := r.fetch(url)
		if err != nil {
			continue // it has ended
		}
		scrapes++
		if got := memscan.Bytes(page, key); got.Full+got.Fragments > 0 {
			t.Errorf("the key is among the metrics: %s", counts(got))
		}
	}
}

func (r *rig) fetch(url string) ([]byte, error) {
	res, err := r.client.Get(url)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", res.StatusCode)
	}
	return io.ReadAll(res.Body)
}
