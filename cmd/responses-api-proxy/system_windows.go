package main

import "os"

var stopSignals = []os.Signal{os.Interrupt}

// Windows has no hangups.
var hangupSignals []os.Signal

// become runs a program with the standard streams, and ends with its exit code: Windows cannot replace a process. It
// returns only when that fails.
func become(program string, args []string) error {
	p, err := os.StartProcess(program, args, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return err
	}
	state, err := p.Wait()
	if err == nil {
		os.Exit(state.ExitCode())
	}
	return err
}

// detach closes standard input, and leaves the others open: nothing here waits for their end. Go's report of a fault
// stays visible.
func detach(fd int) error {
	if fd == 0 {
		return os.Stdin.Close()
	}
	return nil
}

// openFiles is 0: there is no limit.
func openFiles() int { return 0 }

// ignoreSignals has nothing to do: Windows has neither of them.
func ignoreSignals() {}

// mayCreate does not look at access control lists.
func mayCreate(string, int, []int) bool { return true }

// fileLimit returns that there is none.
func fileLimit() int64 { return -1 }
