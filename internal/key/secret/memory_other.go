//go:build unix && !linux

package secret

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// The requests of tcgetattr and tcsetattr (termios(4)), for NoEcho. TIOCSETA changes the terminal at once.
const getTermios, setTermios = unix.TIOCGETA, unix.TIOCSETA

// mapLocked maps size bytes that are not swapped (mlock(2)). They may be in a core file, which package sandbox prevents
// by RLIMIT_CORE, and are inherited by a child; the daemon starts none. There are no guard pages: a debugger of the
// same user can read the memory in any case.
func mapLocked(size int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("mmap: %w", err)
	}
	if err := unix.Mlock(b); err != nil {
		return nil, errors.Join(fmt.Errorf("mlock: %w", err), unix.Munmap(b))
	}
	return b, nil
}

// unmapGuarded unmaps b. The caller must have wiped it.
func unmapGuarded(b []byte) error { return unix.Munmap(b) }
