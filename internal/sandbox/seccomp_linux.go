//go:build amd64 || arm64

package sandbox

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A rule allows one system call. Several rules for the same call are
// alternatives.
type rule struct {
	call uint32
	when []cond // all of these
}

// A cond is (argument & mask) == value. Only the low half of an argument is
// looked at: every one that is judged here is an int to the kernel, or has its
// flags down there.
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

// goThread is how Go's runtime starts a thread (runtime/os_linux.go), but for
// CLONE_SETTLS, which amd64 adds.
const goThread = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD

const (
	sockType     = 0xf // without SOCK_CLOEXEC and SOCK_NONBLOCK
	readingFlags = unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_DIRECTORY | unix.O_LARGEFILE
	appendFlags  = readingFlags | unix.O_WRONLY | unix.O_CREAT | unix.O_APPEND
	writingFlags = appendFlags | unix.O_RDWR | unix.O_EXCL | unix.O_TRUNC
)

// allowedCalls is every system call that the process may still make. It was built
// from what a static Go 1.26 program with net and crypto/tls was seen to make,
// and what its runtime makes on rare occasions; those that it makes most stand
// first.
func allowedCalls(p Policy) []rule {
	self := uint32(os.Getpid())
	policy := []rule{
		// Reading, writing, waiting.
		allow(unix.SYS_READ),
		allow(unix.SYS_WRITE),
		allow(unix.SYS_WRITEV),
		allow(unix.SYS_FUTEX),
		allow(unix.SYS_EPOLL_PWAIT),
		allow(unix.SYS_EPOLL_CTL),
		allow(unix.SYS_NANOSLEEP),
		allow(unix.SYS_SCHED_YIELD),
		allow(unix.SYS_CLOSE),
		allow(unix.SYS_PREAD64), // cgroup limits, from open files

		// Sockets: of TCP (not of Multipath TCP, which Landlock overlooks) and
		// UDP. MSG_FASTOPEN would connect without Landlock's being asked.
		allow(unix.SYS_ACCEPT4),
		allow(unix.SYS_RECVFROM),
		allow(unix.SYS_SENDTO, without(3, unix.MSG_FASTOPEN)),
		allow(unix.SYS_SOCKET, is(0, unix.AF_INET), cond{1, sockType, unix.SOCK_STREAM}, is(2, 0)),
		allow(unix.SYS_SOCKET, is(0, unix.AF_INET), cond{1, sockType, unix.SOCK_DGRAM}, is(2, 0)),
		allow(unix.SYS_SOCKET, is(0, unix.AF_INET6), cond{1, sockType, unix.SOCK_STREAM}, is(2, 0)),
		allow(unix.SYS_SOCKET, is(0, unix.AF_INET6), cond{1, sockType, unix.SOCK_DGRAM}, is(2, 0)),
		allow(unix.SYS_CONNECT),
		allow(unix.SYS_SHUTDOWN),
		allow(unix.SYS_GETSOCKNAME),
		allow(unix.SYS_GETPEERNAME),
		allow(unix.SYS_GETSOCKOPT, is(1, unix.SOL_SOCKET)),
		allow(unix.SYS_SETSOCKOPT, is(1, unix.SOL_SOCKET), is(2, unix.SO_BROADCAST)), // on every socket of Go's
		allow(unix.SYS_SETSOCKOPT, is(1, unix.SOL_SOCKET), is(2, unix.SO_KEEPALIVE)),
		allow(unix.SYS_SETSOCKOPT, is(1, unix.SOL_SOCKET), is(2, unix.SO_LINGER)),
		allow(unix.SYS_SETSOCKOPT, is(1, unix.IPPROTO_TCP), is(2, unix.TCP_NODELAY)),
		allow(unix.SYS_SETSOCKOPT, is(1, unix.IPPROTO_TCP), is(2, unix.TCP_KEEPIDLE)),
		allow(unix.SYS_SETSOCKOPT, is(1, unix.IPPROTO_TCP), is(2, unix.TCP_KEEPINTVL)),
		allow(unix.SYS_SETSOCKOPT, is(1, unix.IPPROTO_TCP), is(2, unix.TCP_KEEPCNT)),
		allow(unix.SYS_SETSOCKOPT, is(1, unix.IPPROTO_TCP), is(2, unix.TCP_USER_TIMEOUT)),
		allow(unix.SYS_SETSOCKOPT, is(1, unix.IPPROTO_IPV6), is(2, unix.IPV6_V6ONLY)),

		// Files, for the resolver to read.
		allow(unix.SYS_FSTAT),
		allow(unix.SYS_NEWFSTATAT),
		allow(unix.SYS_FCNTL, is(1, unix.F_GETFL)),
		allow(unix.SYS_FCNTL, is(1, unix.F_GETFD)),
		allow(unix.SYS_FCNTL, is(1, unix.F_DUPFD_CLOEXEC)),
		allow(unix.SYS_LSEEK), // back to the beginning of --key-fd

		// Memory, none of it to be executed. The runtime names its mappings.
		allow(unix.SYS_MADVISE),
		allow(unix.SYS_MMAP, without(2, unix.PROT_EXEC)),
		allow(unix.SYS_MUNMAP),
		allow(unix.SYS_MPROTECT, without(2, unix.PROT_EXEC)),
		allow(unix.SYS_PRCTL, is(0, unix.PR_SET_VMA)),

		// Threads and signals, to this process only.
		allow(unix.SYS_CLONE, cond{0, ^uint32(unix.CLONE_SETTLS), goThread}),
		allow(unix.SYS_TGKILL, is(0, self)),
		allow(unix.SYS_KILL, is(0, self)),
		allow(unix.SYS_RT_SIGACTION),
		allow(unix.SYS_RT_SIGPROCMASK),
		allow(unix.SYS_RT_SIGRETURN),
		allow(unix.SYS_SIGALTSTACK),
		allow(unix.SYS_RESTART_SYSCALL),
		allow(unix.SYS_EXIT),
		allow(unix.SYS_EXIT_GROUP),

		// What it is and where it runs.
		allow(unix.SYS_GETPID),
		allow(unix.SYS_GETTID),
		allow(unix.SYS_GETUID),
		allow(unix.SYS_GETEUID),
		allow(unix.SYS_GETGID),
		allow(unix.SYS_GETEGID),
		allow(unix.SYS_SCHED_GETAFFINITY),
		allow(unix.SYS_UNAME),
		allow(unix.SYS_GETRANDOM),
		allow(unix.SYS_CLOCK_GETTIME), // where the vDSO cannot tell
	}
	return append(policy, fileCalls(p)...)
}

