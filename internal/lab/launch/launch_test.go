package launch

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

func TestMain(m *testing.M) {
	proctest.Main(m, map[string]proctest.Job{
		"serve": func(args []string) error {
			defer proctest.UntilInputEnds()
			defer os.Stderr.WriteString("ready\n")
			return os.WriteFile(args[0], []byte(`{"port":1,"pid":2}`), 0o600)
		},
		"end": func([]string) error {
			os.Stderr.WriteString("why\n")
			return errors.New("no")
		},
		"wait": func([]string) error { proctest.UntilInputEnds(); return nil },
	})
}

// TestStart: Start succeeds only for a proxy that listens, and otherwise leaves no process.
func TestStart(t *testing.T) {
	info := filepath.Join(t.TempDir(), "info.json")
	start := func(ctx context.Context, job string) (*Proxy, *exec.Cmd, error) {
		cmd := proctest.Command(job, info)
		p, err := Start(ctx, cmd, []byte("key"), info, false)
		return p, cmd, err
	}
	p, cmd, err := start(t.Context(), "serve")
	if err != nil || p.Info != (Info{1, 2}) {
		t.Fatalf("%+v, %v", p, err)
	}
	if line, err := p.AwaitLine(t.Context(), "rea"); line != "ready" || err != nil {
		t.Errorf("%q, %v", line, err)
	}
	p.Close()
	if cmd.ProcessState == nil {
		t.Error("still there after Close")
	}
	var ended *EndedError
	if _, err := p.AwaitLine(t.Context(), "never"); !errors.As(err, &ended) {
		t.Errorf("%v", err)
	}
	os.Remove(info)
	if _, _, err := start(t.Context(), "end"); !errors.As(err, &ended) || ended.Output != "why" || ended.Err == nil {
		t.Errorf("%v, %+v", err, ended)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, cmd, err := start(ctx, "wait"); !errors.Is(err, context.Canceled) || cmd.ProcessState == nil {
		t.Errorf("%v, %v", err, cmd.ProcessState)
	}
}

// TestReadInfo: a file that no proxy writes is refused.
func TestReadInfo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "info.json")
	for text, ok := range map[string]bool{`{"port":1,"pid":2}`: true, "": false, `{"port":1`: false, `{"port":1,"pid":0}`: false,
		`{"port":65536,"pid":1}`: false, `{"port":0,"pid":1}`: false, "{}": false, "null": false} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if info, err := ReadInfo(path); (err == nil) != ok || !ok && info != (Info{}) {
			t.Errorf("%q: %+v, %v", text, info, err)
		}
	}
}

// TestEnvironment: neither a key nor a proxy gets to what is started.
func TestEnvironment(t *testing.T) {
	for _, name := range []string{"OPENAI_API_KEY", "https_proxy", "HTTP_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_DIR", "SSL_CERT_FILE", "HOME", "PATH"} {
		t.Setenv(name, "/x")
	}
	t.Setenv("TMPDIR", "")
	os.Unsetenv("TMPDIR") // until the test ends
	if got := strings.Join(Environment(), " "); got != "PATH=/x HOME=/x" {
		t.Errorf("%q", got)
	}
}

func TestOutput(t *testing.T) {
	h := &Output{}
	for range 3 {
		if n, err := h.Write(make([]byte, maxOutput-1)); n != maxOutput-1 || err != nil {
			t.Error(n, err)
		}
	}
	if n := len(h.String()); n != maxOutput {
		t.Errorf("%d bytes kept", n)
	}
}

func TestLine(t *testing.T) {
	o := &Output{}
	o.Write([]byte("one\n two: 2 \ntwo: 3"))
	if got := o.Line("two"); got != "two: 2" || o.Line("four") != "" {
		t.Errorf("%q", got)
	}
	if strings.Contains(o.Line("one"), "\n") {
		t.Error("more than a line")
	}
}
