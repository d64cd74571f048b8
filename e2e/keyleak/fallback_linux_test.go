package keyleak

import (
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// TestFallback runs the program where the kernel has no secret memory. Root can then read one copy, at the announced
// address, and nothing else.
func TestFallback(t *testing.T) {
	proctest.NeedRoot(t, "read another process's memory")
	for _, w := range []wire{plain, modern} {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, w, noSecretMemory)
			r.awaitOutput(t, "WARN the key lies in locked memory, which root can read")
			for _, p := range usual {
				if err := p.run(r); err != nil {
					t.Errorf("%s: %v", p.name, err)
				}
				r.rest(t)
				if got := r.scan(t, key); got.Full != 1 || got.Fragments != 0 {
					t.Errorf("%s: %s; want the one copy%s", p.name, counts(got), locate(r.cmd.Process.Pid, key))
				}
			}
			r.stop(t)
		})
	}
}

func TestRequireRefusesFallback(t *testing.T) {
	proctest.NeedRoot(t, "read another process's memory")
	p := launch(t, noSecretMemory, nil, "--protection=strict", "--upstream-url", "http://127.0.0.1:9/v1/responses")
	if p.addr != "" {
		t.Fatal("the program serves with a key that root can read")
	}
	if state := p.wait(); state.ExitCode() != 1 || !strings.Contains(p.written(), "no secret memory") {
		t.Errorf("%v, and it said %q", state, p.written())
	}
	p.checkOutput(t)
}

// TestNoWarningWithoutFallback is what gives the warning its worth.
func TestNoWarningWithoutFallback(t *testing.T) {
	needRoot(t)
	r := newRig(t, plain, "", "--user", "nobody", "--protection=available") // strict does not start before Linux 6.7
	if err := r.expect(1, 1, "auto", 200); err != nil {
		t.Error(err)
	}
	r.stop(t)
	if strings.Contains(r.written(), "the key lies in") {
		t.Errorf("it warns without a reason: %s", r.written())
	}
}
