//go:build unix

package secret

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// readFD calls read(2) directly, so that the kernel copies the key into p and nowhere else. An os.File would own the
// descriptor, and close it once it is collected. If the descriptor is in non-blocking mode, which it shares with the
// process that has passed it on (fcntl(2), F_SETFL), readFD leaves it so and waits with poll(2).
//
// It blocks its thread until there is input, returns 0 at the end of the input, and does not own fd. EINTR comes from
// poll(2), which is never restarted after a signal's handler (signal(7)), and from read(2) on some file systems.
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
// terminal, tty is false and nothing is changed. The caller must call restore also when it stops early: the mode
// belongs to the terminal, and would stay for the shell.
func NoEcho(fd int) (restore func(), tty bool, err error) {
	// ENOTTY for a pipe or a file, EIO for a terminal that has hung up: neither has an echo to be turned off.
	old, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil {
		return nil, false, nil // not a terminal
	}
	// ICANON gives a whole line with the usual editing, of at most 4095 bytes; ISIG keeps Ctrl-C; ECHONL shows that
	// Enter was pressed.
	quiet := *old
	quiet.Lflag &^= unix.ECHO
	quiet.Lflag |= unix.ICANON | unix.ISIG | unix.ECHONL
	if err := unix.IoctlSetTermios(fd, setTermios, &quiet); err != nil {
		return nil, true, fmt.Errorf("cannot turn the terminal's echo off: %w", err)
	}
	return func() { _ = unix.IoctlSetTermios(fd, setTermios, old) }, true, nil
}
