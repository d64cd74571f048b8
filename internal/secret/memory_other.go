//go:build unix && !linux

package secret

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// The requests of tcgetattr and tcsetattr (termios(4)), for NoEcho.
const getTermios, setTermios = unix.TIOCGETA, unix.TIOCSETA

// mapLocked maps size bytes that are not swapped (mlock(2)). This system has no call that keeps them out of a core
// file; the sandbox sets RLIMIT_CORE.
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

func unmapGuarded(b []byte) error { return unix.Munmap(b) }
