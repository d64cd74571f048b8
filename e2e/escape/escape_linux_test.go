//go:build amd64 || arm64

package escape

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

const (
	nobody = 65534
	cwd    = 0xffffffffffffff9c // AT_FDCWD
	code   = unix.PROT_READ | unix.PROT_EXEC
	stream = unix.SOCK_STREAM | unix.SOCK_CLOEXEC
)

// An attempt is a call that must be refused, and who refuses it.
type attempt struct {
	what string
	call
	by unix.Errno
}

const (
	seccomp  = unix.EPERM
	landlock = unix.EACCES
)

// processAttempts would start a process or a program.
func processAttempts() []attempt {
	return slices.Concat([]attempt{
		try("execve", seccomp, path("/bin/true"), unix.SYS_EXECVE, here),
		try("execveat", seccomp, path("/bin/true"), unix.SYS_EXECVEAT, cwd, here),
		try("clone to a process", seccomp, nil, unix.SYS_CLONE, uint64(unix.SIGCHLD)),
		try("clone3 to a process", seccomp, make64(0, 0, 0, 0, uint64(unix.SIGCHLD), 0, 0, 0), unix.SYS_CLONE3, here, 64),
	}, oldProcessCalls)
}

// attempts are in the target's reach if nothing refuses them, as far as there is
// a harmless way; self is its process.
func attempts(self uint64, readable string) []attempt {
	newFile := path(readable + ".new")
	return slices.Concat([]attempt{
		try("ptrace, be traced", seccomp, nil, unix.SYS_PTRACE, unix.PTRACE_TRACEME), // EPERM anyway: we trace it
		try("ptrace, peek", seccomp, nil, unix.SYS_PTRACE, unix.PTRACE_PEEKDATA, self),

		try("openat to write", seccomp, newFile, unix.SYS_OPENAT, cwd, here, unix.O_WRONLY|unix.O_CREAT, 0o600),
		try("openat to read and write", seccomp, path(readable), unix.SYS_OPENAT, cwd, here, unix.O_RDWR),
		try("openat2 to read", seccomp, path("/etc/shadow"), unix.SYS_OPENAT2, cwd, here, here, 24),
		try("openat to read, the passwords", landlock, path("/etc/shadow"), unix.SYS_OPENAT, cwd, here, unix.O_RDONLY),
		try("openat to read, anyone's file", landlock, path(readable), unix.SYS_OPENAT, cwd, here, unix.O_RDONLY),
		try("openat to read, its own memory", landlock, path("/proc/self/mem"), unix.SYS_OPENAT, cwd, here, unix.O_RDONLY),
		try("openat to read, the root directory", landlock, path("/"), unix.SYS_OPENAT, cwd, here, unix.O_RDONLY|unix.O_DIRECTORY),
		try("mount", seccomp, path(""), unix.SYS_MOUNT, here, here, here, unix.MS_BIND),
		try("fchmodat", seccomp, path(readable), unix.SYS_FCHMODAT, cwd, here, 0o777),
		try("unlinkat", seccomp, path(readable), unix.SYS_UNLINKAT, cwd, here),

		try("unix socket", seccomp, nil, unix.SYS_SOCKET, unix.AF_UNIX, stream),
		try("netlink socket", seccomp, nil, unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW),
		try("Multipath TCP socket", seccomp, nil, unix.SYS_SOCKET, unix.AF_INET, stream, unix.IPPROTO_MPTCP),

		try("prctl, dumpable", seccomp, nil, unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1),
		try("process_vm_readv", seccomp, nil, unix.SYS_PROCESS_VM_READV, self),
		try("process_vm_writev", seccomp, nil, unix.SYS_PROCESS_VM_WRITEV, self),
		try("pidfd_open", seccomp, nil, unix.SYS_PIDFD_OPEN, self),
		try("memfd_create", seccomp, path("x"), unix.SYS_MEMFD_CREATE, here, unix.MFD_CLOEXEC),
		try("memfd_secret", seccomp, nil, unix.SYS_MEMFD_SECRET, unix.O_CLOEXEC),
		try("mmap, code", seccomp, nil, unix.SYS_MMAP, 0, 4096, code, unix.MAP_PRIVATE|unix.MAP_ANON, ^uint64(0)),
		try("mprotect, code", seccomp, nil, unix.SYS_MPROTECT, 0, 0, code),
		try("io_uring_setup", seccomp, nil, unix.SYS_IO_URING_SETUP, 1, here),
		try("bpf", seccomp, nil, unix.SYS_BPF, 0, here, 0),
		try("userfaultfd", seccomp, nil, unix.SYS_USERFAULTFD, unix.O_CLOEXEC),
		try("perf_event_open", seccomp, nil, unix.SYS_PERF_EVENT_OPEN, here, 0, ^uint64(0), ^uint64(0), 0),
		try("init_module", seccomp, nil, unix.SYS_INIT_MODULE, here, 0, here),
		try("finit_module", seccomp, nil, unix.SYS_FINIT_MODULE, 0, here, 0),
		try("keyctl", seccomp, nil, unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, 0xfffffffe, 1),
		try("add_key", seccomp, path("user"), unix.SYS_ADD_KEY, here, here, here, 1, 0xfffffffe),

		try("kill, the first process", seccomp, nil, unix.SYS_KILL, 1, 0),
		try("kill, everybody", seccomp, nil, unix.SYS_KILL, ^uint64(0), 0),
		try("tkill", seccomp, nil, unix.SYS_TKILL, 1, 0),
		try("tgkill, the first process", seccomp, nil, unix.SYS_TGKILL, 1, 1, 0),
		try("setuid", seccomp, nil, unix.SYS_SETUID, 0),
		try("setresuid", seccomp, nil, unix.SYS_SETRESUID, 0, 0, 0),
		try("setgid", seccomp, nil, unix.SYS_SETGID, 0),
		try("capset", seccomp, nil, unix.SYS_CAPSET, here, here),
		try("unshare", seccomp, nil, unix.SYS_UNSHARE, unix.CLONE_NEWUSER),
		try("setns", seccomp, nil, unix.SYS_SETNS, 0, 0),
		try("seccomp", seccomp, nil, unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, here),
	}, oldCalls(readable))
}

