//go:build unix && !linux

package harden

import (
	"os"

	"golang.org/x/sys/unix"
)

// dumpSignals are those that Go answers with stacks and registers.
var dumpSignals = []os.Signal{
	unix.SIGQUIT, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV, unix.SIGSYS,
}

// lockDown sets what every Unix has. A process of the same user can still be
// debugged here.
func lockDown() (Report, error) {
	return Report{Missing: []string{"not-dumpable"}, Window: errAlways}, noCore()
}
