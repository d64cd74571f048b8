package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// command is the program that the demo shows.
const command = "github.com/responses-api-proxy/responses-api-proxy/cmd/responses-api-proxy"

// build returns the proxy's binary: ready, if it is given, or built.
func (st *stage) build(ctx context.Context, ready string) (string, error) {
	if ready != "" {
		return filepath.Abs(ready)
	}
	st.printf("Building the proxy (a minute, the first time) ... ")
	start := time.Now()
	binary := filepath.Join(st.dir, "responses-api-proxy")
	if runtime.GOOS == "windows" {
		binary += ".exe"
	}
	if err := goBuild(ctx, binary); err != nil {
		st.printf("\n")
		return "", err
	}
	st.printf("built in %.1f s\n", time.Since(start).Seconds())
	return binary, nil
}

// goBuild builds the proxy as releases are built, but for the stamp of the
// commit: git refuses to tell root about another user's checkout.
func goBuild(ctx context.Context, binary string) error {
	if _, err := exec.LookPath("go"); err != nil {
		return errors.New("no go command in PATH, which builds the proxy; give a built one with -proxy FILE")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, buildLimit, fmt.Errorf("building the proxy took longer than %v", buildLimit))
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", binary, command)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	// The go command ends its compilers when it is asked to stop, and could not
	// if it were killed.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("cannot build the proxy (%w); run the demo in a checkout of its module:\n%s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
