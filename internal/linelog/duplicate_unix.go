//go:build unix

package linelog

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func duplicate(fd int) (*os.File, error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", fd, err)
	}
	return os.NewFile(uintptr(own), fmt.Sprintf("descriptor %d", fd)), nil
}
