package sandbox

import (
	"os"
	"os/signal"
	"syscall"
)

// dumpSignals are those for which Go prints stacks and registers on every system.
var dumpSignals = []os.Signal{
	syscall.SIGQUIT, syscall.SIGILL, syscall.SIGTRAP, syscall.SIGABRT, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGSEGV,
}

// endQuietly ends the process when a process sends one of dumpSignals, or of those that only this system has. A fault of
// our own code is not sent: it stays a panic.
func endQuietly(others ...os.Signal) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, append(others, dumpSignals...)...)
	go func() {
		if sig, ok := (<-c).(syscall.Signal); ok {
			os.Exit(128 + int(sig))
		}
	}()
}
