package secret

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// childVar names the job for which the test binary was started again: limits,
// filters and a panic cannot be undone in the process that runs the tests.
const childVar = "SECRET_TEST_CHILD"

const nobody = 65534

var jobs = map[string]func(){
	"read":   jobRead,
	"panic":  jobPanic,
	"rotate": jobRotate,
}

func TestMain(m *testing.M) {
	if job, ok := jobs[os.Getenv(childVar)]; ok {
		job()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// jobRead reads a key from standard input in the circumstances that the
// environment names, tells what came of it, and stays until its parent has
// looked at its memory.
func jobRead() {
	if s := os.Getenv("MEMLOCK"); s != "" {
		limitMemlock(s)
	}
	if os.Getenv("NO_MEMFD_SECRET") != "" {
		must(deny(unix.SYS_MEMFD_SECRET, unix.ENOSYS))
	}
	if os.Getenv("DROP") != "" {
		must(syscall.Setresuid(nobody, nobody, nobody))
	}
	k, err := Read(0, Config{Policy: Policy(os.Getenv("POLICY"))})
	if err != nil {
		fmt.Println("error:", strings.ReplaceAll(err.Error(), "\n", " "))
	} else {
		kind, why := k.Memory()
		fmt.Printf("%s, %d slots, len %d, why: %v, flags: %s\n", kind, cap(k.slots), k.Len(), why, vmFlags(memoryOf(k)))
	}
	time.Sleep(time.Hour) // the parent ends this process
}

func jobPanic() {
	k, err := Read(0, Config{})
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

// deny makes one system call fail with errno in every thread of this process.
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

// vmFlags is what the kernel says about the mapping that b lies in.
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

// child is a copy of the test binary that does one job.
type child struct {
	cmd    *exec.Cmd
	stderr strings.Builder
	stdout *bufio.Reader
}

// startChild gives a child its standard input and its environment.
func startChild(t *testing.T, job, stdin string, env ...string) *child {
	t.Helper()
	c := &child{cmd: exec.Command("/proc/self/exe")}
	c.cmd.Env = append(env, childVar+"="+job, "GORACE=atexit_sleep_ms=0")
	c.cmd.Stdin = strings.NewReader(stdin)
	c.cmd.Stderr = &c.stderr
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.stdout = bufio.NewReader(stdout)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.cmd.Process.Kill()
		c.cmd.Wait()
	})
	return c
}

// line is the child's next line of output.
func (c *child) line(t *testing.T) string {
	t.Helper()
	s, err := c.stdout.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return s
}

// cannot ends a test that needs what this machine lacks: quietly on a
// developer's machine, loudly where nobody would notice.
func cannot(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal("this must be tested in CI, but cannot be:", why)
	}
	t.Skip(why)
}

// needSecretMemory ends a test where the kernel has no memfd_secret(2).
func needSecretMemory(t testing.TB) {
	t.Helper()
	fd, err := unix.MemfdSecret(0)
	if err != nil {
		cannot(t, "memfd_secret: "+err.Error())
	}
	unix.Close(fd)
}
