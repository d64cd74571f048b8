package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/launch"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

// timeout is for what must happen; the machine may be busy.
const timeout = time.Minute

// nobody is the user that the proxies become.
const nobody = 65534

// A build is one running proxy, its upstream, and what was measured of it.
type build struct {
	name, dir string
	keys      [2]string // in use in turn
	upstream  *openaitest.Server
	cmd       *exec.Cmd
	addrs     [2]string       // TCP and unix
	clients   [2]*http.Client // of the same
	metrics   *http.Client

	begun, confirmed atomic.Int64 // rotations that have begun, and that the proxy has logged
	sent             atomic.Int64 // requests
	arrivals         sync.Map     // functions that take the upstream's record of a request, by its X-Id

	mu            sync.Mutex
	counts        map[string]int // requests of each kind
	failed        int
	samples       []sample
	before, after sample    // at rest
	scanned       int64     // bytes
	share         float64   // of a core, in per cent
	began         time.Time // the load
}

func start(name string, more ...string) (*build, error) {
	b := &build{name: name, dir: filepath.Join(*dir, name+".d"), counts: map[string]int{}}
	for i := range b.keys {
		b.keys[i] = "sk-longrun-" + rand.Text() + rand.Text()
	}
	var err error
	if b.upstream, err = openaitest.Start(openaitest.Options{TLS: true, Forget: true, Choose: b.arrived}); err != nil {
		return nil, err
	}
	races := b.file("races") // one file for each process; standard error is closed when it holds the key
	err1 := errors.Join(os.MkdirAll(races, 0o777), os.Chmod(races, 0o777), b.putKey(), os.WriteFile(b.file("ca.pem"), b.upstream.CAPEM(), 0o644))
	log, err2 := os.Create(b.file("log"))
	audit, err3 := os.Create(b.file("audit"))
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	defer log.Close()
	defer audit.Close()
	// Two users may call, or only its owner could connect to the socket: the proxy, and not the file's mode, must refuse
	// others.
	b.cmd = exec.Command(filepath.Join(*dir, name), append([]string{
		"--upstream-url", b.upstream.URL(), "--ca-file", b.file("ca.pem"), "--key-file", b.file("key/key"), "--user", fmt.Sprint(nobody),
		"--allow-user", "root", "--allow-user", "bin", "--allow-host", "longrun", "--listen", "127.0.0.1:0", "--listen", "unix:" + b.file("socket"),
		"--allow-route", "websocket", "--max-body", "64KiB", "--max-concurrent-per-user", "100", "--rate", "1000",
		"--audit", "-", "--metrics", "unix:" + b.file("metrics"), "--server-info", b.file("info"),
	}, more...)...)
	b.cmd.Env = []string{"GORACE=log_path=" + filepath.Join(races, "race")}
	b.cmd.Stdout, b.cmd.Stderr = audit, log
	if err := b.cmd.Start(); err != nil {
		return nil, err
	}
	var info launch.Info
	if err := await("start", func() bool { info, err = launch.ReadInfo(b.file("info")); return err == nil }); err != nil {
		text, _ := os.ReadFile(log.Name())
		b.kill()
		return nil, fmt.Errorf("%s: %w: %s", name, err, text)
	}
	b.addrs = [2]string{fmt.Sprintf("127.0.0.1:%d", info.Port), b.file("socket")}
	b.clients = [2]*http.Client{client("tcp", b.addrs[0]), client("unix", b.addrs[1])}
	b.metrics = client("unix", b.file("metrics"))
	return b, nil
}

func (b *build) file(name string) string { return filepath.Join(b.dir, name) }

// kill ends the proxy and its upstream, if they still run.
func (b *build) kill() {
	b.cmd.Process.Kill()
	b.cmd.Wait()
	b.upstream.Close()
}

// logged returns how often the log contains text.
func (b *build) logged(text string) int {
	log, _ := os.ReadFile(b.file("log"))
	return bytes.Count(log, []byte(text))
}

// await polls until ok, described by what, is true.
func await(what string, ok func() bool) error {
	late := time.After(timeout)
	for !ok() {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-late:
			return fmt.Errorf("not within %v: %s", timeout, what)
		}
	}
	return nil
}

func (b *build) problem(format string, args ...any) {
	fmt.Printf("%s %s: FAIL: %s\n", time.Now().Format(time.TimeOnly), b.name, fmt.Sprintf(format, args...))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed++
}

// check records err as a problem, if there is one.
func (b *build) check(err error) {
	if err != nil {
		b.problem("%v", err)
	}
}

// putKey replaces the key file by one with the next key, as an operator does: by rename(2).
func (b *build) putKey() error {
	next := b.file("key/next")
	return errors.Join(os.MkdirAll(filepath.Dir(next), 0o755),
		os.WriteFile(next, []byte(b.keys[b.begun.Load()%2]+"\n"), 0o600), os.Chown(next, nobody, -1), os.Rename(next, b.file("key/key")))
}

// rotate has the proxy use the next key.
func (b *build) rotate() {
	n := b.begun.Add(1)
	b.check(b.putKey())
	b.cmd.Process.Signal(unix.SIGHUP)
	b.check(await("API key reloaded", func() bool { return b.logged("API key reloaded") == int(n) }))
	b.confirmed.Store(n)
}

// A sample is what was measured at one time.
type sample struct {
	values                           [len(columns)]float64
	second, requests, failed, copies int
	idle                             bool // no request is running and no client connected
	recorded, collections            int  // requests and garbage collections, by the proxy
}

