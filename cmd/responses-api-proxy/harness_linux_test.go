package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// nobody is the user that scripts use when root runs them, and stranger another.
const (
	nobody   = 65534
	stranger = 65533
)

// helperPrograms are started by the harness, as the test binary itself.
var helperPrograms = map[string]func(){
	"no-memfd-secret": noMemfdSecret,
	"peep":            peep,
	"failed-start":    failedStart,
	"flooder":         flooder,
}

// systemCommands are the commands that inspect the proxy through the kernel.
var systemCommands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"waiting":   positive((*world).cmdWaiting),
	"orphan":    positive((*world).cmdOrphan),
	"listens":   positive((*world).cmdListens),
	"sealed":    positive((*world).cmdSealed),
	"keyless":   positive((*world).cmdKeyless),
	"ignores":   positive((*world).cmdIgnores),
	"nocore":    positive((*world).cmdNoCore),
	"deafstdin": positive((*world).cmdDeafStdin),
	"plant":     positive((*world).cmdPlant),
	"mode":      positive((*world).cmdMode),
	"heads":     positive((*world).cmdHeads),
	"flooded":   positive((*world).cmdFlooded),
}

func asNobody(cmd *exec.Cmd) {
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
}

func inNamespace(cmd *exec.Cmd) {
	maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 unix.CLONE_NEWUSER,
		UidMappings:                maps,
		GidMappings:                maps,
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{},
	}
}

func hasSecretMemory() error {
	fd, err := unix.MemfdSecret(unix.O_CLOEXEC)
	if err != nil {
		return fmt.Errorf("memfd_secret: %w", err)
	}
	return unix.Close(fd)
}

// waiting WORDS... starts the proxy with the beginning of a key, and waits
// until it has taken that and waits for the rest.
func (w *world) cmdWaiting(args []string) {
	w.start(parseLaunch(w.ts, args))
	w.until("the pipe is empty", func() bool {
		w.mustRun()
		n, err := unix.IoctlGetInt(int(w.p.stdin.Fd()), unix.TIOCINQ)
		w.ts.Check(err)
		return n == 0
	})
}

// deafstdin checks that the proxy has given up its end of standard input's pipe,
// although the script never closed the other.
func (w *world) cmdDeafStdin([]string) {
	w.until("nobody has the pipe's other end", func() bool {
		fds := []unix.PollFd{{Fd: int32(w.p.stdin.Fd()), Events: unix.POLLOUT}}
		_, err := unix.Poll(fds, 0)
		return err == nil && fds[0].Revents&unix.POLLERR != 0
	})
	if os.Geteuid() != 0 {
		return
	}
	if to, err := os.Readlink(w.proc("fd/0")); err != nil || to != os.DevNull {
		w.ts.Fatalf("standard input is %q (%v)", to, err)
	}
}

func (w *world) proc(name string) string { return fmt.Sprintf("/proc/%d/%s", w.p.os.Pid, name) }

