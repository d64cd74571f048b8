// Package harden locks the whole process down before it holds a secret: it
// cannot be dumped, leaves no core, and prints no memory when it crashes.
package harden

import (
	"fmt"
	"runtime/debug"
)

// Process applies every process-wide protection that this system has and reads
// each one back. It must be the first thing that main does, before any secret
// is read. missing names the protections that the system does not offer, for
// the operator to read; an error means that one which it does offer could not
// be set, and the caller must stop.
func Process() (missing []string, err error) {
	// A crash must not print arguments and registers of the goroutines that
	// were handling a key. GOTRACEBACK in the environment still wins: whoever
	// sets it controls the start.
	debug.SetTraceback("none")
	missing, err = lockDown()
	if err != nil {
		return missing, fmt.Errorf("cannot protect the process: %w", err)
	}
	return missing, nil
}
