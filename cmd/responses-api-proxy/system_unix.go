//go:build unix

package main

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

var stopSignals = []os.Signal{unix.SIGTERM, unix.SIGINT}

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
