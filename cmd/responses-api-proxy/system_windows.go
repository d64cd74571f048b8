package main

import "os"

var stopSignals = []os.Signal{os.Interrupt}

// ignoreSignals has nothing to do: Windows has neither of them.
func ignoreSignals() {}

// dropStdin closes standard input.
func dropStdin() error { return os.Stdin.Close() }