// columns are the values of a sample. None may grow by more than a tenth, or slack, whichever is more.
var columns = [...]struct {
	name  string
	slack float64
}{{"resident MiB", 4}, {"heap MiB", 4}, {"descriptors", 4}, {"threads", 2}, {"goroutines", 4}}

// Indexes of columns.
const (
	resident    = 0
	descriptors = 2
	goroutines  = 4
)

// measure reads what the kernel and the proxy's metrics report.
func (b *build) measure() (s sample, err error) {
	proc := fmt.Sprintf("/proc/%d/", b.cmd.Process.Pid)
	res, err := b.metrics.Get("http://localhost/metrics")
	if err == nil && res.StatusCode != 200 {
		err = errors.New("metrics: " + res.Status)
	}
	if err != nil {
		return s, err
	}
	page, err1 := io.ReadAll(res.Body)
	res.Body.Close()
	b.metrics.CloseIdleConnections()
	status, err2 := os.ReadFile(proc + "status")
	fds, err3 := os.ReadDir(proc + "fd")
	text := string(page) + string(status)
	sum := func(name string) (total float64) { // of the lines that begin with name
		for line := range strings.Lines(text) {
			if f := strings.Fields(line); strings.HasPrefix(line, name) {
				v, _ := strconv.ParseFloat(f[1], 64)
				total += v
			}
		}
		return total
	}
	const own = "responses_api_proxy_"
	s.values = [...]float64{sum("VmRSS:") / 1024, sum("go_memstats_heap_alloc_bytes ") / (1 << 20), float64(len(fds)), sum("Threads:"), sum("go_goroutines ")}
	s.idle = sum(own+"requests_in_flight ") == 0 && sum(own+"client_connections ") == 0
	s.recorded, s.collections = int(sum(own+"requests_total{")), int(sum("go_gc_cycles_total "))
	return s, errors.Join(err1, err2, err3)
}

// sample measures the proxy and scans its memory for both keys. Of the terabytes of the race detector's address space
// the scan reads only the pages that are present or swapped out.
func (b *build) sample() {
	s, err := b.measure()
	b.check(err)
	found, err := memscan.Process(b.cmd.Process.Pid, []byte(b.keys[0]+b.keys[1]))
	if s.copies = found.Full + found.Fragments; err != nil || s.copies > 0 || found.Unreadable == 0 {
		b.problem("scan: %+v, error %v", found, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s.second, s.requests, s.failed = int(time.Since(b.began).Seconds()), int(b.sent.Load()), b.failed
	b.scanned += found.Bytes
	b.samples = append(b.samples, s)
}

// rest waits until all connections are closed and ok accepts what is measured.
func (b *build) rest(ok func(sample) bool) (s sample, err error) {
	late := await("no request, connection, descriptor or goroutine is left", func() bool {
		b.clients[0].CloseIdleConnections()
		b.clients[1].CloseIdleConnections()
		b.upstream.CloseIdle()
		s, err = b.measure()
		return err == nil && s.idle && b.upstream.Open() == 0 && ok(s)
	})
	return s, errors.Join(err, late)
}

// warmUp sends requests of each kind until the runtime has started the goroutines of its first garbage collection, and
// measures the process at rest.
func (b *build) warmUp(ctx context.Context) (err error) {
	last := sample{}
	for round := uint64(0); last.collections == 0 && b.failed == 0 && ctx.Err() == nil; round++ {
		for _, k := range kinds {
			b.do(ctx, k, newRandom(round))
		}
		if last, err = b.measure(); err != nil {
			return err
		}
	}
	b.before, err = b.rest(func(s sample) bool {
		defer func() { last = s }()
		return s.values[descriptors] == last.values[descriptors] && s.values[goroutines] == last.values[goroutines]
	})
	if b.failed > 0 {
		err = errors.New("a request failed before the load")
	}
	return err
}

// finish checks that nothing is left of the load, that the proxy has recorded each request, and that it ends as it
// should, without a key in its log or audit log, or a race.
func (b *build) finish() {
	var err error
	b.after, err = b.rest(func(s sample) bool {
		return s.values[descriptors] <= b.before.values[descriptors] && s.values[goroutines] <= b.before.values[goroutines]
	})
	b.check(err)
	if n := int(b.sent.Load()); b.after.recorded != n {
		b.problem("%d requests were sent, and %d recorded", n, b.after.recorded)
	}
	b.cmd.Process.Signal(unix.SIGTERM)
	late := time.AfterFunc(timeout, b.kill)
	b.check(b.cmd.Wait()) // 66 after a race
	late.Stop()
	b.share = 100 * (b.cmd.ProcessState.UserTime() + b.cmd.ProcessState.SystemTime()).Seconds() / duration.Seconds()
	for _, name := range []string{"log", "audit"} {
		found, err := memscan.File(b.file(name), []byte(b.keys[0]+b.keys[1]))
		if err != nil || found.Bytes == 0 || found.Full+found.Fragments > 0 {
			b.problem("%s: %+v, error %v", name, found, err)
		}
	}
	if races, err := os.ReadDir(b.file("races")); err != nil || len(races) > 0 {
		b.problem("races: %v, error %v", races, err)
	}
	if n := b.logged("internal_error") + len(b.upstream.Faults()); n > 0 {
		b.problem("internal errors, or malformed requests at the upstream: %d, %q", n, b.upstream.Faults())
	}
}
