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

// noCrashOutput keeps the process from writing its memory when it ends. It sets both limits of RLIMIT_CORE to 0
// (getrlimit(2)), the hard one so that no process without privilege can raise it again. PR_SET_DUMPABLE has the same
// effect on Linux, also where core_pattern is a pipe, for which Linux ignores the limit (core(5)); the limit covers
// systems without that attribute.
//
// A signal from another process, for which Go would print stacks and registers, ends the process without output: the
// signals listed here, which do so on every system, and others. A fault of the program's own code is still a panic,
// since the runtime does not pass synchronous signals to Notify (os/signal).
func noCrashOutput(others ...os.Signal) (Protection, error) {
	// Notify installs a handler of the runtime, which passes the signal on instead of printing; one slot is enough,
	// since the first signal ends the process.
	c := make(chan os.Signal, 1)
	signal.Notify(c, append(others, unix.SIGQUIT, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGBUS, unix.SIGFPE,
		unix.SIGSEGV, unix.SIGSYS)...)
	go func() {
		if sig, ok := (<-c).(syscall.Signal); ok {
			os.Exit(128 + int(sig))
		}
	}()
	got := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY} // unless it is read back
	err := cmp.Or(unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}), unix.Getrlimit(unix.RLIMIT_CORE, &got))
	if err == nil && got != (unix.Rlimit{}) {
		err = fmt.Errorf("it is still %d/%d", got.Cur, got.Max)
	}
	if err != nil {
		err = fmt.Errorf("RLIMIT_CORE cannot be set to 0: %w", err)
	}
	return Protection{"core", "no", nil}, err
}
