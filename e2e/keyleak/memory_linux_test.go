package keyleak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// phase is something that happens to the program, after which no copy of the
// key may be left.
type phase struct {
	name string
	run  func(r *rig) error
}

var usual = []phase{
	{"at the start", func(*rig) error { return nil }},
	{"after 1 request", func(r *rig) error { return r.expect(1, 1, "auto", 200) }},
	{"after 100 requests on one connection", func(r *rig) error { return r.expect(100, 1, "json", 200) }},
	{"after 1,000 streams, many at once", (*rig).streams},
	{"after 200 cancelled streams", (*rig).cancelStreams},
	{"after 200 requests cancelled before the answer", (*rig).cancelSilent},
	{"after heads to 60 KB and bodies to 2 MB", (*rig).sizes},
}

var abuse = []phase{
	{"after 200 answers with 500", func(r *rig) error { return r.expect(200, 20, "status code=500", 500) }},
	{"after 200 answers with 401", func(r *rig) error { return r.expect(200, 20, "status code=401", 401) }},
	{"after 200 answers with 429", func(r *rig) error { return r.expect(200, 20, "status code=429 retry=1", 429) }},
	{"after broken answers", (*rig).broken},
	{"after 413 in the middle of 300 KB", (*rig).early},
	{"after 100 Expect: 100-continue", (*rig).expectContinue},
	{"after connections closed under our feet", (*rig).stale},
	{"while idle for 5 s", nil},
	{"after SIGHUP", (*rig).hangUp},
	{"after the upstream is gone", (*rig).gone},
}

func TestMemory(t *testing.T) {
	needRoot(t)
	all := slices.Concat(usual, abuse)
	bare := func(t *testing.T, w wire) *rig { return newRig(t, w, "") }
	for _, c := range []struct {
		name   string
		wire   wire
		start  func(*testing.T, wire) *rig
		phases []phase
	}{
		{"http", plain, bare, all},
		{"https", modern, bare, all},
		{"https with TLS 1.2", legacy, bare, usual},
		{"http with all that may be turned on", plain, optedIn, usual},
		{"https with all that may be turned on", modern, optedIn, all},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := c.start(t, c.wire)
			for _, p := range c.phases {
				r.run(t, p)
			}
			r.seen(t)
			r.stop(t)
		})
	}
}

func (r *rig) run(t *testing.T, p phase) {
	if p.run == nil {
		r.idle(t, p.name)
		return
	}
	if err := p.run(r); err != nil {
		t.Errorf("%s: %v", p.name, err)
	}
	r.clean(t, p.name)
}

// idle looks at a program that has nothing to do, but for its timers.
func (r *rig) idle(t *testing.T, name string) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range 5 {
		<-tick.C
		r.clean(t, name)
	}
}

// streams has 200 streams at once. A short test, as in an emulated machine, has fewer: their connections to the
// upstream must be made in the program's 10 s.
func (r *rig) streams() error {
	atOnce := 200
	if testing.Short() {
		atOnce = 50
	}
	return r.expect(1000, atOnce, "sse n=20", 200)
}

// cancelStreams leaves in the middle of streams.
func (r *rig) cancelStreams() error {
	return each(200, 40, func(int) error {
		ctx, cancel := context.WithCancel(r.ctx)
		defer cancel()
		res, err := r.client.Do(r.request(ctx, "headthensilent", strings.NewReader(ask)))
		if err != nil {
			return err
		}
		defer res.Body.Close()
		_, err = io.ReadFull(res.Body, make([]byte, 10))
		return err
	})
}

// cancelSilent leaves while the upstream has the request and does not respond, and, every other time, at an arbitrary
// moment.
func (r *rig) cancelSilent() error {
	const batch = 50
	for i := range 4 {
		ctx, cancel := context.WithCancel(r.ctx)
		var wg sync.WaitGroup
		var answered atomic.Int64
		before := r.upstream.Count()
		for range batch {
			wg.Go(func() {
				if _, err := r.send(r.request(ctx, "silent", strings.NewReader(ask))); err == nil {
					answered.Add(1)
				}
			})
		}
		_, err := r.upstream.Await(r.ctx, before+[]int{batch, 1}[i%2])
		cancel()
		wg.Wait()
		if err != nil || answered.Load() > 0 {
			return fmt.Errorf("%d silent requests were answered, error %v", answered.Load(), err)
		}
	}
	return nil
}

// sizes sends heads and bodies of many sizes, small ones more often.
func (r *rig) sizes() error {
	rnd := rand.New(rand.NewPCG(5, 6))
	var mu sync.Mutex
	size := func(limit int) int {
		mu.Lock()
		defer mu.Unlock()
		return rnd.IntN(1 + rnd.IntN(1+rnd.IntN(limit)))
	}
	return each(150, 8, func(i int) error {
		var body io.Reader = filler(size(2 << 20))
		if i%3 == 0 {
			body = withoutLength{body}
		}
		req := r.request(r.ctx, "json s=10", body)
		for left := size(60_000); left > 0; left -= 8000 {
			req.Header.Add("X-Pad", strings.Repeat("p", min(left, 8000)))
		}
		status, err := r.send(req)
		if err != nil || status != 200 {
			return fmt.Errorf("status %d, error %v", status, err)
		}
		return nil
	})
}

