package main

import (
	"errors"
	"os"
)

var stopSignals = []os.Signal{os.Interrupt}

// Windows has no hangups.
var hangupSignals []os.Signal

const noFollow = 0

// checkKeyFD refuses: without SIGHUP no key is ever read again.
func checkKeyFD(fd int) error {
	if fd == 0 {
		return nil
	}
	return errors.New("--key-fd is not supported here: there is no SIGHUP; restart the proxy with another key")
}

func rewind(int) {}

// detach leaves standard error open: there is nobody here who waits for its
// end.
func detach(bool) (before *os.File, err error) { return os.Stderr, nil }

// ignoreSignals has nothing to do: Windows has neither of them.
func ignoreSignals() {}

// dropStdin closes standard input.
func dropStdin() error { return os.Stdin.Close() }
