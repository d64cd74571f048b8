//go:build systems

package systems

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/launch"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

const (
	key = "sk-made-up-0123456789abcdefghijklmnopqrstuvwxyz"

	// patience is for what must happen; an emulated processor is slow.
	patience = time.Minute
)

var (
	// command is an emulator and the program, separated by spaces.
	command = strings.Fields(os.Getenv("SYSTEMS_COMMAND"))
	// system is the program's GOOS.
	system = os.Getenv("SYSTEMS_GOOS")
	// protections must be in the start line.
	protections = strings.Fields(os.Getenv("SYSTEMS_PROTECTIONS"))
)

// start starts the program before a fake upstream with TLS. input is what it reads before the end of the line.
func start(t *testing.T, input string, flags ...string) (*launch.Proxy, *openaitest.Server, error) {
	t.Helper()
	dir := t.TempDir()
	up, err := openaitest.Start(openaitest.Options{Key: key, TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(up.Close)
	ca, info := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "info.json")
	if err := os.WriteFile(ca, up.CAPEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	args := slices.Concat(command[1:], []string{"--upstream-url", up.URL(), "--ca-file", ca, "--server-info", info}, flags)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p, err := launch.Start(ctx, exec.Command(command[0], args...), []byte(input), info, true)
	if err == nil {
		t.Cleanup(p.Close)
	}
	return p, up, err
}

func mustStart(t *testing.T, input string, flags ...string) (*launch.Proxy, *openaitest.Server) {
	t.Helper()
	p, up, err := start(t, input, flags...)
	if err != nil {
		t.Fatal(err)
	}
	return p, up
}

// refuses requires that the program does not start, and what it prints.
func refuses(t *testing.T, input, want string, flags ...string) {
	t.Helper()
	_, _, err := start(t, input, flags...)
	var ended *launch.EndedError
	if !errors.As(err, &ended) || !strings.Contains(ended.Output, want) {
		t.Errorf("%q: %v; want %q", flags, err, want)
		return
	}
	t.Logf("%s\n%s", strings.Join(flags, " "), ended.Output)
}

func url(p *launch.Proxy, path string) string {
	return "http://127.0.0.1:" + strconv.Itoa(p.Port) + path
}

// post sends a request and returns the response's status and body.
func post(t *testing.T, p *launch.Proxy, body string) (int, string) {
	t.Helper()
	client := http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	res, err := client.Post(url(p, "/v1/responses"), "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// line waits for a line of the program's output.
func line(t *testing.T, p *launch.Proxy, text string) string {
	t.Helper()
	line, err := p.AwaitLine(proctest.Within(t, patience), text)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// ends waits for the end of the program.
func ends(t *testing.T, p *launch.Proxy) {
	t.Helper()
	select {
	case <-p.Ended:
	case <-time.After(patience):
		t.Fatalf("it does not end: %s", p.Output)
	}
}

// TestServe: the program starts with the expected protections, passes a stream on, sends a request over another
// connection after the upstream has closed the first, and stops on GET /shutdown.
func TestServe(t *testing.T) {
	p, up := mustStart(t, key, "--http-shutdown")
	words := strings.Fields(line(t, p, " protections "))
	for _, want := range protections {
		if !slices.Contains(words, want) {
			t.Errorf("the start line has no %s", want)
		}
	}
	t.Log(strings.Join(words[slices.Index(words, "protections"):], " "))
	status, text := post(t, p, `{"input":"hello","stream":true}`)
	if status != http.StatusOK || !strings.Contains(text, "event: response.completed") {
		t.Errorf("a stream: %d %s", status, text)
	}
	up.CloseIdle()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := up.AwaitOpen(ctx, 0); err != nil {
		t.Error(err)
	}
	if status, text := post(t, p, `{"input":"hello"}`); status != http.StatusOK || !strings.Contains(text, `"completed"`) {
		t.Errorf("after the upstream has closed the connection: %d %s", status, text)
	}
	res, err := http.Get(url(p, "/shutdown"))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	ends(t, p)
	line(t, p, " stopped")
}

// TestLimits: limits that do not depend on the user.
func TestLimits(t *testing.T) {
	p, _ := mustStart(t, key, "--max-body", "100", "--max-requests", "2")
	if status, text := post(t, p, `{"input":"`+strings.Repeat("x", 200)+`"}`); status != http.StatusRequestEntityTooLarge {
		t.Errorf("a body over --max-body: %d %s", status, text)
	}
	for range 2 {
		if status, text := post(t, p, `{"input":"hello"}`); status != http.StatusOK {
			t.Errorf("%d %s", status, text)
			break
		}
	}
	ends(t, p)
}

// TestKey: a key that ends in CRLF is accepted; a byte-order mark before it, or UTF-16, is refused with what to do.
func TestKey(t *testing.T) {
	p, _ := mustStart(t, key+"\r")
	if status, text := post(t, p, `{"input":"hello"}`); status != http.StatusOK {
		t.Errorf("a key with CRLF: %d %s", status, text)
	}
	refuses(t, "\ufeff"+key+"\r", "without the byte-order mark before it")
	utf16 := []byte("\xff\xfe")
	for _, c := range []byte(key) {
		utf16 = append(utf16, c, 0)
	}
	refuses(t, string(utf16), "is it UTF-16?")
}

// TestStrict: --protection strict does not start without all protections; the message names the alternative.
func TestStrict(t *testing.T) {
	refuses(t, key, "--protection auto", "--protection", "strict")
}

// TestUsers: on Windows, where no system call reports a client's user, flags that need one are refused.
func TestUsers(t *testing.T) {
	if system != "windows" {
		return
	}
	for _, flags := range []string{"--allow-user self", "--allow-user alice", "--allow-user @1000", "--http-shutdown=self", "--rate 5",
		"--max-concurrent-per-user 2", "--max-tokens-per-user 1000"} {
		refuses(t, key, "this system does not report which user calls", strings.Fields(flags)...)
	}
	refuses(t, key, "unix sockets are not supported here", "--port", "0", "--listen", `unix:C:\proxy.sock`)
}
