//go:build unix && !linux

package sandbox

import (
	"os"

	"golang.org/x/sys/unix"
)

// dumpSignals are those for which Go prints stacks and registers.
var dumpSignals = []os.Signal{
	unix.SIGQUIT, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV, unix.SIGSYS,
}

// protect sets what every Unix has. A process of the same user can still debug this one.
func protect() (Report, error) {
	return Report{{"dumpable", "yes", errAttach}, {"core", "no", nil}, {"start-window", "open", errAttach}}, noCore()
}
