package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// protectFirst calls Protect, unless the environment requests a control without it, or a kernel that refuses a call:
// DENY is "call arg errno".
func protectFirst() error {
	if text := os.Getenv("DENY"); text != "" {
		var call, arg, errno uint32
		_, err := fmt.Sscan(text, &call, &arg, &errno)
		err = errors.Join(err, unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), deny(call, ^uint32(0), arg, errno))
		if err != nil {
			return err
		}
	}
	if os.Getenv("BARE") != "" {
		return nil
	}
	if os.Getenv("WAIT") != "" {
		fmt.Println("waiting")
		os.Stdin.Read(make([]byte, 1))
	}
	r, err := Protect()
	for _, p := range r {
		if p.Name == "start-window" {
			window = p.Missing
		} else if p.Missing != nil {
			err = errors.Join(err, fmt.Errorf("missing: %v", r.Missing()))
		}
	}
	report = r.String()
	return err
}

// window and report are Protect's results.
var (
	window error
	report string
)

// jobServe prints its protections and waits, as the target of an attack.
func jobServe([]string) error {
	if err := protectFirst(); err != nil {
		return err
	}
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	var core unix.Rlimit
	if err := errors.Join(err, unix.Getrlimit(unix.RLIMIT_CORE, &core)); err != nil {
		return err
	}
	fmt.Printf("dumpable %d, core %d/%d, target %x\n", dumpable, core.Cur, core.Max, uintptr(unsafe.Pointer(&target)))
	proctest.UntilInputEnds()
	return nil
}

// target is the memory that the attacker reads.
var target = [8]byte{'t', 'a', 'r', 'g', 'e', 't', '!', '!'}

// jobWindow prints whether others could have attached before protectFirst.
func jobWindow([]string) error {
	err := protectFirst()
	fmt.Printf("window: %v\n%s\n", window, report)
	return err
}

// jobAbort dies of SIGABRT with the default action, core dumps allowed.
func jobAbort([]string) error {
	err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	if err := errors.Join(err, protectFirst()); err != nil {
		return err
	}
	var byDefault struct {
		handler, flags, restorer uintptr
		mask                     uint64
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGABRT), uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
	if errno != 0 {
		return errno
	}
	if err := unix.Kill(os.Getpid(), unix.SIGABRT); err != nil {
		return err
	}
	select {}
}

// jobAttack makes the system calls of a debugger on the process PID.
func jobAttack([]string) error {
	var pid int
	var addr int64
	if _, err := fmt.Sscanf(os.Getenv("TARGET"), "%d %x", &pid, &addr); err != nil {
		return err
	}
	var into [len(target)]byte
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err == nil {
		_, err = mem.ReadAt(into[:], addr)
	}
	fmt.Printf("mem: %v\n", err)
	local := []unix.Iovec{{Base: &into[0]}}
	local[0].SetLen(len(into))
	remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(into)}}
	_, err = unix.ProcessVMReadv(pid, local, remote, 0)
	fmt.Printf("process_vm_readv: %v\n", err)
	_, err = os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	fmt.Printf("environ: %v\n", err)
	_, err = os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	fmt.Printf("fd: %v\n", err)
	runtime.LockOSThread()
	err = unix.PtraceSeize(pid)
	fmt.Printf("ptrace: %v\n", err)
	return nil
}

// startJob runs a job with only env as its environment; GOTRACEBACK in particular is not inherited.
func startJob(t *testing.T, job string, uid int, env ...string) *proctest.Child {
	t.Helper()
	return startFile(t, "/proc/self/exe", "/", job, uid, env...)
}

