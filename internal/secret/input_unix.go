//go:build unix

package secret

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// readFD calls read(2) directly: an os.File would register the descriptor with the poller and change its mode. If a
// descriptor that is shared with its owner is in non-blocking mode, readFD waits with poll(2).
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

// NoEcho turns the echo of the terminal fd off (termios(3)) and returns a function that restores it. If fd is not a
// terminal, tty is false and nothing is changed.
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
