//go:build amd64 || arm64 || riscv64

package secret

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// secretmemMagic is the file system type of memfd_secret files (SECRETMEM_MAGIC in linux/magic.h).
const secretmemMagic = 0x5345434d

// mapSecret maps size bytes of memfd_secret(2) between two guard pages, and checks that the kernel refuses to read them
// on behalf of other processes. The descriptor is closed: the mapping keeps the memory, and a descriptor could be
// inherited, passed on, or taken with pidfd_getfd(2).
//
// The kernel removes the pages from its direct map, and refuses get_user_pages on them, by which ptrace(2),
// process_vm_readv(2), /proc/PID/mem and core files read. It never swaps them, inhibits hibernation while they exist,
// and counts them against RLIMIT_MEMLOCK. read(2) and write(2) work on them all the same: they copy through the page
// tables of the calling process. So root that makes this process write them, by ptrace(2), gets the key.
//
// The mapping is shared, so that a child would inherit it: MADV_WIPEONFORK is for private memory only (madvise(2)). The
// daemon starts no process, and its seccomp filter refuses fork(2).
//
// Linux has the call from 5.14 on, before 6.5 only with the boot parameter secretmem.enable=1; else it is ENOSYS.
func mapSecret(size int) ([]byte, error) {
	// O_CLOEXEC, because another goroutine may start a process before the descriptor is closed. The kernel refuses the
	// FD_CLOEXEC of memfd_secret(2) with EINVAL.
	fd, err := unix.MemfdSecret(unix.O_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_secret: %w", err)
	}
	defer unix.Close(fd)
	// A sandbox that intercepts the call could return a descriptor of another file.
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil || fs.Type != secretmemMagic {
		return nil, errors.Join(errors.New("memfd_secret returned a file of another type"), err)
	}
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return nil, fmt.Errorf("memfd_secret: ftruncate: %w", err)
	}
	// The kernel refuses to map it without MAP_SHARED: a private copy would be ordinary memory.
	b, err := mapGuarded(fd, size, unix.MAP_SHARED, proveUnreadable)
	if err != nil {
		return nil, fmt.Errorf("memfd_secret: %w", err)
	}
	return b, nil
}

// HasSecretMemory reports whether the kernel has secret memory, whether or not this process may use it: only ENOSYS
// shows that it has none. EPERM is the refusal of a container's filter, which does not make the kernel an older one.
func HasSecretMemory() bool {
	fd, err := unix.MemfdSecret(unix.O_CLOEXEC)
	if err == nil {
		unix.Close(fd)
	}
	return !errors.Is(err, unix.ENOSYS)
}

// proveUnreadable tries to read b as a debugger would, with process_vm_readv(2). A process may always read itself
// (ptrace(2), "Ptrace access mode checking"), so that EFAULT is a refusal of the memory and not of the caller. If an
// outer sandbox refuses that system call itself, the file system type is the only proof.
func proveUnreadable(b []byte) error {
	if err := allocate(b); err != nil { // EFAULT for a missing page would prove nothing
		return err
	}
	var into [1]byte
	local := []unix.Iovec{{Base: &into[0], Len: 1}}
	remote := []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&b[0])), Len: 1}}
	_, err := unix.ProcessVMReadv(os.Getpid(), local, remote, 0)
	switch {
	// EFAULT is memfd_secret's refusal, EPERM and ENOSYS are those of an outer filter.
	case errors.Is(err, unix.EFAULT), errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOSYS):
		return nil
	case err == nil:
		return errors.New("process_vm_readv can read the memory")
	default:
		return fmt.Errorf("process_vm_readv: %w", err)
	}
}

// allocate has the kernel allocate the pages of b, and leaves zeros there. Some kernels, such as Debian's 6.12.117, count
// the pages against RLIMIT_MEMLOCK only then, and not in mmap(2): an access by the program that exceeds the limit is
// SIGBUS, one by a system call is EFAULT. getrandom(2) writes any number of bytes without a descriptor. mlock(2)
// (ENOMEM) and MADV_POPULATE_WRITE (EINVAL, madvise(2)) do not allocate secret memory.
func allocate(b []byte) error {
	for rest := b; len(rest) > 0; {
		// Not unix.Getrandom, which may write to the memory without a system call.
		n, _, errno := unix.Syscall(unix.SYS_GETRANDOM, uintptr(unsafe.Pointer(&rest[0])), uintptr(len(rest)), 0)
		switch errno {
		case 0:
			rest = rest[n:]
		case unix.EFAULT:
			return fmt.Errorf("mmap: %w", unix.EAGAIN) // as from other kernels
		case unix.EINTR:
		default:
			return fmt.Errorf("getrandom: %w", errno)
		}
	}
	clear(b)
	return nil
}