func startFile(t *testing.T, file, dir, job string, uid int, env ...string) *proctest.Child {
	t.Helper()
	cmd := proctest.CommandOf(file, job)
	cmd.Env, cmd.Dir = append(cmd.Env, env...), dir
	if uid != os.Geteuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	c, err := proctest.Start(t, cmd)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestProtect(t *testing.T) {
	c := startJob(t, "serve", os.Geteuid())
	if got := c.Line(); !strings.HasPrefix(got, "dumpable 0, core 0/0, ") {
		t.Errorf("the child printed %q", got)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if ignored := signals(t, string(status), "SigIgn"); ignored&(1<<(unix.SIGURG-1)) == 0 {
		t.Errorf("SIGURG is not ignored: %x", ignored)
	}
	if caught := signals(t, string(status), "SigCgt"); caught&(1<<(unix.SIGURG-1)) != 0 {
		t.Errorf("SIGURG is caught: %x", caught)
	}
}

// TestUnprotected is the control of TestProtect: without Protect none of its assertions hold.
func TestUnprotected(t *testing.T) {
	c := startJob(t, "serve", os.Geteuid(), "BARE=1")
	if got := c.Line(); !strings.HasPrefix(got, "dumpable 1, ") {
		t.Errorf("the child printed %q", got)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if ignored := signals(t, string(status), "SigIgn"); ignored&(1<<(unix.SIGURG-1)) != 0 {
		t.Errorf("SIGURG is ignored to begin with: %x", ignored)
	}
}

// signals returns one of the signal masks in /proc/PID/status.
func signals(t *testing.T, status, name string) (mask uint64) {
	t.Helper()
	_, rest, _ := strings.Cut(status, "\n"+name+":")
	if _, err := fmt.Sscanf(rest, "%x", &mask); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return mask
}

// TestSameUserIsRefused: a process of the same user cannot read the protected process, although it can read any other
// process of that user.
func TestSameUserIsRefused(t *testing.T) {
	proctest.NeedRoot(t, "start processes without privilege and without being their parent")
	for _, got := range attack(t) {
		if !strings.Contains(got, "permission denied") && !strings.Contains(got, "operation not permitted") {
			t.Errorf("%s", got)
		}
	}
	for _, got := range attack(t, "BARE=1") {
		if !strings.HasSuffix(got, ": <nil>") {
			proctest.Cannot(t, "the attack fails against an unprotected process as well: "+got)
		}
	}
}

// attack runs one process of user nobody against another.
func attack(t *testing.T, env ...string) []string {
	t.Helper()
	targetChild := startJob(t, "serve", nobody, env...)
	_, addr, ok := strings.Cut(targetChild.Line(), "target ")
	if !ok {
		t.Fatal("the targetChild did not start")
	}
	attacker := startJob(t, "attack", nobody, fmt.Sprintf("TARGET=%d %s", targetChild.Cmd.Process.Pid, strings.TrimSpace(addr)))
	var lines []string
	for _, way := range []string{"mem", "process_vm_readv", "environ", "fd", "ptrace"} {
		got := attacker.Line()
		if !strings.HasPrefix(got, way+": ") {
			t.Fatalf("the attacker printed %q and %q", lines, got)
		}
		lines = append(lines, got)
	}
	return lines
}

// TestStartWindow: the window depends on the user who starts the program and on whether that user can read the file.
func TestStartWindow(t *testing.T) {
	proctest.NeedRoot(t, "make a file that another user can run and not read")
	for _, c := range []struct {
		what string
		uid  int
		mode os.FileMode
		open bool
	}{
		{"a user who can read the file", nobody, 0o755, true},
		{"a user who cannot", nobody, 0o711, false},
		{"root", 0, 0o755, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			child := startCopy(t, c.mode, "window", c.uid)
			got := child.Line()
			if open := strings.Contains(got, "window: the program's file could be read"); open != c.open || !open && got != "window: <nil>" {
				t.Errorf("%q, want open: %t", got, c.open)
			}
			want := "dumpable=no core=no start-window=closed"
			if c.open {
				want = "dumpable=no core=no start-window=open(" + errWindow.Error() + ")"
			}
			if got := child.Line(); got != want {
				t.Errorf("it reports %q, want %q", got, want)
			}
		})
	}
}

// startCopy starts a child from a copy of the test binary with another mode, in a directory that every user can search.
func startCopy(t *testing.T, mode os.FileMode, job string, uid int, env ...string) *proctest.Child {
	t.Helper()
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(proctest.Dir(t, 0o755), "copy")
	if err := errors.Join(os.WriteFile(file, text, 0o700), os.Chmod(file, mode)); err != nil {
		t.Fatal(err)
	}
	return startFile(t, file, "/", job, uid, env...)
}

// jobCount opens performance events on itself, and on each thread of the process TARGET, of which it prints the sum for
// each byte of its input.
func jobCount([]string) error {
	_, err := openCounter(0)
	fmt.Printf("self: %v\n", err)
	threads, err := os.ReadDir("/proc/" + os.Getenv("TARGET") + "/task")
	var counters []int
	for _, thread := range threads {
		tid, _ := strconv.Atoi(thread.Name())
		var fd int
		if fd, err = openCounter(tid); err != nil {
			break
		}
		counters = append(counters, fd)
	}
	fmt.Printf("target: %v\n", err)
	for {
		if n, _ := os.Stdin.Read(make([]byte, 1)); n == 0 {
			return nil
		}
		var sum uint64
		for _, fd := range counters {
			var count [8]byte
			if _, err := unix.Read(fd, count[:]); err != nil {
				return err
			}
			sum += binary.NativeEndian.Uint64(count[:])
		}
		fmt.Println(sum)
	}
}

// openCounter opens an event that counts the CPU time of a thread, and of those that it starts. It excludes the kernel,
// which ordinary users must (perf_event_open(2)).
func openCounter(tid int) (int, error) {
	event := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_TASK_CLOCK,
		Bits: unix.PerfBitInherit | unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv}
	event.Size = uint32(unsafe.Sizeof(event))
	return unix.PerfEventOpen(&event, tid, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
}

// TestEventInTheWindow: a performance event that a process of the same user opens before Protect lasts beyond it,
// unless that user cannot read the program's file. Where the kernel opens none to ordinary users, there is no such
// attack.
func TestEventInTheWindow(t *testing.T) {
	proctest.NeedRoot(t, "make a file that another user can run and not read")
	for mode, want := range map[os.FileMode]string{0o755: "target: <nil>", 0o711: "target: permission denied"} {
		child := startCopy(t, mode, "serve", nobody, "WAIT=1")
		if got := child.Line(); got != "waiting" {
			t.Fatalf("the child printed %q", got)
		}
		attacker := startJob(t, "count", nobody, fmt.Sprint("TARGET=", child.Cmd.Process.Pid))
		if self := attacker.Line(); self != "self: <nil>" {
			t.Log("the kernel opens no performance events to this user: ", self)
			want = "target: permission denied"
		}
		if got := attacker.Line(); got != want {
			t.Errorf("mode %o: %q, want %q", mode, got, want)
			continue
		}
		child.In.Write([]byte("\n"))
		if got := child.Line(); !strings.HasPrefix(got, "dumpable 0, ") {
			t.Errorf("mode %o: the child printed %q", mode, got)
		}
		if want != "target: <nil>" {
			continue
		}
		count := func() (n int) {
			attacker.In.Write([]byte("\n"))
			n, err := strconv.Atoi(attacker.Line())
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		before := count()
		proctest.Eventually(t, "the event counts on", func() bool {
			child.In.Write(make([]byte, 1<<10))
			return count() > before
		})
	}
}

// TestTracerIsRefused: Protect fails if any thread of the process is traced.
func TestTracerIsRefused(t *testing.T) {
	c := startJob(t, "serve", os.Geteuid(), "WAIT=1")
	if got := c.Line(); got != "waiting" {
		t.Fatalf("the child printed %q", got)
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", c.Cmd.Process.Pid))
	if err != nil || len(threads) < 2 {
		t.Fatalf("%d threads (%v)", len(threads), err)
	}
	last, err := strconv.Atoi(threads[len(threads)-1].Name())
	if err != nil {
		t.Fatal(err)
	}
	tracer, err := trace(last)
	if err != nil {
		proctest.Cannot(t, "a child cannot be traced: "+err.Error())
	}
	c.In.Write([]byte("\n"))
	want := fmt.Sprintf("cannot protect the process: process or thread %d traces this process and can read its memory; start it without a debugger", tracer)
	if got := c.Line(); got != want {
		t.Errorf("the child printed %q, want %q", got, want)
	}
}

// trace traces a thread until it ends, and resumes it. It returns the id of the tracing thread.
func trace(tid int) (tracer int, err error) {
	seized := make(chan error)
	go func() {
		runtime.LockOSThread() // the tracer is a thread
		defer runtime.UnlockOSThread()
		tracer = unix.Gettid()
		seized <- unix.PtraceSeize(tid)
		for {
			var status unix.WaitStatus
			if _, err := unix.Wait4(tid, &status, unix.WALL, nil); err != nil || !status.Stopped() {
				return
			}
			unix.PtraceCont(tid, int(status.StopSignal()))
		}
	}()
	err = <-seized
	return tracer, err
}

func TestNoCoreOnAbort(t *testing.T) {
	hardened, signal := dumped(t)
	if signal != unix.SIGABRT || hardened {
		t.Errorf("signal %v, core %t", signal, hardened)
	}
	if bare, _ := dumped(t, "BARE=1"); !bare {
		proctest.Cannot(t, "no process writes a core here")
	}
}

// dumped makes a child abort and reports whether the kernel wrote a core.
func dumped(t *testing.T, env ...string) (core bool, signal syscall.Signal) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 && limit.Max != unix.RLIM_INFINITY {
		proctest.Cannot(t, "the limit on core files cannot be raised")
	}
	dir := t.TempDir()
	c := startFile(t, "/proc/self/exe", dir, "abort", os.Geteuid(), env...)
	c.End()
	status := c.Cmd.ProcessState.Sys().(syscall.WaitStatus)
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return status.CoreDump() || len(files) > 0, status.Signal()
}

// raiseCoreLimit makes the limit on core files more than 0, which children inherit, until the test ends.
func raiseCoreLimit(t *testing.T) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Max > 0 {
		return
	}
	if unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}) != nil {
		proctest.Cannot(t, "the limit on core files cannot be raised")
	}
	t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_CORE, &limit) })
}

