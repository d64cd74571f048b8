//go:build unix

package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

var stopSignals = []os.Signal{unix.SIGTERM, unix.SIGINT}

var hangupSignals = []os.Signal{unix.SIGHUP}

// noFollow refuses a link in a file's place, and does not wait for a reader of a
// FIFO there: SIGHUP's other work, and a stop during the start, would wait too.
const noFollow = unix.O_NOFOLLOW | unix.O_NONBLOCK

// checkKeyFD makes sure that a key can come from fd, unless that is 0, and keeps
// it from other programs. A descriptor that was passed to this program cannot be
// close-on-exec; one that is, this program has opened itself: a socket of its
// own, or what Go's runtime reads of a control group.
func checkKeyFD(fd int) error {
	if fd == 0 {
		return nil
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err == nil && flags&unix.O_ACCMODE == unix.O_WRONLY {
		err = unix.EBADF
	}
	if own, e := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && e == nil && own&unix.FD_CLOEXEC != 0 {
		err = unix.EBADF
	}
	if err != nil {
		return fmt.Errorf("--key-fd %d is not open for reading (%w); open it for the proxy, as with %[1]d<>FIFO", fd, err)
	}
	unix.CloseOnExec(fd)
	return unix.SetNonblock(fd, false) // reading waits for the key
}

// rewind goes back to a file's beginning; a FIFO has none. Whoever else has it
// open may have made reading not wait.
func rewind(fd int) {
	unix.SetNonblock(fd, false)
	unix.Seek(fd, 0, io.SeekStart)
}

// detach puts /dev/null in the place of standard error, and of standard output
// unless that is kept, and returns what standard error was.
func detach(keepOutput bool) (before *os.File, err error) {
	fd, err := unix.FcntlInt(2, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	before = os.NewFile(uintptr(fd), "stderr")
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err == nil {
		defer null.Close()
		err = dup(int(null.Fd()), 2)
	}
	if err == nil && !keepOutput {
		err = dup(int(null.Fd()), 1)
	}
	if err != nil {
		before.Close()
		return nil, err
	}
	return before, nil
}

func ignoreSignals() { signal.Ignore(unix.SIGHUP, unix.SIGPIPE) }

// dropStdin puts /dev/null in the place of standard input.
func dropStdin() error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	return dup(int(null.Fd()), 0)
}
