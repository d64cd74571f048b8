package keyleak

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The test binary runs itself as a wrapper that changes an attribute of its process, which this variable names, and
// executes the program in its arguments.
const wrapEnv = "KEYLEAK_TEST_WRAP"

const (
	noSecretMemory = "no secret memory" // as with a kernel before 5.14
	coresAllowed   = "cores allowed"
)

func wrap(how string) {
	runtime.LockOSThread() // a filter is the thread's, and stays with it over execve
	var err error
	switch how {
	case noSecretMemory:
		err = denyMemfdSecret()
	case coresAllowed:
		err = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	}
	if err == nil {
		os.Unsetenv(wrapEnv)
		err = unix.Exec(os.Args[1], os.Args[1:], os.Environ())
	}
	panic(err)
}

// denyMemfdSecret has memfd_secret(2) fail with ENOSYS on this thread.
func denyMemfdSecret() error {
	const load, equal, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	filter := []unix.SockFilter{
		{Code: load, K: 0}, // seccomp_data.nr
		{Code: equal, K: unix.SYS_MEMFD_SECRET, Jf: 1},
		{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_PRCTL, unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return nil
}
