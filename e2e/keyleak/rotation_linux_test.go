package keyleak

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

const (
	rotations = 1000
	rotators  = 16 // clients that are always at work meanwhile

	tookKey = "API key reloaded"
	kept    = "API key not reloaded"
	// begun is the field of a request that has the number of keys in use before it was made. The upstream's record has
	// that field and the key.
	begun = "X-Begun"
)

// series is the keys of one run: the first, and each that takes the place of the
// one before. All are distinct, and of different lengths.
type series [][]byte

func newSeries(n int) series {
	keys := series{key}
	for range n {
		k := newKey()
		keys = append(keys, k[:len(k)-len(keys)%64])
	}
	return keys
}

// joined has every key of the series, so that one scan looks for all of them:
// where it is taken for one key, any key and any part of one is a fragment.
func (keys series) joined() []byte { return bytes.Join(keys, nil) }

// rotor is a rig whose key is being replaced under load.
type rotor struct {
	*rig
	keys  series
	file  string        // where another key is put
	owner int           // of file; the program's user
	lines <-chan string // the program's lines about keys
	inUse atomic.Int64  // index of the last key that the program has reported
	turns chan struct{} // receives a value for each request that ends, if there is a receiver
}

// newRotor starts the program as an operator would, unless it is wrapped.
func newRotor(t *testing.T, w wire, how string, keys series) *rotor {
	t.Helper()
	upstream, err := openaitest.Start(openaitest.Options{TLS: w.tls != 0, TLSMin: w.tls, TLSMax: w.tls})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(upstream.Close)
	r := &rotor{keys: keys, file: filepath.Join(t.TempDir(), "key"), turns: make(chan struct{})}
	if how == "" {
		r.owner = 65534 // the user "nobody"
	}
	if err := r.put(key); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"--upstream-url", upstream.URL(), "--key-file", r.file}, w.args...)
	if how == "" {
		args = append(args, "--user", "nobody", "--protection=strict")
	}
	lines := make(chan string, 16)
	p := launchWith(t, how, []string{"SSL_CERT_FILE=" + certFile(t, upstream.CAPEM())}, func(p *process) {
		p.cmd.Stdin = nil
		p.onLine = func(line string) {
			if strings.Contains(line, tookKey) || strings.Contains(line, kept) || strings.Contains(line, "SIGHUP") {
				lines <- line
			}
		}
	}, args...)
	if p.addr == "" {
		t.Fatalf("the program does not start: %s", p.written())
	}
	r.lines, r.rig = lines, &rig{process: p, ctx: deadline(t), upstream: upstream, client: newClient(t)}
	r.catches(t, unix.SIGHUP)
	return r
}

// put puts a file with another key in the place of the last one, for the
// program's user to read.
func (r *rotor) put(k []byte) error {
	next := r.file + ".new"
	err := os.WriteFile(next, append(bytes.Clone(k), '\n'), 0o600)
	if err == nil {
		err = os.Chown(next, r.owner, -1)
	}
	if err == nil {
		err = os.Rename(next, r.file)
	}
	return err
}

// rotate has the program use the next n keys of the series, one after the other.
// Before each of them some requests end, or all would be over in an instant.
func (r *rotor) rotate(n int) error {
	for range n {
		err := r.await(rotators / 2)
		if err == nil {
			err = r.next()
		}
		if err != nil {
			return fmt.Errorf("rotation %d: %w", r.inUse.Load()+1, err)
		}
	}
	return nil
}

// await waits until so many requests have ended.
func (r *rotor) await(requests int) error {
	for range requests {
		select {
		case <-r.turns:
		case <-r.ctx.Done():
			return errors.New("no requests end any more")
		}
	}
	return nil
}

// next writes a key and has the program read it.
func (r *rotor) next() error {
	n := r.inUse.Load() + 1
	if err := r.put(r.keys[n]); err != nil {
		return err
	}
	r.signal(unix.SIGHUP)
	select {
	case line := <-r.lines:
		if !strings.Contains(line, tookKey) {
			return fmt.Errorf("it says %q", line)
		}
	case <-r.ctx.Done():
		return fmt.Errorf("it says nothing of it, but %q", r.written())
	}
	r.inUse.Store(n)
	return nil
}