// broken has the upstream break off or send malformed responses. None may look complete.
func (r *rig) broken() error {
	for _, scenario := range []string{
		"cut", "cut alert=0", "reset", "cutcl", "closebefore", "closebefore alert=0", "cuthead", "garbage", "badchunk", "clte", "clcl", "barelf", "switch",
	} {
		err := each(20, 10, func(int) error {
			if status, err := r.post(scenario); err == nil && status == 200 {
				return fmt.Errorf("%s: a whole answer", scenario)
			} else if err != nil {
				return ignore(err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// early has the upstream respond before it has read the body, and close.
func (r *rig) early() error {
	for _, scenario := range []string{"early status=413", "earlyclose status=413"} {
		err := each(50, 10, func(int) error {
			status, err := r.send(r.request(r.ctx, scenario, filler(300_000)))
			if err == nil && status != 413 && status != 502 {
				return fmt.Errorf("%s: status %d", scenario, status)
			}
			return ignore(err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *rig) expectContinue() error {
	return each(100, 10, func(int) error {
		req := r.request(r.ctx, "auto", strings.NewReader(ask))
		req.Header.Set("Expect", "100-continue")
		if status, err := r.send(req); err != nil || status != 200 {
			return fmt.Errorf("status %d, error %v", status, err)
		}
		return nil
	})
}

// stale has the upstream close the connections that the program keeps.
func (r *rig) stale() error {
	late := func(int) error {
		status, err := r.post("auto")
		if err == nil && status != 200 && status != 502 { // 502: closed while we were writing
			return fmt.Errorf("status %d", status)
		}
		return err
	}
	for range 10 {
		if err := each(30, 30, late); err != nil {
			return err
		}
		r.upstream.CloseIdle()
	}
	return each(200, 4, func(i int) error {
		if i%2 == 0 {
			return late(i)
		}
		_, err := r.post("stale")
		return err
	})
}

func (r *rig) hangUp() error {
	r.signal(unix.SIGHUP)
	return r.expect(20, 4, "auto", 200)
}

// gone ends the upstream for good; it must be the last phase.
func (r *rig) gone() error {
	r.upstream.Close()
	return r.expect(100, 10, "auto", 502)
}

// TestRefusals is about a program that never gets as far as a request.
func TestRefusals(t *testing.T) {
	needRoot(t)
	t.Run("the port is closed", func(t *testing.T) {
		r := newRig(t, plain, "")
		r.stop(t)
		r.process = launch(t, "", nil, "--upstream-url", "http://"+closedPort(t)+"/v1/responses")
		r.run(t, phase{"after 100 refused connects", func(r *rig) error { return r.expect(100, 10, "auto", 502) }})
	})
	t.Run("the certificate is not trusted", func(t *testing.T) {
		r := newRig(t, modern, "")
		r.stop(t)
		r.process = launch(t, "", []string{"SSL_CERT_FILE=" + certFile(t, nil)}, "--upstream-url", r.upstream.URL())
		r.run(t, phase{"after 100 refused certificates", func(r *rig) error { return r.expect(100, 10, "auto", 502) }})
		if n := r.upstream.Count(); n != 0 {
			t.Errorf("%d requests went to an upstream that nobody trusts", n)
		}
	})
}

// closedPort returns an address that is taken but refuses connections.
func closedPort(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", fmt.Sprint(name.(*unix.SockaddrInet4).Port))
}

// TestMemoryDuringLoad looks again and again while 64 requests are always under
// way.
func TestMemoryDuringLoad(t *testing.T) {
	needRoot(t)
	for _, w := range []wire{plain, modern, legacy} {
		t.Run(w.name, func(t *testing.T) {
			r := newRig(t, w, "")
			span := 5 * time.Second
			if testing.Short() || w.tls == legacy.tls {
				span = 2 * time.Second
			}
			scans, found := r.scanUnderLoad(t, span)
			t.Logf("%d scans during %d requests", scans, r.upstream.Count())
			if found > 0 {
				t.Errorf("%d of %d scans found something", found, scans)
			}
			r.clean(t, "after the load")
			r.stop(t)
		})
	}
}

func (r *rig) scanUnderLoad(t *testing.T, span time.Duration) (scans, found int) {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- r.load(ctx, 64) }()
	if _, err := r.upstream.Await(r.ctx, 200); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(span); time.Now().Before(end); scans++ {
		if report := r.scan(t, key); report.Full+report.Fragments > 0 {
			found++
			t.Logf("scan %d: %s%s", scans, counts(report), locate(r.cmd.Process.Pid, key))
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("the load: %v", err)
	}
	return scans, found
}

// load sends request after request until ctx ends.
func (r *rig) load(ctx context.Context, workers int) error {
	return each(workers, workers, func(int) error {
		for ctx.Err() == nil {
			status, err := r.send(r.request(ctx, "sse n=5", strings.NewReader(ask)))
			switch {
			case errors.Is(err, context.Canceled):
			case err != nil || status != http.StatusOK:
				return fmt.Errorf("status %d, error %v", status, err)
			}
		}
		return nil
	})
}
