//go:build amd64 || arm64

package sandbox

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// evaluate runs a filter as the kernel would.
func evaluate(t *testing.T, filter []unix.SockFilter, arch, call uint32, args ...uint64) (allowed bool) {
	t.Helper()
	words := map[uint32]uint32{offsetCall: call, offsetArch: arch}
	for i, a := range args {
		words[offsetArgs+8*uint32(i)] = uint32(a)
	}
	var loaded uint32
	for at := 0; at < len(filter); at++ {
		switch f := filter[at]; f.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			loaded = words[f.K]
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			loaded &= f.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			if loaded == f.K {
				at += int(f.Jt)
			} else {
				at += int(f.Jf)
			}
		case unix.BPF_RET | unix.BPF_K:
			if f.K != unix.SECCOMP_RET_ALLOW && f.K != unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM) {
				t.Fatalf("instruction %d returns %#x", at, f.K)
			}
			return f.K == unix.SECCOMP_RET_ALLOW
		default:
			t.Fatalf("instruction %d has the code %#x", at, f.Code)
		}
	}
	t.Fatal("the filter does not return")
	return false
}

func TestPolicy(t *testing.T) {
	self := uint64(os.Getpid())
	const cwd = uint64(0xffffff9c)
	bare, remover, writer, appender := Policy{}, Policy{Remove: []string{"/x"}}, Policy{Write: []string{"/x"}}, Policy{Append: []string{"/x"}}
	for _, c := range []struct {
		what  string
		p     Policy
		allow bool
		call  uint32
		args  []uint64
	}{
		{"read", bare, true, unix.SYS_READ, nil},
		{"the last plain rule", bare, true, unix.SYS_CLOCK_GETTIME, nil},
		{"execve", bare, false, unix.SYS_EXECVE, nil},
		{"open to read", bare, true, unix.SYS_OPENAT, []uint64{cwd, 0, unix.O_RDONLY | unix.O_CLOEXEC}},
		{"open to write", bare, false, unix.SYS_OPENAT, []uint64{cwd, 0, unix.O_WRONLY}},
		{"open to read and write", bare, false, unix.SYS_OPENAT, []uint64{cwd, 0, unix.O_RDWR}},
		{"create", bare, false, unix.SYS_OPENAT, []uint64{cwd, 0, unix.O_CREAT}},
		{"truncate", bare, false, unix.SYS_OPENAT, []uint64{cwd, 0, unix.O_TRUNC}},
		{"a path only", bare, false, unix.SYS_OPENAT, []uint64{cwd, 0, unix.O_PATH}},
		{"unlink", bare, false, unix.SYS_UNLINKAT, nil},
		{"unlink, remover", remover, true, unix.SYS_UNLINKAT, nil},
		{"rename, remover", remover, false, unix.SYS_RENAMEAT, nil},
		{"open to write, remover", remover, false, unix.SYS_OPENAT, []uint64{cwd, 0, unix.O_WRONLY}},
		{"create, writer", writer, true, unix.SYS_OPENAT, []uint64{cwd, 0, unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_CLOEXEC | unix.O_NOFOLLOW}},
		{"append, writer", writer, true, unix.SYS_OPENAT, []uint64{cwd, 0, unix.O_WRONLY | unix.O_APPEND}},
		{"overwrite, writer", writer, false, unix.SYS_OPENAT, []uint64{cwd, 0, unix.O_WRONLY}},
		{"create or overwrite, writer", writer, false, unix.SYS_OPENAT, []uint64{cwd, 0, unix.O_WRONLY | unix.O_CREAT}},
		{"truncate, writer", writer, false, unix.SYS_OPENAT, []uint64{cwd, 0, unix.O_WRONLY | unix.O_APPEND | unix.O_TRUNC}},
		{"open to read and write, writer", writer, false, unix.SYS_OPENAT, []uint64{cwd, 0, unix.O_RDWR | unix.O_APPEND}},
		{"a nameless file, writer", writer, false, unix.SYS_OPENAT, []uint64{cwd, 0, unix.O_WRONLY | unix.O_TMPFILE}},
		{"rename, writer", writer, true, unix.SYS_RENAMEAT, nil},
		{"unlink, writer", writer, true, unix.SYS_UNLINKAT, nil},
		{"mkdir, writer", writer, false, unix.SYS_MKDIRAT, nil},
		{"list a directory", bare, false, unix.SYS_GETDENTS64, nil},
		{"list a directory, writer", writer, true, unix.SYS_GETDENTS64, nil},
		{"create to append, appender", appender, true, unix.SYS_OPENAT, []uint64{cwd, 0, unix.O_WRONLY | unix.O_APPEND | unix.O_CREAT | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK}},
		{"append", bare, false, unix.SYS_OPENAT, []uint64{cwd, 0, unix.O_WRONLY | unix.O_APPEND}},
		{"open to read and write, appender", appender, false, unix.SYS_OPENAT, []uint64{cwd, 0, unix.O_RDWR | unix.O_APPEND}},
		{"truncate, appender", appender, false, unix.SYS_OPENAT, []uint64{cwd, 0, unix.O_WRONLY | unix.O_TRUNC}},
		{"unlink, appender", appender, false, unix.SYS_UNLINKAT, nil},
		{"rename, appender", appender, false, unix.SYS_RENAMEAT, nil},
		{"list a directory, appender", appender, false, unix.SYS_GETDENTS64, nil},
		{"truncate what is open", bare, false, unix.SYS_FTRUNCATE, nil},
		{"truncate server-info", Policy{Truncate: []int{7}}, true, unix.SYS_FTRUNCATE, []uint64{7}},
		{"truncate another", Policy{Truncate: []int{7}}, false, unix.SYS_FTRUNCATE, []uint64{8}},
		{"stop appending", appender, false, unix.SYS_FCNTL, []uint64{3, unix.F_SETFL}},
		{"truncate by name", bare, false, unix.SYS_TRUNCATE, nil},
		{"a thread", bare, true, unix.SYS_CLONE, []uint64{goThread}},
		{"a thread with storage", bare, true, unix.SYS_CLONE, []uint64{goThread | unix.CLONE_SETTLS}},
		{"fork", bare, false, unix.SYS_CLONE, []uint64{uint64(unix.SIGCHLD)}},
		{"vfork", bare, false, unix.SYS_CLONE, []uint64{unix.CLONE_VFORK | unix.CLONE_VM}},
		{"a thread in a namespace", bare, false, unix.SYS_CLONE, []uint64{goThread | unix.CLONE_NEWUSER}},
		{"clone3", bare, false, unix.SYS_CLONE3, nil},
		{"TCP", bare, true, unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_STREAM | unix.SOCK_CLOEXEC, 0}},
		{"UDP over IPv6", bare, true, unix.SYS_SOCKET, []uint64{unix.AF_INET6, unix.SOCK_DGRAM | unix.SOCK_NONBLOCK, 0}},
		{"Multipath TCP", bare, false, unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP}},
		{"SCTP", bare, false, unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP}},
		{"raw", bare, false, unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_RAW, 0}},
		{"seqpacket", bare, false, unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_SEQPACKET, 0}},
		{"unix", bare, false, unix.SYS_SOCKET, []uint64{unix.AF_UNIX, unix.SOCK_STREAM, 0}},
		{"netlink", bare, false, unix.SYS_SOCKET, []uint64{unix.AF_NETLINK, unix.SOCK_DGRAM, 0}},
		{"send", bare, true, unix.SYS_SENDTO, []uint64{3, 0, 0, unix.MSG_NOSIGNAL}},
		{"send by fast open", bare, false, unix.SYS_SENDTO, []uint64{3, 0, 0, unix.MSG_FASTOPEN | unix.MSG_NOSIGNAL}},
		{"sendmsg", bare, false, unix.SYS_SENDMSG, nil},
		{"bind", bare, false, unix.SYS_BIND, nil},
		{"no delay", bare, true, unix.SYS_SETSOCKOPT, []uint64{3, unix.IPPROTO_TCP, unix.TCP_NODELAY}},
		{"the same number at another level", bare, false, unix.SYS_SETSOCKOPT, []uint64{3, unix.IPPROTO_IP, unix.TCP_NODELAY}},
		{"a socket filter", bare, false, unix.SYS_SETSOCKOPT, []uint64{3, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER}},
		{"map", bare, true, unix.SYS_MMAP, []uint64{0, 4096, unix.PROT_READ | unix.PROT_WRITE}},
		{"map code", bare, false, unix.SYS_MMAP, []uint64{0, 4096, unix.PROT_READ | unix.PROT_EXEC}},
		{"protect as code", bare, false, unix.SYS_MPROTECT, []uint64{0, 4096, unix.PROT_EXEC}},
		{"name a mapping", bare, true, unix.SYS_PRCTL, []uint64{unix.PR_SET_VMA, 0}},
		{"dumpable", bare, false, unix.SYS_PRCTL, []uint64{unix.PR_SET_DUMPABLE, 1}},
		{"signal us", bare, true, unix.SYS_KILL, []uint64{self}},
		{"signal a thread of ours", bare, true, unix.SYS_TGKILL, []uint64{self, self}},
		{"signal another", bare, false, unix.SYS_KILL, []uint64{self + 1}},
		{"signal our group", bare, false, unix.SYS_KILL, []uint64{0}},
		{"signal all", bare, false, unix.SYS_KILL, []uint64{1<<64 - 1}},
		{"signal another's thread", bare, false, unix.SYS_TGKILL, []uint64{1, 1}},
		{"tkill", bare, false, unix.SYS_TKILL, []uint64{self}},
		{"duplicate", bare, false, unix.SYS_FCNTL, []uint64{3, unix.F_DUPFD_CLOEXEC}},
		{"own a socket's signals", bare, false, unix.SYS_FCNTL, []uint64{3, unix.F_SETOWN}},
		{"ioctl", bare, false, unix.SYS_IOCTL, nil},
		{"x32", bare, false, 0x40000000 | unix.SYS_READ, nil},
	} {
		if got := evaluate(t, compile(allowedCalls(c.p)), auditArch, c.call, c.args...); got != c.allow {
			t.Errorf("%s: allowed %t", c.what, got)
		}
	}
	for call := range uint32(1024) {
		if evaluate(t, compile(allowedCalls(writer)), unix.AUDIT_ARCH_I386, call) {
			t.Fatalf("i386's call %d is allowed", call)
		}
	}
}