// during keeps the clients at work while do runs, and returns the median of how
// long the short ones of their requests have taken.
func (r *rotor) during(t *testing.T, do func() error) time.Duration {
	t.Helper()
	var stop atomic.Bool
	var mu sync.Mutex
	var took []time.Duration
	worked := make(chan error, 1)
	go func() {
		worked <- each(rotators, rotators, func(client int) error {
			for i := client; !stop.Load(); i++ {
				d, err := r.turn(i)
				if err != nil {
					return err
				}
				if d > 0 {
					mu.Lock()
					took = append(took, d)
					mu.Unlock()
				}
			}
			return nil
		})
	}()
	if err := do(); err != nil {
		t.Error(err)
	}
	stop.Store(true)
	if err := <-worked; err != nil {
		t.Errorf("a request failed: %v", err)
	}
	if len(took) == 0 {
		t.Fatal("there was no load")
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// turn makes a request, of which one in eight is a stream that outlives some
// rotations. It returns how long a short one has taken.
func (r *rotor) turn(i int) (took time.Duration, err error) {
	scenario, stream := "json", i%8 == 0
	if stream {
		scenario = "sse n=10 d=1ms"
	}
	req := r.request(r.ctx, scenario, strings.NewReader(ask))
	req.Header.Set(begun, strconv.FormatInt(r.inUse.Load(), 10))
	start := time.Now()
	status, err := r.send(req)
	if err != nil || status != http.StatusOK {
		return 0, fmt.Errorf("%s: status %d, error %v", scenario, status, err)
	}
	took = time.Since(start)
	select {
	case r.turns <- struct{}{}:
	default:
	}
	if stream {
		return 0, nil
	}
	return took, nil
}

// unseen looks for all of the keys.
func (r *rotor) unseen(t *testing.T, when string) {
	t.Helper()
	all := r.keys.joined()
	got := r.scan(t, all)
	if got.Full+got.Fragments > 0 {
		t.Errorf("%s, with key %d in use: %s%s", when, r.inUse.Load(), counts(got), locate(r.cmd.Process.Pid, all))
	}
	if got.Unreadable == 0 {
		t.Errorf("%s: there is no unreadable page for the keys to be in", when)
	}
}

// checkSent looks at what the upstream was sent: with each request one whole
// key, and none that had been replaced before the request was made.
func (r *rotor) checkSent(t *testing.T) {
	t.Helper()
	index := map[string]int{}
	for i, k := range r.keys {
		index["Bearer "+string(k)] = i
	}
	used, stale := map[int]bool{}, 0
	for _, req := range r.upstream.Requests() {
		sent := req.Credentials()
		from, err := strconv.Atoi(req.Get(begun))
		if len(sent) != 1 || err != nil {
			t.Fatalf("%d credentials, begun with key %q", len(sent), req.Get(begun))
		}
		i, whole := index[sent[0]]
		if !whole {
			t.Fatalf("what was sent is no key of the series; begun with key %d", from)
		}
		if i < from {
			stale++
		}
		used[i] = true
	}
	if stale > 0 {
		t.Errorf("%d requests were sent a key that had been replaced before they were made", stale)
	}
	t.Logf("%d requests were sent %d of %d keys", r.upstream.Count(), len(used), len(r.keys))
	if faults := r.upstream.Faults(); len(faults) > 0 {
		t.Errorf("faults: %q", faults)
	}
}

// TestRotation replaces the key again and again under load: no request fails,
// and no key is to be seen, neither the one in use nor one that was.
func TestRotation(t *testing.T) {
	needRoot(t)
	n := rotations
	if testing.Short() {
		n /= 5
	}
	for _, w := range []wire{plain, modern} {
		t.Run(w.name, func(t *testing.T) {
			r := newRotor(t, w, "", newSeries(n))
			before := r.during(t, func() error { return r.pause(time.Second) })
			start := time.Now()
			meanwhile := r.during(t, func() error { return r.rotate(n / 2) })
			span := time.Since(start)
			scans := 0
			r.during(t, func() error {
				done := make(chan error, 1)
				go func() { done <- r.rotate(n - n/2) }()
				for ; len(done) == 0; scans++ {
					r.unseen(t, "while keys are replaced")
				}
				return <-done
			})
			t.Logf("%.0f rotations/s; median of a short request %v without, %v with them; %d scans", float64(n/2)/span.Seconds(), before, meanwhile, scans)
			r.rest(t)
			r.unseen(t, "afterwards")
			r.seen(t)
			r.checkSent(t)
			r.finish(t)
		})
	}
}

// TestRotationInHaste waits only for the line that reports a new key, while the program has much else to do.
func TestRotationInHaste(t *testing.T) {
	needRoot(t)
	r := newRotor(t, plain, "", newSeries(rotations))
	r.during(t, func() error {
		for n := range rotations {
			if err := r.next(); err != nil {
				return fmt.Errorf("rotation %d: %w", n+1, err)
			}
		}
		return nil
	})
	r.checkSent(t)
	r.finish(t)
}

// pause lets the clients work for a while.
func (r *rotor) pause(d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

func (r *rotor) finish(t *testing.T) {
	t.Helper()
	r.stop(t)
	if got := memscan.Bytes([]byte(r.written()), r.keys.joined()); got.Full+got.Fragments > 0 {
		t.Errorf("a key is on standard error: %s", counts(got))
	}
}

// TestRotationFallback replaces keys where root can read them: the scan for a
// whole series finds the one in use there, and proves that those before it were
// wiped.
func TestRotationFallback(t *testing.T) {
	proctest.NeedRoot(t, "read another process's memory")
	for _, w := range []wire{plain, modern} {
		t.Run(w.name, func(t *testing.T) {
			r := newRotor(t, w, noSecretMemory, newSeries(50))
			r.during(t, func() error { return r.rotate(49) })
			r.oneCopy(t)
			r.during(t, func() error { return r.rotate(1) })
			r.oneCopy(t)
			r.checkSent(t)
			r.finish(t)
		})
	}
}

func (r *rotor) oneCopy(t *testing.T) {
	t.Helper()
	r.rest(t)
	current := r.keys[r.inUse.Load()]
	all, one := r.scan(t, r.keys.joined()), r.scan(t, current)
	if one.Full != 1 || one.Fragments != 0 {
		t.Errorf("of the key in use: %s; want the one copy", counts(one))
	}
	if all.Full+all.Fragments != 1 || all.Longest != len(current) {
		t.Errorf("of all keys: %s; want the one in use, of %d bytes", counts(all), len(current))
	}
}
