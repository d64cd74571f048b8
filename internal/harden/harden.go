// Package harden locks the whole process down before it holds a secret: it
// cannot be looked into, leaves no core, and prints no registers.
package harden

import "fmt"

// Process applies every process-wide protection that this system has and reads
// each one back. It must be the first thing that main does, before any secret
// is read. missing names the protections that the system does not offer, for
// the operator to read; an error means that one which it does offer could not
// be set, and the caller must stop.
//
// From then on the signals for which Go prints all stacks and registers end
// the process at once and in silence, with the shell's exit code for them:
// any process of the same user can send those.
func Process() (missing []string, err error) {
	endQuietly(dumpSignals)
	missing, err = lockDown()
	if err != nil {
		return missing, fmt.Errorf("cannot protect the process: %w", err)
	}
	return missing, nil
}
