//go:build unix

package linelog

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// duplicate returns a duplicate of fd, which the caller owns. Its number is the lowest free one from 3 on (fcntl(2),
// F_DUPFD_CLOEXEC), so that it cannot take the place of a standard stream that is closed. Both share one open file
// description, and with it O_NONBLOCK: on a blocking one a write has no deadline and blocks its thread.
func duplicate(fd int) (*os.File, error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", fd, err)
	}
	return os.NewFile(uintptr(own), fmt.Sprintf("descriptor %d", fd)), nil
}
