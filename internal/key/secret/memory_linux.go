package secret

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The requests of tcgetattr and tcsetattr (ioctl_tty(2)), for NoEcho. TCSETS changes the terminal at once and keeps
// what is typed ahead (TCSANOW).
const getTermios, setTermios = unix.TCGETS, unix.TCSETS

// mapLocked maps size bytes of anonymous memory that is not swapped (mlock(2)), not in core files (MADV_DONTDUMP, since
// Linux 3.4), and zero in a child (MADV_WIPEONFORK, since Linux 4.14; madvise(2)). A process that may trace this one
// can read it, and a hibernation image includes it (mlock(2), "NOTES").
func mapLocked(size int) ([]byte, error) {
	return mapGuarded(-1, size, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, lock)
}

// lock returns an error if the kernel refuses any of the three: memory that is only partly protected must not count as
// Locked. mlock(2) also allocates the pages; it fails beyond RLIMIT_MEMLOCK, which counts whole pages, unless the
// process has CAP_IPC_LOCK.
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
// makes a read out of bounds fault instead of reading an adjacent mapping, and a write that runs off the heap cannot
// reach the key. If protect fails, nothing stays mapped.
func mapGuarded(fd, size, flags int, protect func([]byte) error) ([]byte, error) {
	page := os.Getpagesize()
	// The whole range is reserved without access, and the middle is then mapped over it with MAP_FIXED (mmap(2)), so
	// that no other mapping can be placed beside the guard pages. The guard pages take no memory. unix.Mmap takes no
	// address.
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

// unmapGuarded unmaps b and its guard pages. The caller must have wiped b: the kernel clears a page only when it is used
// again.
func unmapGuarded(b []byte) error {
	page := os.Getpagesize()
	return unix.MunmapPtr(unsafe.Add(unsafe.Pointer(&b[0]), -page), uintptr(len(b)+2*page))
}
