package secret

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/windows"
)

// mapLocked allocates size bytes that VirtualLock keeps out of the page file. VirtualAlloc rounds to whole pages and
// returns zeros. The limit is the minimum working set of the process, less a few pages. A process of the same user can
// read the memory (ReadProcessMemory), and a crash dump may contain it.
func mapLocked(size int) ([]byte, error) {
	addr, err := windows.VirtualAlloc(0, uintptr(size), windows.MEM_COMMIT|windows.MEM_RESERVE, windows.PAGE_READWRITE)
	if err != nil {
		return nil, fmt.Errorf("VirtualAlloc: %w", err)
	}
	// Memory that cannot be locked is freed and not used, as on other systems.
	if err := windows.VirtualLock(addr, uintptr(size)); err != nil {
		return nil, errors.Join(fmt.Errorf("VirtualLock: %w", err), windows.VirtualFree(addr, 0, windows.MEM_RELEASE))
	}
	return unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&addr))), size), nil
}

// unmapGuarded frees what mapLocked returned, all of it: MEM_RELEASE requires size 0, and unlocks the pages.
func unmapGuarded(b []byte) error {
	return windows.VirtualFree(uintptr(unsafe.Pointer(&b[0])), 0, windows.MEM_RELEASE)
}
