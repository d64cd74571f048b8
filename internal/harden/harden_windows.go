package harden

import "os"

// dumpSignals is empty: no process can send such signals here.
var dumpSignals []os.Signal

// lockDown has nothing to set: Windows guards a process by its owner's token
// alone, and its error reporting may write dumps.
func lockDown() (Report, error) {
	return Report{Missing: []string{"not-dumpable", "no-core"}, Window: errAlways}, nil
}