// orphan SCRIPT runs a shell script that leaves a proxy behind, as GitHub's
// runner runs a step, and takes the proxy over. Its server-info is info.json.
func (w *world) cmdOrphan(args []string) {
	// Orphans become ours, and so do their exit codes.
	w.ts.Check(unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	p := &process{exited: make(chan struct{}), out: w.ts.MkAbs("out.txt"), log: w.ts.MkAbs("log.txt"), window: w.window(&launch{})}
	w.runStep(p, w.ts.MkAbs(args[0]))
	var pid int
	w.until("the server-info is there", func() bool {
		b, _ := os.ReadFile(w.ts.MkAbs("info.json"))
		match := exactInfo.FindSubmatch(b)
		if match == nil {
			return false
		}
		p.port = string(match[1])
		pid, _ = strconv.Atoi(string(match[2]))
		return true
	})
	w.adopt(p, pid)
	w.ts.Setenv("PORT", p.port)
	w.ts.Setenv("PID", strconv.Itoa(pid))
	w.checkFirstLine()
}

// adopt makes the orphan pid the script's proxy. Its parent may be a subshell,
// which is the orphan then, and ends as it does.
func (w *world) adopt(p *process, pid int) {
	var err error
	p.os, err = os.FindProcess(pid)
	w.ts.Check(err)
	w.p = p
	status, err := os.ReadFile(w.proc("status"))
	w.ts.Check(err)
	orphan := p.os
	parent, err := strconv.Atoi(string(regexp.MustCompile(`(?m)^PPid:\s*(\d+)$`).FindSubmatch(status)[1]))
	w.ts.Check(err)
	if parent != os.Getpid() {
		orphan, err = os.FindProcess(parent)
		w.ts.Check(err)
	}
	go func() {
		p.state, _ = orphan.Wait()
		close(p.exited)
	}()
}

// runStep runs a step's script to its end; what it leaves behind keeps its
// standard output and error.
func (w *world) runStep(p *process, script string) {
	shell := []string{"bash", "-e", "-o", "pipefail"}
	if _, err := exec.LookPath("bash"); err != nil {
		shell = []string{"sh", "-e"}
	}
	cmd := exec.Command(shell[0], append(shell[1:], script)...)
	cmd.Dir, cmd.Env = w.ts.MkAbs("."), environment(w.ts)
	for _, name := range []string{"UPSTREAM_URL", "SERVER_INFO_FILE"} {
		cmd.Env = append(cmd.Env, name+"="+w.ts.Getenv(name))
	}
	out, err := os.Create(p.out)
	w.ts.Check(err)
	defer out.Close()
	log, err := os.Create(p.log)
	w.ts.Check(err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = out, log
	w.ts.Check(cmd.Run())
}

// listens checks that the process that the server-info names is the one that
// holds the listening socket, and that it listens nowhere else.
func (w *world) cmdListens([]string) {
	if os.Geteuid() != 0 {
		return // only root can read the descriptors; see sealed
	}
	fds, err := os.ReadDir(w.proc("fd"))
	w.ts.Check(err)
	var held []string
	for _, fd := range fds {
		to, _ := os.Readlink(w.proc("fd/" + fd.Name()))
		if inode, ok := strings.CutPrefix(to, "socket:["); ok {
			held = append(held, strings.TrimSuffix(inode, "]"))
		}
	}
	var addresses []string
	for _, file := range []string{"net/tcp", "net/tcp6"} {
		table, _ := os.ReadFile(w.proc(file)) // there may be no IPv6
		for line := range strings.Lines(string(table)) {
			const local, state, inode, listen = 1, 3, 9, "0A"
			f := strings.Fields(line)
			if len(f) > inode && f[state] == listen && slices.Contains(held, f[inode]) {
				addresses = append(addresses, f[local])
			}
		}
	}
	port, err := strconv.Atoi(w.p.port)
	w.ts.Check(err)
	if want := fmt.Sprintf("0100007F:%04X", port); len(addresses) != 1 || addresses[0] != want {
		w.ts.Fatalf("process %d listens on %q, want %s alone", w.p.os.Pid, addresses, want)
	}
}

// The ways into a process. The last ones are shut by Yama for processes that
// are no child, whether they are dumpable or not.
var (
	lookWays   = []string{"environ", "maps", "fd", "exe", "cwd"}
	attachWays = []string{"mem", "process_vm_readv", "ptrace", "pidfd_getfd"}
)

// sealed checks that a process of the same, ordinary user cannot read or trace
// the proxy, which must have been started with "+nobody". The same attempts at an
// unprotected process show that they can succeed.
func (w *world) cmdSealed([]string) {
	cat := exec.Command("cat")
	asNobody(cat)
	in, err := cat.StdinPipe()
	w.ts.Check(err)
	w.ts.Check(cat.Start())
	defer cat.Wait()
	defer in.Close()
	want := lookWays
	if scope, _ := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope"); len(scope) == 0 || scope[0] == '0' {
		want = append(slices.Clone(lookWays), attachWays...)
	}
	if got := w.peepAt(cat.Process.Pid); !slices.Equal(got, want) {
		w.ts.Fatalf("the control: ways into an unprotected process: %q, want %q", got, want)
	}
	if got := w.peepAt(w.p.os.Pid); len(got) > 0 {
		w.ts.Fatalf("ways into the proxy: %q", got)
	}
}

// peepAt returns the ways into a process that are open.
func (w *world) peepAt(pid int) []string {
	cmd := exec.Command(filepath.Join(w.ts.Getenv("BIN"), "peep"), strconv.Itoa(pid))
	cmd.Env = append(environment(w.ts), "GOCOVERDIR="+writableDirectory(w.ts))
	asNobody(cmd)
	out, err := cmd.Output()
	w.ts.Check(err)
	return strings.Fields(string(out))
}

// peep is a program: it prints the ways into process os.Args[1] that are open.
func peep() {
	runtime.LockOSThread() // ptrace is a matter between threads
	pid, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	for _, way := range append(slices.Clone(lookWays), attachWays...) {
		if try(way, pid) == nil {
			fmt.Println(way)
		}
	}
}

func try(way string, pid int) (err error) {
	path := fmt.Sprintf("/proc/%d/%s", pid, way)
	switch way {
	case "environ", "maps":
		_, err = os.ReadFile(path)
	case "fd":
		_, err = os.ReadDir(path)
	case "exe", "cwd":
		_, err = os.Readlink(path)
	case "mem":
		_, err = os.Open(path)
	case "process_vm_readv":
		_, err = unix.ProcessVMReadv(pid, local(), []unix.RemoteIovec{{Base: 0, Len: 1}}, 0)
		if err == unix.EFAULT { // allowed, but there is nothing at 0
			err = nil
		}
	case "ptrace":
		err = unix.PtraceSeize(pid)
	case "pidfd_getfd":
		var fd int
		if fd, err = unix.PidfdOpen(pid, 0); err == nil {
			_, err = unix.PidfdGetfd(fd, 0, 0)
		}
	}
	return err
}

func local() []unix.Iovec {
	var b [1]byte
	return []unix.Iovec{{Base: &b[0], Len: 1}}
}

// keyless checks that the key is not in what every user, or root, can read of the
// process outside its memory.
func (w *world) cmdKeyless([]string) {
	files := []string{"cmdline", "comm", "status"}
	if os.Geteuid() == 0 {
		files = append(files, "environ")
	}
	for _, file := range files {
		b, err := os.ReadFile(w.proc(file))
		w.ts.Check(err)
		if bytes.Contains(b, []byte(canary[8:])) {
			w.ts.Fatalf("the key is in %s", w.proc(file))
		}
	}
}

// ignores SIGNAL... checks that the kernel drops the signals.
func (w *world) cmdIgnores(args []string) {
	status, err := os.ReadFile(w.proc("status"))
	w.ts.Check(err)
	match := regexp.MustCompile(`(?m)^SigIgn:\s*([0-9a-f]+)$`).FindSubmatch(status)
	mask, err := strconv.ParseUint(string(match[1]), 16, 64)
	w.ts.Check(err)
	for _, name := range args {
		if mask&(1<<(signals[name]-1)) == 0 {
			w.ts.Fatalf("SIG%s is not ignored: %x", name, mask)
		}
	}
}

// nocore checks that a crash leaves no core, and that the limit cannot be raised
// again.
func (w *world) cmdNoCore([]string) {
	limits, err := os.ReadFile(w.proc("limits"))
	w.ts.Check(err)
	if !regexp.MustCompile(`(?m)^Max core file size\s+0\s+0\s`).Match(limits) {
		w.ts.Fatalf("limits:\n%s", limits)
	}
}

// plant link FILE TARGET and plant file FILE make a directory that every user may
// write to, and in it a symbolic link or a file that another user owns. They need
// root.
func (w *world) cmdPlant(args []string) {
	file := w.ts.MkAbs(args[1])
	dir := filepath.Dir(file)
	w.ts.Check(os.MkdirAll(dir, 0o755))
	w.ts.Check(os.Chmod(dir, 0o777|os.ModeSticky))
	if args[0] == "link" {
		w.ts.Check(os.Symlink(w.ts.MkAbs(args[2]), file))
	} else {
		w.ts.Check(os.WriteFile(file, []byte("planted\n"), 0o666))
	}
	w.ts.Check(os.Lchown(file, stranger, stranger))
}

// headLines are field lines by the name of their shape: ordinary ones, and those
// of heads of about the maximum size.
var headLines = map[string]string{
	"ordinary": "User-Agent: test\r\nX-Trace: " + strings.Repeat("a", 200) + "\r\n",
	"value":    "X: " + strings.Repeat("a", 250_000) + "\r\n",
	"fields":   strings.Repeat("X-Name: "+strings.Repeat("a", 980)+"\r\n", 250),
	"empty":    strings.Repeat("a:\r\n", 65_000),
	"options":  "Connection: " + strings.Repeat("a,", 120_000) + "b\r\n",
	"long":     "Connection: " + strings.Repeat(strings.Repeat("a", 980)+",", 250) + "b\r\n",
	"offers": "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
		"Sec-WebSocket-Protocol: " + strings.Repeat("a,", 120_000) + "b\r\n",
}

// heads N MIB SHAPE... opens N requests of each shape at a time, which the
// upstream must leave unanswered. The requests that are not refused, and the
// remains of the others, must not make the proxy's memory grow by more than MIB.
func (w *world) cmdHeads(args []string) {
	n, err := strconv.Atoi(args[0])
	w.ts.Check(err)
	limit, err := strconv.Atoi(args[1])
	w.ts.Check(err)
	before := w.resident()
	for _, shape := range args[2:] {
		seen := w.upstream.Count()
		method, refused := "POST", 0
		if shape == "offers" {
			method = "GET"
		}
		for range n {
			c := w.dial()
			w.crowd = append(w.crowd, c)
			io.WriteString(c, method+" /v1/responses HTTP/1.1\r\nHost: 127.0.0.1:"+w.p.port+"\r\n"+headLines[shape]+"\r\n")
			w.until("the head is refused or sent on", func() bool {
				if w.upstream.Count()-seen+refused == len(w.crowd) {
					return true
				}
				if waiting(c) {
					refused++
				}
				return false
			})
		}
		grown := w.resident() - before
		w.ts.Logf("%d requests with the head %q, %d of them refused: %d KiB", n, shape, refused, grown>>10)
		if grown > limit<<20 {
			w.ts.Fatalf("%d requests with the head %q cost %d MiB", n, shape, grown>>20)
		}
		w.leave()
	}
}

// waiting reports whether a response, or the end, has come.
func waiting(c net.Conn) bool {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return false
	}
	fds := []unix.PollFd{{Events: unix.POLLIN}}
	raw.Control(func(fd uintptr) {
		fds[0].Fd = int32(fd)
		unix.Poll(fds, 0)
	})
	return fds[0].Revents != 0
}

// resident is the memory that the proxy has, in bytes.
func (w *world) resident() int {
	status, err := os.ReadFile(w.proc("status"))
	w.ts.Check(err)
	kib, err := strconv.Atoi(string(regexp.MustCompile(`(?m)^VmRSS:\s*(\d+) kB$`).FindSubmatch(status)[1]))
	w.ts.Check(err)
	return kib << 10
}

// mode FILE prints a file's inode and mode.
func (w *world) cmdMode(args []string) {
	var st unix.Stat_t
	w.ts.Check(unix.Stat(w.ts.MkAbs(args[0]), &st))
	fmt.Fprintf(w.ts.Stdout(), "%d %o\n", st.Ino, st.Mode)
}

// noMemfdSecret is a program: it becomes os.Args[1], for which the kernel has
// no memfd_secret(2).
func noMemfdSecret() {
	runtime.LockOSThread() // a filter belongs to a thread, and outlives exec
	const number = 0       // offsetof(struct seccomp_data, nr)
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_MEMFD_SECRET, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	must(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	must(unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0))
	path, err := exec.LookPath(os.Args[1])
	must(err)
	must(unix.Exec(path, os.Args[1:], os.Environ()))
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
}
