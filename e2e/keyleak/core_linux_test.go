package keyleak

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// TestDebuggersCore has gdb write a core, as root, of a program that has served
// many requests. It holds the registers of all threads as well.
func TestDebuggersCore(t *testing.T) {
	needRoot(t)
	for _, w := range []wire{plain, modern} {
		t.Run(w.name, func(t *testing.T) {
			r := newRig(t, w, "")
			if err := r.expect(500, 64, "sse n=5", 200); err != nil {
				t.Fatal(err)
			}
			core := r.core(t)
			defer os.Remove(core) // nearly 2 GB: gdb writes all that Go has reserved
			if got := search(t, key, "-file", core); got.Full+got.Fragments > 0 {
				t.Errorf("in the core: %s", counts(got))
			}
			line := "POST /v1/responses HTTP/1.1\r\nhost: " + r.upstream.Addr() + "\r\n"
			if search(t, []byte(line), "-file", core).Full == 0 {
				t.Error("the core does not hold the program's heap: it proves nothing")
			}
			r.stop(t)
		})
	}
}

// core writes a core of the running program and returns the file's name.
func (r *rig) core(t *testing.T) string {
	t.Helper()
	gcore, err := exec.LookPath("gcore")
	if err != nil {
		proctest.Cannot(t, "no gcore, which is gdb's")
	}
	r.rest(t)
	name := filepath.Join(t.TempDir(), "core")
	if out, err := exec.Command(gcore, "-o", name, fmt.Sprint(r.cmd.Process.Pid)).CombinedOutput(); err != nil {
		t.Fatalf("gcore: %v\n%s", err, out)
	}
	return name + "." + fmt.Sprint(r.cmd.Process.Pid)
}

// TestNoCoreOnCrash kills the program in the ways that leave a core, where
// the limits would allow one.
func TestNoCoreOnCrash(t *testing.T) {
	needRoot(t)
	if !coreOfOther(t) {
		proctest.Cannot(t, "this kernel writes no cores: nothing would be proved")
	}
	for _, c := range []struct {
		sig syscall.Signal
		env []string
	}{
		{unix.SIGABRT, nil},
		{unix.SIGABRT, []string{"GOTRACEBACK=crash"}},
		{unix.SIGSEGV, []string{"GOTRACEBACK=crash"}},
		{unix.SIGTRAP, []string{"GOTRACEBACK=crash"}},
	} {
		t.Run(fmt.Sprint(c.sig, c.env), func(t *testing.T) {
			t.Parallel()
			p := launch(t, coresAllowed, c.env, "--upstream-url", "http://127.0.0.1:9/v1/responses")
			p.signal(c.sig)
			state := p.wait()
			if state.Success() || state.Sys().(syscall.WaitStatus).CoreDump() {
				t.Errorf("%v", state)
			}
			if files := coresIn(t, p.cmd.Dir); len(files) > 0 {
				t.Errorf("it left %q", files)
			}
			p.checkOutput(t)
		})
	}
}

// coreOfOther reports whether another program dumps core here.
func coreOfOther(t *testing.T) bool {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "/bin/sh", "-c", "kill -ABRT $$")
	cmd.Env = []string{wrapEnv + "=" + coresAllowed}
	cmd.Dir = t.TempDir()
	cmd.Run()
	return cmd.ProcessState.Sys().(syscall.WaitStatus).CoreDump()
}

func coresIn(t *testing.T, dir string) (cores []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.Contains(e.Name(), "core") {
			cores = append(cores, e.Name())
		}
	}
	return cores
}
