//go:build unix

package secret

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// readFD is read(2) without os.File, whose errors and pollers this path does not need. A descriptor that its owner left
// in non-blocking mode is waited for.
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

// NoEcho turns the echo of the terminal fd off and returns a function that turns it on again. Where fd is not a
// terminal, tty is false and nothing was changed.
func NoEcho(fd int) (restore func(), tty bool, err error) {
	old, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil {
		return nil, false, nil // not a terminal
	}
	quiet := *old
	quiet.Lflag &^= unix.ECHO
	quiet.Lflag |= unix.ICANON | unix.ISIG | unix.ECHONL
	if err := unix.IoctlSetTermios(fd, setTermios, &quiet); err != nil {
		return nil, true, fmt.Errorf("cannot turn the terminal's echo off: %w", err)
	}
	return func() { _ = unix.IoctlSetTermios(fd, setTermios, old) }, true, nil
}
