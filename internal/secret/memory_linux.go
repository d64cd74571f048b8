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

// The requests of tcgetattr and tcsetattr (ioctl_tty(2)), for NoEcho.
const getTermios, setTermios = unix.TCGETS, unix.TCSETS

// mapSecret maps size bytes of memfd_secret(2) between two guard pages, and checks that the kernel refuses to read them
// on behalf of other processes. The descriptor is closed: the mapping keeps the memory, and a descriptor could be
// inherited or passed on.
func mapSecret(size int) ([]byte, error) {
	// O_CLOEXEC, because another goroutine may start a process before the descriptor is closed.
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
	// memfd_secret(2) can be mapped only with MAP_SHARED.
	b, err := mapGuarded(fd, size, unix.MAP_SHARED, proveUnreadable)
	if err != nil {
		return nil, fmt.Errorf("memfd_secret: %w", err)
	}
	return b, nil
}

// proveUnreadable tries to read b as a debugger would, with process_vm_readv(2). If an outer sandbox refuses that
// system call itself, the file system type is the only proof.
func proveUnreadable(b []byte) error {
	clear(b) // allocates the pages: EFAULT for a missing page would prove nothing
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

// mapLocked maps size bytes of anonymous memory that is not swapped (mlock(2)), not in core files (MADV_DONTDUMP), and
// zero in a child (MADV_WIPEONFORK, madvise(2)).
func mapLocked(size int) ([]byte, error) {
	return mapGuarded(-1, size, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, lock)
}

// lock returns an error if the kernel refuses any of the three: memory that is only partly protected must not count as
// Locked.
func lock(b []byte) error {
	if err := unix.Mlock(b); err != nil {
		return fmt.Errorf("mlock: %w; raise RLIMIT_MEMLOCK (ulimit -l) to at least %d KiB", err, len(b)/1024)
	}
	for _, advice := range []int{unix.MADV_DONTDUMP, unix.MADV_WIPEONFORK} {
		if err := unix.Madvise(b, advice); err != nil {
			return fmt.Errorf("madvise(%d): %w", advice, err)
		}
	}
	return nil
}

// mapGuarded maps size bytes, a multiple of the page size, and calls protect on them. An inaccessible page on each side
// makes a read out of bounds fault instead of reading an adjacent mapping. Both pages are mapped first and then
// overmapped with MAP_FIXED, so that no other mapping can be placed between them.
func mapGuarded(fd, size, flags int, protect func([]byte) error) ([]byte, error) {
	page := os.Getpagesize()
	// The whole range is reserved without access; the middle is then mapped over it.
	base, err := unix.MmapPtr(-1, 0, nil, uintptr(size+2*page), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("mmap of the guard pages: %w", err)
	}
	b := unsafe.Slice((*byte)(unsafe.Add(base, page)), size)
	if _, err = unix.MmapPtr(fd, 0, unsafe.Pointer(&b[0]), uintptr(size), unix.PROT_READ|unix.PROT_WRITE, flags|unix.MAP_FIXED); err != nil {
		err = fmt.Errorf("mmap: %w", err)
	} else {
		err = protect(b)
	}
	if err != nil {
		return nil, errors.Join(err, unmapGuarded(b))
	}
	return b, nil
}

// unmapGuarded unmaps b and its guard pages.
func unmapGuarded(b []byte) error {
	page := os.Getpagesize()
	return unix.MunmapPtr(unsafe.Add(unsafe.Pointer(&b[0]), -page), uintptr(len(b)+2*page))
}
