//go:build amd64 || arm64

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The filter lists what may be called, not what may not: a system call that a later kernel adds is refused. It is
// written by hand, since it compiles one list for two architectures only.
//
// A filter sees the registers of a call, not the memory that they point to, which another thread could change between
// the check and the call (seccomp(2), "Caveats"). So it cannot restrict paths, addresses and ports; Landlock does.

// auditArch identifies this architecture's own system calls in struct seccomp_data. x32 shares the value of amd64, but
// has other call numbers.
var auditArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]

// A rule allows one system call. Several rules for the same call are alternatives.
type rule struct {
	call uint32
	when []cond // all of these
}

// A cond compares an argument: (argument & mask) == value. It reads only the low 32 bits of an argument: every one that
// is compared here is an int to the kernel, or has all of its flags there.
type cond struct {
	arg         int
	mask, value uint32
}

func allow(call uint32, when ...cond) rule { return rule{call, when} }

// is requires an argument to equal value.
func is(arg int, value uint32) cond { return cond{arg, ^uint32(0), value} }

// without requires flags to be clear.
func without(arg int, flags uint32) cond { return cond{arg, flags, 0} }

// only requires all flags but these to be clear.
func only(arg int, flags uint32) cond { return cond{arg, ^flags, 0} }

// goThread are the flags with which the Go runtime starts a thread (cloneFlags in runtime/os_linux.go), but for
// CLONE_SETTLS, which amd64 adds. No other combination is allowed: no process, no namespace. clone3(2) passes its flags
// in memory, where a filter cannot check them, and is refused.
const goThread = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD

// sockType masks SOCK_CLOEXEC and SOCK_NONBLOCK out of a socket's type (socket(2)).
const sockType = 0xf

// Flags of openat(2) for what a Policy allows. O_PATH, O_TMPFILE and flags of later kernels are never needed.
const (
	readingFlags = unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_DIRECTORY | unix.O_LARGEFILE
	writingFlags = readingFlags | unix.O_WRONLY | unix.O_CREAT | unix.O_APPEND | unix.O_EXCL
)

// always are the system calls that are allowed with any arguments. This list and narrowed were built from what a static
// Go 1.26 program with net and crypto/tls was observed to call, and from what the runtime's source calls rarely.
//
// So the kernel refuses, among others, execve(2), ptrace(2), process_vm_readv(2), pidfd_getfd(2), bpf(2) and
// perf_event_open(2), also to a process that has the privileges for them, and io_uring_setup(2): requests in its ring
// are no system calls, and no filter would check them.
var always = []uint32{
	// Reading, writing, waiting. FUTEX, NANOSLEEP and SCHED_YIELD are the runtime's locks. PREAD64 reads the CPU limit
	// of a control group, again and again, from files that the runtime has open.
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_WRITEV, unix.SYS_FUTEX, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_CTL,
	unix.SYS_NANOSLEEP, unix.SYS_SCHED_YIELD, unix.SYS_CLOSE, unix.SYS_PREAD64,
	// Connections: Landlock restricts CONNECT; ACCEPT4 works only on listeners that are open, since LISTEN and BIND are
	// not in the list.
	unix.SYS_ACCEPT4, unix.SYS_RECVFROM, unix.SYS_CONNECT, unix.SYS_SHUTDOWN, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME,
	// Files, which the resolver reads.
	unix.SYS_FSTAT, unix.SYS_NEWFSTATAT,
	// Memory: the heap is returned to the kernel by MADVISE.
	unix.SYS_MADVISE, unix.SYS_MUNMAP,
	// Threads and signals. The kernel makes RESTART_SYSCALL itself after a stop (restart_syscall(2)); SIGALTSTACK and
	// RT_SIGPROCMASK start a thread.
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL,
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
	// Identity and environment. GETPID and GETTID are arguments of TGKILL. SCHED_GETAFFINITY updates GOMAXPROCS.
	// CLOCK_GETTIME and GETRANDOM are for kernels whose vDSO lacks them.
	unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID,
	unix.SYS_SCHED_GETAFFINITY, unix.SYS_UNAME, unix.SYS_GETRANDOM, unix.SYS_CLOCK_GETTIME,
}

// narrowed are the system calls that are allowed with some arguments only, the most frequent first; self is this
// process's id.
func narrowed(self uint32) []rule {
	rules := []rule{
		allow(unix.SYS_SENDTO, without(3, unix.MSG_FASTOPEN)), // fast open connects without a check by Landlock
		// Neither F_SETFL, which clears O_APPEND, nor F_DUPFD, which gives a log the number of a file of Truncate.
		allow(unix.SYS_FCNTL, is(1, unix.F_GETFL)),
		allow(unix.SYS_FCNTL, is(1, unix.F_GETFD)),
		// No executable memory: an attacker can run only code that is already mapped. PR_SET_VMA names the runtime's
		// mappings.
		allow(unix.SYS_MMAP, without(2, unix.PROT_EXEC)),
		allow(unix.SYS_MPROTECT, without(2, unix.PROT_EXEC)),
		allow(unix.SYS_PRCTL, is(0, unix.PR_SET_VMA)),
		// Threads but no processes; signals to this process only.
		allow(unix.SYS_CLONE, cond{0, ^uint32(unix.CLONE_SETTLS), goThread}),
		allow(unix.SYS_TGKILL, is(0, self)),
		allow(unix.SYS_KILL, is(0, self)),
	}
	// Protocol 0 is TCP or UDP, which Landlock restricts. Landlock does not restrict Multipath TCP, SCTP and raw
	// sockets, nor, before ABI 9, unix sockets with a path, through which every daemon of the host could be reached. (The
	// socket of package systemd can still be connected to others that take datagrams.)
	for _, family := range []uint32{unix.AF_INET, unix.AF_INET6} {
		for _, kind := range []uint32{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
			rules = append(rules, allow(unix.SYS_SOCKET, is(0, family), cond{1, sockType, kind}, is(2, 0)))
		}
	}
	// Reading options of SOL_SOCKET discloses nothing secret; net reads SO_ERROR after a connect.
	rules = append(rules, allow(unix.SYS_GETSOCKOPT, is(1, unix.SOL_SOCKET)))
	for _, option := range []struct{ level, name uint32 }{
		{unix.SOL_SOCKET, unix.SO_BROADCAST}, // package net sets it on every socket
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE}, {unix.SOL_SOCKET, unix.SO_LINGER},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT}, {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT}, {unix.IPPROTO_IPV6, unix.IPV6_V6ONLY},
	} {
		rules = append(rules, allow(unix.SYS_SETSOCKOPT, is(1, option.level), is(2, option.name)))
	}
	return rules
}