// try makes an attempt; args may have here for the address of mem.
func try(what string, by unix.Errno, mem []byte, nr uint64, args ...uint64) attempt {
	return attempt{what, call{nr, args, mem}, by}
}

// make64 is memory of 64-bit words.
func make64(words ...uint64) (b []byte) {
	for _, w := range words {
		for range 8 {
			b, w = append(b, byte(w)), w>>8
		}
	}
	return b
}

func TestEscape(t *testing.T) {
	proctest.NeedRoot(t, "make another process's system calls")
	for _, c := range []struct {
		what string
		args []string
		uid  int
	}{
		{"as nobody", []string{"--user", "nobody", "--protection=available"}, nobody},
		{"as root", nil, 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			v := launch(t, c.args...)
			v.serves(t)
			v.controls(t)
			file := readable(t)
			for _, a := range slices.Concat(processAttempts(), attempts(uint64(v.pid), file)) {
				v.refuses(t, a.what, v.inject(t, a.call), a.by)
			}
			v.connects(t)
			v.locked(t, c.uid)
			if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 {
				t.Errorf("its directory has %v, not the file alone (%v)", left, err)
			}
		})
	}
}

// refuses checks that an attempt has failed with the error by, and that the program still serves.
func (v *target) refuses(t *testing.T, what string, result int64, by unix.Errno) {
	t.Helper()
	if want := -int64(by); result != want {
		t.Errorf("%s: %s, want %s", what, show(result), show(want))
	}
	v.serves(t)
}

func show(result int64) string {
	if result < 0 && result > -4096 {
		return unix.ErrnoName(unix.Errno(-result))
	}
	return fmt.Sprintf("success (%d)", result)
}

// controls shows that an injected call is really made: one that is allowed has
// its result.
func (v *target) controls(t *testing.T) {
	t.Helper()
	if got := v.inject(t, call{nr: unix.SYS_GETPID}); got != int64(v.pid) {
		t.Fatalf("getpid: %s, want %d", show(got), v.pid)
	}
	fd := v.succeeds(t, "reading the resolver's file", call{unix.SYS_OPENAT, []uint64{cwd, here, unix.O_RDONLY | unix.O_CLOEXEC}, path("/etc/hosts")})
	v.succeeds(t, "close", call{nr: unix.SYS_CLOSE, args: []uint64{fd}})
}

