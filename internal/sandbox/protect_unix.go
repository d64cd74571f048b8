//go:build unix

package sandbox

import (
	"cmp"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// noCrashOutput keeps the process from writing its memory where it ends: it sets both limits of RLIMIT_CORE to 0, so that
// they cannot be raised again without privilege. That stands beside PR_SET_DUMPABLE for the systems that lack it, and for
// a core_pattern that pipes to a program (core(5)).
//
// And it ends the process in silence when another one sends a signal for which Go prints stacks and registers: one of
// those for which it does on every system, or of others. A fault of our own code is not sent: it stays a panic.
func noCrashOutput(others ...os.Signal) (Protection, error) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, append(others, unix.SIGQUIT, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGBUS, unix.SIGFPE,
		unix.SIGSEGV, unix.SIGSYS)...)
	go func() {
		if sig, ok := (<-c).(syscall.Signal); ok {
			os.Exit(128 + int(sig))
		}
	}()
	var got unix.Rlimit
	err := cmp.Or(unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}), unix.Getrlimit(unix.RLIMIT_CORE, &got))
	if err == nil && got != (unix.Rlimit{}) {
		err = fmt.Errorf("it is still %d/%d", got.Cur, got.Max)
	}
	if err != nil {
		err = fmt.Errorf("RLIMIT_CORE cannot be set to 0: %w", err)
	}
	return Protection{"core", "no", nil}, err
}
