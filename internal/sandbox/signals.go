package sandbox

import (
	"os"
	"os/signal"
	"syscall"
)

// endQuietly ends the process when one of signals is sent by a process. A fault of our own code is not sent: it stays a
// panic.
func endQuietly(signals []os.Signal) {
	if len(signals) == 0 {
		return // Notify would take that for all
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, signals...)
	go func() {
		if sig, ok := (<-c).(syscall.Signal); ok {
			os.Exit(128 + int(sig))
		}
	}()
}
