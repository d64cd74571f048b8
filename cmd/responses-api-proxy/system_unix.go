//go:build unix

package main

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

var stopSignals = []os.Signal{unix.SIGTERM, unix.SIGINT}

var hangupSignals = []os.Signal{unix.SIGHUP}

// noFollow refuses a link in a file's place.
const noFollow = unix.O_NOFOLLOW

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