// TestPolicyNamesNothingElse: a call with unconditional rules has no conditional ones, and no call that only an
// attacker needs is allowed.
func TestPolicyNamesNothingElse(t *testing.T) {
	never := map[uint32]string{
		unix.SYS_EXECVE: "execve", unix.SYS_EXECVEAT: "execveat", unix.SYS_PTRACE: "ptrace", unix.SYS_BIND: "bind",
		unix.SYS_LISTEN: "listen", unix.SYS_IO_URING_SETUP: "io_uring_setup", unix.SYS_BPF: "bpf", unix.SYS_IOCTL: "ioctl",
		unix.SYS_SENDMSG: "sendmsg", unix.SYS_RECVMSG: "recvmsg", unix.SYS_MREMAP: "mremap", unix.SYS_CLONE3: "clone3",
		unix.SYS_SECCOMP: "seccomp", unix.SYS_CAPSET: "capset", unix.SYS_SETRESUID: "setresuid", unix.SYS_DUP3: "dup3",
	}
	policy := allowedCalls(Policy{Write: []string{"/x"}, Remove: []string{"/x"}})
	plain := map[uint32]bool{}
	for _, r := range policy {
		if name, bad := never[r.call]; bad {
			t.Errorf("%s is allowed", name)
		}
		if plain[r.call] {
			t.Errorf("call %d is already allowed without conditions", r.call)
		}
		plain[r.call] = len(r.when) == 0
	}
	if n := len(compile(policy)); n > unix.BPF_MAXINSNS {
		t.Errorf("%d instructions", n)
	}
}
