package sandbox

import (
	"errors"
	"os"
)

// dumpSignals is empty: no process can send such signals here.
var dumpSignals []os.Signal

var errDumps = errors.New("error reporting may write dumps")

// protect has nothing to set: Windows guards a process by its owner's token alone.
func protect() (Report, error) {
	return Report{{"dumpable", "yes", errAttach}, {"core", "yes", errDumps}, {"start-window", "open", errAttach}}, nil
}
