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

// The filter is a list of what may be called, not of what may not: a system call that a later kernel adds is refused. It
// is written by hand, since one list for two architectures is all there is to compile.
//
// A filter sees the registers of a call, not the memory that they point to, which another thread could change in between
// (seccomp(2), "Caveats"). So it cannot restrict paths, addresses and ports: these are for Landlock.

// auditArch is how seccomp identifies this architecture's own system calls. Those of x32 have amd64's, but other numbers.
var auditArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]

// A rule allows one system call. Several rules for the same call are alternatives.
type rule struct {
	call uint32
	when []cond // all of these
}

// A cond compares an argument: (argument & mask) == value. Only the low half of an argument is looked at: every one that
// is compared here is an int to the kernel, or has its flags down there.
type cond struct {
	arg         int
	mask, value uint32
}

func allow(call uint32, when ...cond) rule { return rule{call, when} }

// is wants an argument to be value.
func is(arg int, value uint32) cond { return cond{arg, ^uint32(0), value} }

// without wants flags not to be set.
func without(arg int, flags uint32) cond { return cond{arg, flags, 0} }

// only wants no flags but these to be set.
func only(arg int, flags uint32) cond { return cond{arg, ^flags, 0} }

// goThread are the flags with which Go's runtime starts a thread (runtime/os_linux.go), but for CLONE_SETTLS, which amd64
// adds. No other combination is allowed: no process, no namespace. clone3(2) has its flags in memory, and is refused.
const goThread = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD

// sockType masks SOCK_CLOEXEC and SOCK_NONBLOCK out of the type of a socket (socket(2)).
const sockType = 0xf

// Flags of openat(2) for what a Policy allows. O_PATH, O_TMPFILE, and whatever else the kernel has, is never needed.
const (
	readingFlags = unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_DIRECTORY | unix.O_LARGEFILE
	appendFlags  = readingFlags | unix.O_WRONLY | unix.O_CREAT | unix.O_APPEND
	writingFlags = appendFlags | unix.O_RDWR | unix.O_EXCL | unix.O_TRUNC
)

// always are the system calls that are allowed whatever their arguments are, those that serving makes most first. The
// list, and that of narrowed, was built from what a static Go 1.26 program with net and crypto/tls was seen to call, and
// what its runtime calls on rare occasions.
var always = []uint32{
	// Reading, writing, waiting. PREAD64 reads limits of a control group, from files that are open.
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_WRITEV, unix.SYS_FUTEX, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_CTL,
	unix.SYS_NANOSLEEP, unix.SYS_SCHED_YIELD, unix.SYS_CLOSE, unix.SYS_PREAD64,
	// Sockets that are there.
	unix.SYS_ACCEPT4, unix.SYS_RECVFROM, unix.SYS_CONNECT, unix.SYS_SHUTDOWN, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME,
	// Files, for the resolver to read. LSEEK goes back to the beginning of --key-fd.
	unix.SYS_FSTAT, unix.SYS_NEWFSTATAT, unix.SYS_LSEEK,
	// Memory.
	unix.SYS_MADVISE, unix.SYS_MUNMAP,
	// Threads and signals.
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL,
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
	// What the process is and where it runs. CLOCK_GETTIME is for machines whose vDSO has no clock.
	unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID,
	unix.SYS_SCHED_GETAFFINITY, unix.SYS_UNAME, unix.SYS_GETRANDOM, unix.SYS_CLOCK_GETTIME,
}

// narrowed are the system calls that are allowed with some arguments only; self is this process.
func narrowed(self uint32) []rule {
	rules := []rule{
		allow(unix.SYS_SENDTO, without(3, unix.MSG_FASTOPEN)), // which connects without Landlock's being asked
		allow(unix.SYS_FCNTL, is(1, unix.F_GETFL)),
		allow(unix.SYS_FCNTL, is(1, unix.F_GETFD)),
		allow(unix.SYS_FCNTL, is(1, unix.F_DUPFD_CLOEXEC)),
		// No memory to be executed, so that code can only be what is there. The runtime names its mappings.
		allow(unix.SYS_MMAP, without(2, unix.PROT_EXEC)),
		allow(unix.SYS_MPROTECT, without(2, unix.PROT_EXEC)),
		allow(unix.SYS_PRCTL, is(0, unix.PR_SET_VMA)),
		// Threads but no processes, signals to this process only.
		allow(unix.SYS_CLONE, cond{0, ^uint32(unix.CLONE_SETTLS), goThread}),
		allow(unix.SYS_TGKILL, is(0, self)),
		allow(unix.SYS_KILL, is(0, self)),
	}
	// Protocol 0 is TCP and UDP, which Landlock restricts. It does not restrict Multipath TCP, SCTP and raw sockets; nor
	// unix sockets with a path before ABI 9, which would reach every daemon of the host.
	for _, family := range []uint32{unix.AF_INET, unix.AF_INET6} {
		for _, kind := range []uint32{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
			rules = append(rules, allow(unix.SYS_SOCKET, is(0, family), cond{1, sockType, kind}, is(2, 0)))
		}
	}
	rules = append(rules, allow(unix.SYS_GETSOCKOPT, is(1, unix.SOL_SOCKET)))
	for _, option := range []struct{ level, name uint32 }{
		{unix.SOL_SOCKET, unix.SO_BROADCAST}, // on every socket of Go's
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE}, {unix.SOL_SOCKET, unix.SO_LINGER},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT}, {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT}, {unix.IPPROTO_IPV6, unix.IPV6_V6ONLY},
	} {
		rules = append(rules, allow(unix.SYS_SETSOCKOPT, is(1, option.level), is(2, option.name)))
	}
	return rules
}

