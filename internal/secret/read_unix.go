//go:build unix

package secret

import (
	"errors"

	"golang.org/x/sys/unix"
)

// readFD is read(2) without os.File, whose errors and pollers this path does
// not need. A descriptor that its owner left in non-blocking mode is waited for.
func readFD(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); err != nil && !errors.Is(err, unix.EINTR) {
				return 0, err
			}
		default:
			return max(n, 0), err
		}
	}
}