// fileCalls is what there is to do with files. Landlock says with which.
func fileCalls(p Policy) []rule {
	more := []rule{allow(unix.SYS_OPENAT, only(2, readingFlags))}
	if len(p.Append) > 0 { // and nothing that writes elsewhere than at the end
		more = append(more, allow(unix.SYS_OPENAT, only(2, appendFlags), cond{2, unix.O_ACCMODE | unix.O_APPEND, unix.O_WRONLY | unix.O_APPEND}))
	}
	if len(p.Write) > 0 {
		more = append(more, allow(unix.SYS_FSYNC), allow(unix.SYS_RENAMEAT), allow(unix.SYS_GETDENTS64), allow(unix.SYS_OPENAT, only(2, writingFlags)))
	}
	if len(p.Write)+len(p.Remove) > 0 {
		more = append(more, allow(unix.SYS_UNLINKAT))
	}
	for _, fd := range p.Truncate {
		more = append(more, allow(unix.SYS_FTRUNCATE, is(0, uint32(fd))))
	}
	for _, fd := range p.SetFlags {
		more = append(more, allow(unix.SYS_FCNTL, is(0, uint32(fd)), is(1, unix.F_SETFL)))
	}
	return more
}

// Offsets in struct seccomp_data of linux/seccomp.h.
const (
	offsetCall = 0
	offsetArch = 4
	offsetArgs = 16
)

// compile turns the policy into a program. Calls of another architecture or of
// x32, whose numbers have a bit of their own, and calls that no rule names, get
// EPERM: what is refused never takes the service down.
func compile(policy []rule) []unix.SockFilter {
	p := []unix.SockFilter{
		load(offsetArch),
		jump(auditArch, 1, 0),
		refuse(),
		load(offsetCall),
	}
	for _, r := range policy {
		p = append(p, r.compile()...)
	}
	return append(p, refuse())
}

// compile is the piece of one rule; where it does not allow the call, it goes on
// behind itself with the call's number loaded.
func (r rule) compile() []unix.SockFilter {
	if len(r.when) == 0 {
		return []unix.SockFilter{jump(r.call, 0, 1), accept()}
	}
	end := 3*len(r.when) + 1 // the length from the first condition to the reload
	p := []unix.SockFilter{jump(r.call, 0, uint8(end+1))}
	for i, c := range r.when {
		p = append(p, load(offsetArgs+8*uint32(c.arg)), and(c.mask), jump(c.value, 0, uint8(end-3*(i+1))))
	}
	return append(p, accept(), load(offsetCall))
}

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func and(mask uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask}
}

// jump skips so many instructions if what is loaded is equal to value, or not.
func jump(value uint32, equal, not uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jt: equal, Jf: not}
}

func accept() unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
}

func refuse() unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
}

// install puts the policy in force on all threads at once. Where the kernel
// keeps an audit log, refusals are counted there.
func install(p Policy) error {
	filter := compile(allowedCalls(p))
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	set := func(flags uintptr) (thread uintptr, errno unix.Errno) {
		thread, _, errno = unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program)))
		return thread, errno
	}
	odd, errno := set(unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_LOG)
	if errno == unix.EINVAL { // not every kernel can count
		odd, errno = set(unix.SECCOMP_FILTER_FLAG_TSYNC)
	}
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	if odd != 0 {
		return fmt.Errorf("seccomp: thread %d has a filter of its own", odd)
	}
	return nil
}
