package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/launch"
)

// A child is a proxy that runs beside the demo.
type child struct {
	name string
	*launch.Proxy
}

// startProxy starts the binary as an operator would.
func (st *stage) startProxy(ctx context.Context, binary string) (*child, error) {
	info := filepath.Join(st.dir, "proxy.json")
	cmd := exec.Command(binary, "--upstream-url", st.upstream.URL(), "--server-info", info, "--drain-timeout", "1s")
	return st.start(ctx, "the proxy", cmd, info)
}

// startNaive starts this program again, as the proxy that anybody would write.
func (st *stage) startNaive(ctx context.Context) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	info := filepath.Join(st.dir, "naive.json")
	return st.start(ctx, "the ReverseProxy", exec.Command(self, naiveCommand, st.upstream.URL(), info), info)
}

// start gives cmd the key on standard input, which ends with the demo, and waits
// until it listens.
func (st *stage) start(ctx context.Context, name string, cmd *exec.Cmd, info string) (*child, error) {
	cmd.Env = childEnv(os.Environ(), st.caFile())
	p, err := launch.Start(ctx, cmd, []byte(st.key), info, false)
	var ended *launch.EndedError
	switch {
	case errors.As(err, &ended):
		first, _, _ := strings.Cut(ended.Output, "\n")
		return nil, fmt.Errorf("%s ended at its start (%v): %s", name, ended.Err, first)
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, fmt.Errorf("cannot start %s: %w", name, err)
	}
	return &child{name, p}, nil
}

// childEnv is the environment of a proxy that must reach the fake upstream, and
// must not have a key from elsewhere.
func childEnv(environ []string, ca string) []string {
	env := []string{"SSL_CERT_FILE=" + ca}
	for _, v := range environ {
		name, _, _ := strings.Cut(strings.ToUpper(v), "=")
		if name != "OPENAI_API_KEY" && name != "SSL_CERT_FILE" && name != "SSL_CERT_DIR" && !strings.HasSuffix(name, "_PROXY") {
			env = append(env, v)
		}
	}
	return env
}

func (c *child) url() string { return fmt.Sprintf("http://127.0.0.1:%d/v1/responses", c.Port) }
