package keyleak

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFaults checks that a fault of the program itself prints neither stacks nor registers, nor anything else. With the
// sandbox off, for debugging, it does, which shows that Go reports these faults in this way.
func TestFaults(t *testing.T) {
	needRoot(t)
	const unmapped = 8
	for _, fault := range []struct {
		name   string
		at     func(*testing.T, int) uint64
		report string // as it begins with the sandbox off
	}{
		{"SIGTRAP", padding, "SIGTRAP: trace trap\n"},
		{"SIGSEGV", func(*testing.T, int) uint64 { return unmapped }, "SIGSEGV: segmentation violation\n"},
	} {
		t.Run(fault.name, func(t *testing.T) {
			if got := faultReport(t, fault.at, "--user", "nobody", "--protection=strict"); got != "" {
				t.Errorf("it says:\n%s", got)
			}
			got := faultReport(t, fault.at, "--protection=off")
			if !strings.Contains(got, fault.report) || !strings.Contains(got, "\ngoroutine ") || !strings.Contains(got, "\nrip ") {
				t.Errorf("with the sandbox off it says:\n%s", got)
			}
		})
	}
}

// faultReport starts the program, uses it, resumes its first thread at an address that is not code, and returns the
// program's report of the fault.
func faultReport(t *testing.T, at func(*testing.T, int) uint64, args ...string) string {
	t.Helper()
	r := newRig(t, plain, "", args...)
	if err := r.expect(20, 4, "sse n=2", 200); err != nil {
		t.Fatal(err)
	}
	r.awaitOutput(t, " protections ")
	r.rest(t)
	before := r.written()
	pid := r.cmd.Process.Pid
	if err := goOn(pid, at(t, pid)); err != nil {
		t.Fatal(err)
	}
	if code := r.wait().ExitCode(); code != 2 {
		t.Errorf("exit code %d", code)
	}
	r.checkOutput(t)
	return strings.TrimPrefix(r.written(), before)
}

// padding returns the address of an instruction that traps: what stands between
// functions.
func padding(t *testing.T, pid int) uint64 {
	t.Helper()
	const text = 0x401000 // of every Go program that is not position-independent
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	page := make([]byte, 64<<10)
	if _, err := mem.ReadAt(page, text); err != nil {
		t.Fatal(err)
	}
	trap := bytes.Index(page, bytes.Repeat([]byte{0xcc}, 8))
	if trap < 0 {
		t.Fatal("there is no padding between functions")
	}
	return uint64(text + trap)
}

// goOn lets a thread that waits in a system call go on at an address.
func goOn(tid int, address uint64) error {
	runtime.LockOSThread() // the tracer is a thread
	defer runtime.UnlockOSThread()
	if err := unix.PtraceAttach(tid); err != nil {
		return err
	}
	defer unix.PtraceDetach(tid)
	var status unix.WaitStatus
	if _, err := unix.Wait4(tid, &status, unix.WALL, nil); err != nil {
		return err
	}
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &regs); err != nil {
		return err
	}
	regs.Rip, regs.Orig_rax = address, ^uint64(0) // the call is not made again
	return unix.PtraceSetRegs(tid, &regs)
}
