package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// running is the real program, with an upstream of the test's.
type running struct {
	cmd          *exec.Cmd
	url, metrics string
	protections  string // as the start line reports them
}

// launchWith starts the program with an upstream, and returns once it listens.
func launchWith(t testing.TB, upstream string, args ...string) *running {
	t.Helper()
	return launchIn(t, nil, canary, append(args, "--upstream-url", upstream)...)
}

// launchIn starts the program in an environment, with its standard input.
func launchIn(t testing.TB, env []string, input string, args ...string) *running {
	t.Helper()
	dir := t.TempDir()
	if err := build(dir); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "responses-api-proxy"), args...)
	cmd.Env, cmd.Stdin = append([]string{}, env...), strings.NewReader(input)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
	})
	r := &running{cmd: cmd}
	r.awaitStart(t, stderr)
	return r
}

// awaitStart reads the start lines.
func (r *running) awaitStart(t testing.TB, stderr io.Reader) {
	t.Helper()
	in := bufio.NewReader(stderr)
	for line := ""; !strings.Contains(line, " protections "); {
		var err error
		if line, err = in.ReadString('\n'); err != nil {
			t.Fatalf("it does not start: %s", line)
		}
		if strings.Contains(line, "cannot") || strings.Contains(line, "rejected") {
			t.Fatalf("it does not start: %s", line)
		}
		if _, addr, ok := strings.Cut(line, "listening on "); ok {
			r.url = "http://" + strings.TrimSpace(addr) + "/v1/responses"
		}
		if _, addr, ok := strings.Cut(line, " metrics="); ok {
			r.metrics = strings.TrimSpace(addr)
		}
		if _, rest, ok := strings.Cut(line, " protections "); ok {
			r.protections = strings.TrimSpace(rest)
		}
	}
	go io.Copy(io.Discard, in)
}

// clockUpstream responds with a stream of the times at which its events were
// sent, or with a short document to requests for one.
func clockUpstream(t testing.TB, events int, pause time.Duration) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.Header.Get("Accept") != "text/event-stream" {
			io.WriteString(w, `{"id":"resp_1","model":"gpt-5","usage":{"input_tokens":11,"output_tokens":7,"total_tokens":18}}`)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for range events {
			fmt.Fprintf(w, "data: %d\n\n", time.Now().UnixNano())
			w.(http.Flusher).Flush()
			<-tick.C
		}
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL + "/v1/responses"
}

// TestProtectionsAgree checks that the metrics and the start line report the same protections.
func TestProtectionsAgree(t *testing.T) {
	r := launchWith(t, clockUpstream(t, 1, time.Millisecond), "--metrics", "127.0.0.1:0")
	words := strings.Fields(r.protections)
	if len(words) < 8 {
		t.Fatalf("the start line says only %q", r.protections)
	}
	for _, word := range words {
		name, state, _ := strings.Cut(word, "=")
		if state == "missing" {
			state = ""
		}
		metric := fmt.Sprintf("responses_api_proxy_protection_info{name=%q,state=%q}", name, state)
		if v := r.value(t, regexp.QuoteMeta(metric)); v != 1 {
			t.Errorf("%s is %v, and the start line says %s", metric, v, word)
		}
	}
}

// delays reads one stream and returns how late each event was.
func (r *running) delays(client *http.Client) (late []time.Duration, err error) {
	return r.delaysFrom(client, func() {})
}

// delaysFrom calls begun when the first event is there.
func (r *running) delaysFrom(client *http.Client, begun func()) (late []time.Duration, err error) {
	req, err := http.NewRequest("POST", r.url, strings.NewReader("{}"))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/event-stream")
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			sent, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return nil, err
			}
			if late = append(late, time.Since(time.Unix(0, sent))); len(late) == 1 {
				begun()
			}
		}
	}
	return late, nil
}

