package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/listen"
	"github.com/responses-api-proxy/responses-api-proxy/internal/host/sandbox"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/server"
)

// TestMain: the sandbox cannot be undone in the process that runs the tests.
func TestMain(m *testing.M) {
	proctest.Main(m, map[string]proctest.Job{"sandboxed": func(args []string) error {
		serveSandboxed(args[0])
		return nil
	}})
}

// greeting is what the child reports first.
type greeting struct {
	TCP, Unix string
	Missing   []string // of the sandbox
}

func must(err error) {
	if err != nil {
		os.Stderr.WriteString("sandboxed: " + err.Error() + "\n")
		os.Exit(3)
	}
}

func serveSandboxed(dir string) {
	m := New(example())
	var listeners []net.Listener
	for _, addr := range []string{"127.0.0.1:0", "unix:" + dir + "/m"} {
		l, err := open(addr)
		must(err)
		listeners = append(listeners, l)
	}
	report, err := sandbox.Enforce(sandbox.Policy{Remove: []string{dir}})
	must(err)
	served := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() {
			served <- server.ServePages(l, func(line string) { must(errors.New(line)) }, pages(m, well)...)
		}()
	}
	var missing []string
	for _, p := range report {
		if (p.Name == "landlock" || p.Name == "seccomp") && p.State == "" {
			missing = append(missing, fmt.Sprint(p))
		}
	}
	json.NewEncoder(os.Stdout).Encode(greeting{listeners[0].Addr().String(), "unix:" + dir + "/m", missing})
	io.Copy(io.Discard, os.Stdin)
	for _, l := range listeners {
		must(errors.Join(l.Close(), <-served))
	}
}

// TestInSandbox: all that this package does after the sockets are open, it can do
// in the sandbox, the removal of the socket included.
func TestInSandbox(t *testing.T) {
	dir := filepath.Dir(strings.TrimPrefix(proctest.UnixAddr(t), "unix:"))
	c := proctest.CommandOf(proctest.Static(t), "sandboxed", dir)
	c.Env = append(os.Environ(), c.Env...)
	child, err := proctest.Start(t, c)
	if err != nil {
		t.Fatal(err)
	}
	var g greeting
	if line := child.Line(); json.Unmarshal([]byte(line), &g) != nil {
		child.End()
		t.Fatal(line, c.ProcessState)
	}
	if len(g.Missing) > 0 {
		why := fmt.Sprint("the sandbox is not whole here: ", g.Missing)
		if os.Getenv("CI") == "true" {
			t.Error(why)
		}
		t.Log("PARTLY TESTED: " + why)
	}
	for _, addr := range []string{g.TCP, g.Unix} {
		for range 3 {
			if err := errors.Join(Probe(addr, "/healthz"), Probe(addr, "/readyz")); err != nil {
				t.Error(err)
			}
			if s := scrapeOf(t, addr); s.series["process_cpu_seconds_total"] <= 0 || s.series["go_goroutines"] <= 0 {
				t.Errorf("the process is not in the scrape of %s", addr)
			}
		}
	}
	child.End()
	if !c.ProcessState.Success() {
		t.Error(c.ProcessState)
	}
	if _, err := os.Lstat(dir + "/m"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func scrapeOf(t *testing.T, addr string) *scrape {
	t.Helper()
	a, err := listen.ParseAddress(addr)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		network, name := a.Network()
		return net.Dial(network, name)
	}, DisableKeepAlives: true}
	answer, err := (&http.Client{Transport: transport, Timeout: long}).Get("http://localhost/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	s, err := parseText(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}