// onFiles are the system calls that p needs on files. Landlock restricts the files.
func onFiles(p Policy) []rule {
	rules := []rule{allow(unix.SYS_OPENAT, only(2, readingFlags))}
	if len(p.Append) > 0 { // and nothing that writes elsewhere than at the end
		atEnd := cond{2, unix.O_ACCMODE | unix.O_APPEND, unix.O_WRONLY | unix.O_APPEND}
		rules = append(rules, allow(unix.SYS_OPENAT, only(2, appendFlags), atEnd))
	}
	if len(p.Write) > 0 {
		rules = append(rules, allow(unix.SYS_FSYNC), allow(unix.SYS_RENAMEAT), allow(unix.SYS_GETDENTS64),
			allow(unix.SYS_OPENAT, only(2, writingFlags)))
	}
	if len(p.Write)+len(p.Remove) > 0 {
		rules = append(rules, allow(unix.SYS_UNLINKAT))
	}
	for _, fd := range p.Truncate {
		rules = append(rules, allow(unix.SYS_FTRUNCATE, is(0, uint32(fd))))
	}
	for _, fd := range p.SetFlags {
		rules = append(rules, allow(unix.SYS_FCNTL, is(0, uint32(fd)), is(1, unix.F_SETFL)))
	}
	return rules
}

// allowedCalls returns a rule for every system call that the process may still make under p.
func allowedCalls(p Policy) (rules []rule) {
	for _, call := range always {
		rules = append(rules, allow(call))
	}
	return slices.Concat(rules, narrowed(uint32(os.Getpid())), onFiles(p))
}

// Offsets in struct seccomp_data of linux/seccomp.h.
const (
	offsetCall = 0
	offsetArch = 4
	offsetArgs = 16
)

// The instructions of a filter.
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

// jump skips so many instructions if the loaded word is equal to value, or not.
func jump(value uint32, equal, not int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jt: uint8(equal), Jf: uint8(not)}
}

// compile returns the rules as a program for the kernel (seccomp(2)). Calls of another architecture or of x32, whose
// numbers have a bit of their own, and calls that no rule allows, return EPERM: a refusal never ends the service.
func compile(rules []rule) []unix.SockFilter {
	p := []unix.SockFilter{load(offsetArch), jump(auditArch, 1, 0), refuse, load(offsetCall)}
	for _, r := range rules {
		if len(r.when) == 0 {
			p = append(p, jump(r.call, 0, 1), accept)
			continue
		}
		// Where a rule does not allow the call, the next one finds the call's number loaded.
		reload := 3*len(r.when) + 1 // how far it is from the first condition
		p = append(p, jump(r.call, 0, reload+1))
		for i, c := range r.when {
			p = append(p, load(offsetArgs+8*uint32(c.arg)), and(c.mask), jump(c.value, 0, reload-3*(i+1)))
		}
		p = append(p, accept, load(offsetCall))
	}
	return append(p, refuse)
}

// seccomp puts the filter of p in force on all threads at once (seccomp(2), SECCOMP_FILTER_FLAG_TSYNC). It needs
// no-new-privs. Where the kernel keeps an audit log, refusals are counted there.
func seccomp(p Policy) error {
	filter := compile(allowedCalls(p))
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	set := func(flags uintptr) (thread uintptr, err error) {
		return call("seccomp", thisThread, unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program)))
	}
	thread, err := set(unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_LOG)
	if errors.Is(err, unix.EINVAL) { // LOG came with Linux 4.14
		thread, err = set(unix.SECCOMP_FILTER_FLAG_TSYNC)
	}
	if err == nil && thread != 0 {
		return fmt.Errorf("seccomp: thread %d has a filter of its own", thread)
	}
	return err
}
