package secret

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// secretmemMagic is the file system type of memfd_secret files, SECRETMEM_MAGIC of linux/magic.h.
const secretmemMagic = 0x5345434d

// The requests of termios(3), for NoEcho.
const getTermios, setTermios = unix.TCGETS, unix.TCSETS

// mapSecret maps size bytes of memfd_secret(2) between two guard pages, and proves that the kernel refuses to read them
// for others.
func mapSecret(size int) ([]byte, error) {
	fd, err := unix.MemfdSecret(unix.O_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_secret: %w", err)
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil || fs.Type != secretmemMagic {
		return nil, errors.Join(errors.New("memfd_secret gave another kind of file"), err)
	}
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return nil, fmt.Errorf("memfd_secret: ftruncate: %w", err)
	}
	b, err := mapGuarded(fd, size, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("memfd_secret: %w", err)
	}
	if err := proveUnreadable(b); err != nil {
		return nil, errors.Join(err, unmapGuarded(b))
	}
	return b, nil
}

// proveUnreadable reads b as a debugger would. Where the sandbox around this process forbids the call itself, the file
// system type stands as the proof.
func proveUnreadable(b []byte) error {
	clear(b) // the pages must be there, or the refusal would prove nothing
	var into [1]byte
	local := []unix.Iovec{{Base: &into[0], Len: 1}}
	remote := []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&b[0])), Len: 1}}
	_, err := unix.ProcessVMReadv(os.Getpid(), local, remote, 0)
	switch {
	case errors.Is(err, unix.EFAULT), errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOSYS):
		return nil
	case err == nil:
		return errors.New("memfd_secret memory can be read by process_vm_readv")
	default:
		return fmt.Errorf("process_vm_readv on memfd_secret memory: %w", err)
	}
}

// mapLocked maps size bytes of anonymous memory that is not swapped, not dumped and not there in a child.
func mapLocked(size int) ([]byte, error) {
	b, err := mapGuarded(-1, size, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	if err := lock(b); err != nil {
		return nil, errors.Join(err, unmapGuarded(b))
	}
	return b, nil
}

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

// mapGuarded maps size bytes, a multiple of the page size, with an inaccessible page on each side, so that a read that
// runs out of bounds faults instead of finding a neighbour.
func mapGuarded(fd, size, flags int) ([]byte, error) {
	page := os.Getpagesize()
	base, err := unix.MmapPtr(-1, 0, nil, uintptr(size+2*page), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("mmap of the guard pages: %w", err)
	}
	p, err := unix.MmapPtr(fd, 0, unsafe.Add(base, page), uintptr(size), unix.PROT_READ|unix.PROT_WRITE, flags|unix.MAP_FIXED)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mmap: %w", err), unix.MunmapPtr(base, uintptr(size+2*page)))
	}
	return unsafe.Slice((*byte)(p), size), nil
}

func unmapGuarded(b []byte) error {
	page := os.Getpagesize()
	return unix.MunmapPtr(unsafe.Add(unsafe.Pointer(&b[0]), -page), uintptr(len(b)+2*page))
}
