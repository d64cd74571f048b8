package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/sandbox"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
)

// TestMain lets the scripts run the real main: the test binary calls it when
// it is started by one of these names.
func TestMain(m *testing.M) {
	programs := map[string]func(){
		"responses-api-proxy":       main,
		"codex-responses-api-proxy": main,
		"ask":                       ask,
	}
	maps.Copy(programs, helperPrograms)
	testscript.Main(m, programs)
}

func TestMaxConnections(t *testing.T) {
	for files, want := range map[int]int{0: 65536, 20: 5, 256: 64, 1024: 352, 20_000: 9840, 131_392: 65536, 1 << 30: 65536} {
		if got := maxConnections(files); got != want {
			t.Errorf("%d descriptors: %d connections, want %d", files, got, want)
		}
	}
}

// TestTimeToDrain checks that requests do not get their time twice when the proxy expires.
func TestTimeToDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate, err := policy.New(policy.Config{Limits: policy.Limits{ExpireAfter: time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		defer gate.Close()
		s := &service{opts: &options{drainTimeout: time.Minute}, gate: gate}
		for _, c := range []struct{ after, want time.Duration }{
			{0, time.Minute}, {time.Hour, time.Minute}, {time.Hour + 40*time.Second, 20 * time.Second}, {time.Hour + time.Minute, 0},
		} {
			<-time.After(c.after - time.Hour + time.Until(gate.Expires()))
			if got := s.timeToDrain(); got != c.want {
				t.Errorf("after %v: %v, want %v", c.after, got, c.want)
			}
		}
	})
}

// TestAccept: --protection refuses what it must not start without, and its error names all of it.
func TestAccept(t *testing.T) {
	old := fmt.Errorf("too old: %w", errors.ErrUnsupported)
	none := sandbox.Report{{Name: "seccomp", State: "on"}}
	some := append(none, sandbox.Protection{Name: "landlock", State: "abi3", Missing: old})
	both := append(some, sandbox.Protection{Name: "caps", Missing: errors.New("refused; ask")})
	const end = ", or use --protection auto to start with reduced protection"
	for _, c := range []struct {
		report sandbox.Report
		want   map[string]string // by the value of --protection
	}{
		{none, nil},
		{some, map[string]string{strict: "landlock=abi3: " + old.Error()}},
		{both, map[string]string{strict: "landlock=abi3: " + old.Error() + "; caps=missing: refused; ask", available: "caps=missing: refused; ask"}},
	} {
		for _, value := range []string{auto, available, strict, off} {
			o := &options{protection: value}
			want := "<nil>"
			if text := c.want[value]; text != "" {
				want = "--protection " + value + ": " + text + end
			}
			if got := fmt.Sprint(o.accept(c.report)); got != want {
				t.Errorf("%v: %s, want %s", c.report, got, want)
			}
		}
	}
}

// TestScript runs the scripts, each of which is named after what it checks.
// Their commands are in harness_test.go.
func TestScript(t *testing.T) {
	cmds := maps.Clone(commands)
	maps.Copy(cmds, systemCommands)
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		Setup:              setup,
		Cmds:               cmds,
		Condition:          condition,
		RequireUniqueNames: true,
	})
}

// condition lets a script skip what this machine cannot do. In continuous
// integration a missing ability is an error, so that each test runs somewhere.
func condition(name string) (bool, error) {
	switch name {
	case "root":
		return demand(name, isRoot)
	case "secretmem":
		return demand(name, hasSecretMemory)
	}
	return false, fmt.Errorf("unknown condition %s", name)
}

func isRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("the tests are not run by root")
	}
	return nil
}

func demand(name string, has func() error) (bool, error) {
	err := has()
	if err != nil && os.Getenv("CI") == "true" && runtime.GOOS == "linux" {
		return false, fmt.Errorf("CI=true demands %s: %w", name, err)
	}
	return err == nil, nil
}