func (v *target) succeeds(t *testing.T, what string, c call) uint64 {
	t.Helper()
	result := v.inject(t, c)
	if result < 0 {
		t.Fatalf("%s: %s", what, show(result))
	}
	v.serves(t)
	return uint64(result)
}

// connects tries what a socket that it may have is good for: the upstream's
// port, and no other.
func (v *target) connects(t *testing.T) {
	t.Helper()
	fd := v.succeeds(t, "socket", call{nr: unix.SYS_SOCKET, args: []uint64{unix.AF_INET, stream}})
	connect := func(port uint16) call { return call{unix.SYS_CONNECT, []uint64{fd, here, 16}, loopback(port)} }
	if hasPortRules() {
		v.refuses(t, "connect to another port", v.inject(t, connect(listener(t))), landlock)
	}
	v.refuses(t, "bind", v.inject(t, call{unix.SYS_BIND, []uint64{fd, here, 16}, loopback(0)}), seccomp)
	v.refuses(t, "listen", v.inject(t, call{nr: unix.SYS_LISTEN, args: []uint64{fd, 1}}), seccomp)
	v.succeeds(t, "connect to the upstream", connect(netip.MustParseAddrPort(v.upstream.Addr()).Port()))
	v.succeeds(t, "close", call{nr: unix.SYS_CLOSE, args: []uint64{fd}})
}

// hasPortRules reports whether the kernel's Landlock restricts connections, as it does from 6.7 on.
func hasPortRules() bool {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	return errno == 0 && abi >= 4
}

// anyway are the attempts that may be answered so without the sandbox too: the
// kernel, as it is set up somewhere, or the file's owner would have it so.
var anyway = []string{
	"ptrace, be traced", "openat to read, the passwords", "openat to read, its own memory", "mount", "chmod", "fchmodat",
	"io_uring_setup", "bpf", "userfaultfd", "perf_event_open", "init_module", "finit_module",
	"kill, the first process", "tkill", "tgkill, the first process", "setuid", "setresuid", "setgid", "capset", "unshare", "setns",
}

// Without the sandbox the same calls are answered in another way: it is the sandbox
// that refuses them.
func TestWithoutSandbox(t *testing.T) {
	proctest.NeedRoot(t, "make another process's system calls")
	file := readable(t)
	v := launch(t, "--user", "nobody", "--protection=off")
	for _, a := range attempts(uint64(v.pid), file) {
		if slices.Contains(anyway, a.what) {
			continue
		}
		if result := v.inject(t, a.call); result == -int64(a.by) {
			t.Errorf("%s: %s", a.what, show(result))
		}
		v.serves(t)
	}
	fd := v.succeeds(t, "socket", call{nr: unix.SYS_SOCKET, args: []uint64{unix.AF_INET, stream}})
	v.succeeds(t, "bind", call{unix.SYS_BIND, []uint64{fd, here, 16}, loopback(0)})
	v.succeeds(t, "connect to another port", call{unix.SYS_CONNECT, []uint64{fd, here, 16}, loopback(listener(t))})
}

// So are those that make processes, which nothing survives here.
func TestProcessWithoutSandbox(t *testing.T) {
	proctest.NeedRoot(t, "make another process's system calls")
	for _, a := range processAttempts() {
		v := launch(t, "--user", "nobody", "--protection=off")
		if result, err := v.tryInject(a.call); !errors.Is(err, errProcess) {
			t.Errorf("%s: %s, %v", a.what, show(result), err)
		}
	}
}

// readable is a file that every user may read, in a directory that every user may write, and no rule names it.
func readable(t *testing.T) string {
	t.Helper()
	file := filepath.Join(proctest.Dir(t, 0o777), "file")
	for _, err := range []error{os.WriteFile(file, nil, 0o644), os.Chmod(file, 0o644)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return file
}

// listener is a port of this process that listens.
func listener(t *testing.T) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return netip.MustParseAddrPort(ln.Addr().String()).Port()
}
