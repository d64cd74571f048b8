package main

import "os"

var stopSignals = []os.Signal{os.Interrupt}

// Windows has no hangups.
var hangupSignals []os.Signal

const noFollow = 0

// detach leaves standard error open: there is nobody here who waits for its
// end.
func detach(bool) (before *os.File, err error) { return os.Stderr, nil }

// ignoreSignals has nothing to do: Windows has neither of them.
func ignoreSignals() {}

// dropStdin closes standard input.
func dropStdin() error { return os.Stdin.Close() }