// TestSlowObserversDelayNobody checks that all streams and requests pass when the
// audit's disk is full, or readers of the audit or the metrics do not read. The
// delays are printed, with those of a proxy that has neither.
func TestSlowObserversDelayNobody(t *testing.T) {
	const streams, events, requests = 20, 50, 8000 // more than the audit keeps for better times
	upstream := clockUpstream(t, events, 10*time.Millisecond)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what     string
		args     []string
		scrapers int
		lost     bool
	}{
		{"neither audit nor metrics", nil, 0, false},
		{"both, and all is well", []string{"--audit", filepath.Join(t.TempDir(), "audit.jsonl"), "--metrics", "127.0.0.1:0"}, 0, false},
		{"a full disk", []string{"--audit", "/dev/full", "--metrics", "127.0.0.1:0"}, 0, true},
		{"a FIFO without a reader", []string{"--audit", fifo, "--metrics", "127.0.0.1:0"}, 0, true},
		{"scrapers that never read", []string{"--audit", os.DevNull, "--metrics", "127.0.0.1:0"}, 40, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := launchWith(t, upstream, c.args...)
			for range c.scrapers {
				defer r.neverRead(t).Close()
			}
			late := r.load(t, streams, requests)
			if len(late) != streams*events {
				t.Errorf("%d of %d events came", len(late), streams*events)
			}
			slices.Sort(late)
			t.Logf("delay of an event: median %v, longest %v", late[len(late)/2], late[len(late)-1])
			if c.lost && r.value(t, "responses_api_proxy_audit_lost_lines_total") == 0 {
				t.Error("no lost line was counted")
			}
		})
	}
}

// load runs streams and requests at the same time.
func (r *running) load(t *testing.T, streams, requests int) (late []time.Duration) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: patience}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var all sync.WaitGroup
	for range streams {
		all.Go(func() {
			d, err := r.delays(client)
			mu.Lock()
			defer mu.Unlock()
			late = append(late, d...)
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Go(func() {
		for range requests {
			if err := r.post(client); err != nil {
				t.Error(err)
			}
		}
	})
	all.Wait()
	return late
}

func (r *running) post(client *http.Client) error {
	res, err := client.Post(r.url, "application/json", strings.NewReader(`{"input":"hi"}`))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != 200 {
		return fmt.Errorf("status %d, %v", res.StatusCode, err)
	}
	return nil
}

// neverRead requests the metrics and does not read the response.
func (r *running) neverRead(t *testing.T) net.Conn {
	c, err := net.Dial("tcp", r.metrics)
	if err != nil {
		t.Fatal(err)
	}
	c.(*net.TCPConn).SetReadBuffer(1)
	fmt.Fprintf(c, "GET /metrics HTTP/1.1\r\nHost: %s\r\n\r\n", r.metrics)
	return c
}

// value is that of a metric, which may take a moment to be counted.
func (r *running) value(t *testing.T, name string) float64 {
	t.Helper()
	pattern := regexp.MustCompile(`(?m)^` + name + ` ([0-9.e+]+)$`)
	for deadline := time.Now().Add(patience); ; {
		res, err := http.Get("http://" + r.metrics + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if m := pattern.FindSubmatch(text); m != nil && string(m[1]) != "0" || time.Now().After(deadline) {
			if m == nil {
				t.Fatalf("there is no %s in %s", name, text)
			}
			v, _ := strconv.ParseFloat(string(m[1]), 64)
			return v
		}
	}
}

// BenchmarkObservers compares the CPU time that the program needs for a request
// with and without audit and metrics: in short turns, of which the median counts,
// since the machine's speed varies. b.N requests go to each.
func BenchmarkObservers(b *testing.B) {
	const workers, turn = 16, 1600
	upstream := clockUpstream(b, 1, time.Millisecond)
	programs := []struct {
		name string
		*running
		each []float64 // µs a request, by turn
	}{
		{name: "plain", running: launchWith(b, upstream)},
		{name: "metrics", running: launchWith(b, upstream, "--metrics", "127.0.0.1:0")},
		{name: "both", running: launchWith(b, upstream, "--metrics", "127.0.0.1:0", "--audit", filepath.Join(b.TempDir(), "audit.jsonl"))},
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	for n := 0; n < b.N; n += turn {
		for i := range programs {
			p := &programs[i]
			before := p.cpu(b)
			var all sync.WaitGroup
			for range workers {
				all.Go(func() {
					for range turn / workers {
						if err := p.post(client); err != nil {
							b.Error(err)
						}
					}
				})
			}
			all.Wait()
			p.each = append(p.each, float64((p.cpu(b)-before).Nanoseconds())/1e3/turn)
		}
	}
	for _, p := range programs {
		slices.Sort(p.each)
		b.ReportMetric(p.each[len(p.each)/2], p.name+"-µs/req")
	}
	b.ReportMetric(0, "ns/op")
}

// cpu is what the threads of the process have used so far.
func (r *running) cpu(b *testing.B) (sum time.Duration) {
	dirs, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", r.cmd.Process.Pid))
	if err != nil || len(dirs) == 0 {
		b.Fatal("no schedstat: ", err)
	}
	for _, file := range dirs {
		text, _ := os.ReadFile(file)
		ran, _, _ := strings.Cut(string(text), " ")
		n, _ := strconv.ParseInt(ran, 10, 64)
		sum += time.Duration(n)
	}
	return sum
}