// onFiles returns the system calls on files that p needs. Landlock restricts which files. A file that exists is written
// to at its end only: Landlock before Linux 6.2 does not restrict O_TRUNC, and no version requires O_APPEND.
func onFiles(p Policy) []rule {
	atEnd := cond{2, unix.O_ACCMODE | unix.O_APPEND, unix.O_WRONLY | unix.O_APPEND}
	newFile := cond{2, unix.O_ACCMODE | unix.O_CREAT | unix.O_EXCL, unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL}
	rules := []rule{allow(unix.SYS_OPENAT, only(2, readingFlags))}
	if len(p.Append)+len(p.Write) > 0 {
		rules = append(rules, allow(unix.SYS_OPENAT, only(2, writingFlags), atEnd))
	}
	if len(p.Write) > 0 {
		rules = append(rules, allow(unix.SYS_FSYNC), allow(unix.SYS_RENAMEAT), allow(unix.SYS_GETDENTS64),
			allow(unix.SYS_OPENAT, only(2, writingFlags), newFile))
	}
	if len(p.Write)+len(p.Remove) > 0 {
		rules = append(rules, allow(unix.SYS_UNLINKAT))
	}
	for _, fd := range p.Truncate {
		rules = append(rules, allow(unix.SYS_FTRUNCATE, is(0, uint32(fd))))
	}
	return rules
}

// allowedCalls returns a rule for every system call that the process may still make under p. Those of always come last:
// the kernel evaluates a filter from its start, but remembers which calls it allows with any arguments (Linux 5.11,
// kernel/seccomp.c, "seccomp_cache"), and does not evaluate it for these.
func allowedCalls(p Policy) []rule {
	rules := slices.Concat(narrowed(uint32(os.Getpid())), onFiles(p))
	for _, call := range always {
		rules = append(rules, allow(call))
	}
	return rules
}

// Offsets in struct seccomp_data (linux/seccomp.h). On both architectures, which are little-endian, the low half of an
// argument comes first.
const (
	offsetCall = 0
	offsetArch = 4
	offsetArgs = 16
)

// The two results of a filter. EPERM rather than a kill: a refused call must not end the service.
var (
	accept = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
	refuse = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
)

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func and(mask uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask}
}

// jump skips equal instructions if the loaded word equals value, and not instructions otherwise. The kernel accepts
// only jumps forward, so that a filter always ends; their distances have 8 bits, enough for one rule.
func jump(value uint32, equal, not int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jt: uint8(equal), Jf: uint8(not)}
}

// compile returns the rules as a BPF program (seccomp(2)). It refuses calls of another architecture, calls of x32,
// whose numbers have a bit of their own, and calls that no rule allows.
func compile(rules []rule) []unix.SockFilter {
	p := []unix.SockFilter{load(offsetArch), jump(auditArch, 1, 0), refuse, load(offsetCall)}
	for _, r := range rules {
		if len(r.when) == 0 {
			p = append(p, jump(r.call, 0, 1), accept)
			continue
		}
		// If a rule does not match, the call's number must be loaded again for the next one.
		reload := 3*len(r.when) + 1 // distance from the first condition
		p = append(p, jump(r.call, 0, reload+1))
		for i, c := range r.when {
			p = append(p, load(offsetArgs+8*uint32(c.arg)), and(c.mask), jump(c.value, 0, reload-3*(i+1)))
		}
		p = append(p, accept, load(offsetCall))
	}
	return append(p, refuse)
}

// seccomp installs the filter of p on all threads at once (seccomp(2), SECCOMP_FILTER_FLAG_TSYNC). It needs
// no-new-privs, or CAP_SYS_ADMIN, which the process no longer has. A filter cannot be removed, and later ones can only
// refuse more; neither can be added, since seccomp(2) is not in the list. If the kernel keeps an audit log, refusals
// are recorded there.
func seccomp(p Policy) error {
	filter := compile(allowedCalls(p))
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	set := func(flags uintptr) (thread uintptr, err error) {
		return call("seccomp", thisThread, unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program)))
	}
	thread, err := set(unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_LOG)
	if errors.Is(err, unix.EINVAL) { // SECCOMP_FILTER_FLAG_LOG needs Linux 4.14
		thread, err = set(unix.SECCOMP_FILTER_FLAG_TSYNC)
	}
	if errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%w; the kernel needs CONFIG_SECCOMP_FILTER", err)
	}
	// A positive result is the id of a thread that could not be synchronized (seccomp(2), "RETURN VALUE").
	if err == nil && thread != 0 {
		return fmt.Errorf("seccomp: thread %d has a different filter", thread)
	}
	return err
}
