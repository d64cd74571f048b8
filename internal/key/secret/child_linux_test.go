package secret

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

const nobody = 65534

func TestMain(m *testing.M) {
	proctest.Main(m, map[string]proctest.Job{"read": jobRead, "panic": jobPanic, "rotate": jobRotate})
}

// input is the descriptor from which a child reads keys.
const input = 3

// jobRead reads a key under the conditions in its environment, prints the result, and waits while its parent scans its
// memory.
func jobRead([]string) error {
	noPreemption()
	if s := os.Getenv("MEMLOCK"); s != "" {
		limitMemlock(s)
	}
	if os.Getenv("NO_MEMFD_SECRET") != "" {
		must(deny(unix.SYS_MEMFD_SECRET, unix.ENOSYS))
	}
	if os.Getenv("DROP") != "" {
		must(syscall.Setresuid(nobody, nobody, nobody))
	}
	k, err := Read(input, Config{Require: os.Getenv("POLICY") == "require"})
	if err != nil {
		fmt.Println("error:", strings.ReplaceAll(err.Error(), "\n", " "))
	} else {
		fmt.Printf("%s, %d slots, len %d, why: %v, flags: %s\n", kindOf(k), cap(k.slots), k.Len(), k.Locked(), vmFlags(memoryOf(k)))
	}
	proctest.UntilInputEnds()
	return nil
}

// noPreemption is of sandbox.Protect: the kernel saves the vector registers, which may hold part of a key, when a
// signal interrupts a thread.
func noPreemption() { signal.Ignore(unix.SIGURG) }

func kindOf(k *Key) string {
	if k.Locked() != nil {
		return "locked"
	}
	return "memfd_secret"
}

func jobPanic([]string) error {
	k, err := Read(input, Config{})
	must(err)
	s, err := k.Slot(context.Background())
	must(err)
	must(k.Line(func(line []byte) error { copy(s.Bytes(), line); return nil }))
	defer func() { panic(s) }()
	defer func() { panic(fmt.Errorf("wrapped: %v", k)) }()
	panic(k)
}

func must(err error) {
	if err != nil {
		fmt.Println("child:", err)
		os.Exit(3)
	}
}

func limitMemlock(s string) {
	var n uint64
	if _, err := fmt.Sscan(s, &n); err != nil {
		must(err)
	}
	must(unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: n, Max: n}))
}

// deny makes a system call fail with errno in every thread of this process.
func deny(call uint32, errno syscall.Errno) error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if e != 0 {
		return fmt.Errorf("seccomp: %w", e)
	}
	return nil
}

// vmFlags returns the VmFlags of b's mapping (proc_pid_smaps(5)).
func vmFlags(b []byte) string {
	f, err := os.Open("/proc/self/smaps")
	must(err)
	defer f.Close()
	at := fmt.Sprintf("%x-", uintptr(unsafe.Pointer(&b[0])))
	found := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		found = found || strings.HasPrefix(line, at)
		if flags, ok := strings.CutPrefix(line, "VmFlags: "); ok && found {
			return flags
		}
	}
	return "none"
}

// startChild starts a child with a job, keys to read, and an environment.
func startChild(t *testing.T, job, keys string, env ...string) (c *proctest.Child, stderr *strings.Builder) {
	t.Helper()
	stderr = &strings.Builder{}
	cmd := proctest.Command(job)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stderr = stderr
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{r} // input
	c, err = proctest.Start(t, cmd)
	r.Close()
	go func() {
		io.WriteString(w, keys)
		w.Close()
	}()
	if err != nil {
		t.Fatal(err)
	}
	return c, stderr
}

// childLine starts a child and returns its first line of output.
func childLine(t *testing.T, job, keys string, env ...string) string {
	t.Helper()
	c, _ := startChild(t, job, keys, env...)
	return c.Line()
}

// needSecretMemory skips a test, or fails it in CI, if the kernel has no memfd_secret(2).
func needSecretMemory(t testing.TB) {
	t.Helper()
	fd, err := unix.MemfdSecret(0)
	if err != nil {
		proctest.Cannot(t, "memfd_secret: "+err.Error())
	}
	unix.Close(fd)
}