// TestRefusalIsAnError: Protect fails if the kernel refuses a protection, or only pretends to set it.
func TestRefusalIsAnError(t *testing.T) {
	const atCWD = unix.AT_FDCWD & math.MaxUint32 // as a filter sees it
	raiseCoreLimit(t)                            // one that is 0 already needs not be set
	for _, r := range []struct {
		what, want       string
		call, arg, errno int
	}{
		{"prctl refused", "prctl(PR_SET_DUMPABLE, 0): operation not permitted", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, int(unix.EPERM)},
		{"prctl feigned", "PR_SET_DUMPABLE had no effect: it is still 1", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0},
		{"prctl not read back", "prctl(PR_GET_DUMPABLE)", unix.SYS_PRCTL, unix.PR_GET_DUMPABLE, int(unix.EPERM)},
		{"setrlimit refused", "RLIMIT_CORE", unix.SYS_PRLIMIT64, 0, int(unix.EPERM)},
		{"setrlimit feigned", "RLIMIT_CORE cannot be set to 0: it is still", unix.SYS_PRLIMIT64, 0, 0},
		{"sigaction feigned", "ignoring SIGURG had no effect", unix.SYS_RT_SIGACTION, int(unix.SIGURG), 0},
		{"no descriptor left", "traced: open /proc/self/task: too many open files; raise the limit of open files (ulimit -n)",
			unix.SYS_OPENAT, atCWD, int(unix.EMFILE)},
		{"no /proc", "traced: open /proc/self/task: no such file or directory; mount /proc", unix.SYS_OPENAT, atCWD, int(unix.ENOENT)},
	} {
		t.Run(r.what, func(t *testing.T) {
			c := startJob(t, "serve", os.Geteuid(), fmt.Sprintf("DENY=%d %d %d", r.call, r.arg, r.errno))
			got := c.Line()
			if !strings.HasPrefix(got, "cannot protect the process: ") || !strings.Contains(got, r.want) {
				t.Errorf("%q, want an error with %q", got, r.want)
			}
		})
	}
}

// TestCollectorStillWorks: with SIGURG ignored, the garbage collector can still stop a goroutine that calls functions.
func TestCollectorStillWorks(t *testing.T) {
	if os.Getenv("SANDBOX_TEST_GC") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestCollectorStillWorks$", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), "SANDBOX_TEST_GC=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	if _, err := Protect(); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	for range 4 {
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(0):
				}
			}
		}()
	}
	for range 20 {
		runtime.GC()
	}
	close(stop)
}
