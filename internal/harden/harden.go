// Package harden protects the whole process before it holds a secret: no other
// process of its user can look into it, and it leaves no core file.
//
// A signal that another process sends prints nothing. A fault of the program
// itself is not prevented from that here: the Go runtime then writes all stacks
// with their arguments, and where it was no ordinary nil dereference the general
// registers too, to descriptor 2, whatever GOTRACEBACK says. The program must
// have /dev/null there before it reads a secret.
package harden

import "fmt"

// Report is what Process found, and could not change.
type Report struct {
	// Missing names the protections that the system does not offer.
	Missing []string

	// Window says by what a process of the same user could have attached to
	// this one before Process was called, and what to do; nil if none could. A
	// descriptor that was opened then stays good for the life of the process.
	Window error
}

// Process applies every process-wide protection that this system has and reads
// each one back. It must be the first thing that main does, before any secret
// is read. An error means that a protection which the system offers could not
// be set, or that the process is being traced; the caller must stop.
//
// From then on the signals for which Go prints all stacks and registers end
// the process at once and in silence, with the shell's exit code for them:
// any process of the same user can send those.
func Process() (Report, error) {
	r, err := lockDown()
	if err != nil {
		return r, fmt.Errorf("cannot protect the process: %w", err)
	}
	endQuietly(dumpSignals)
	return r, nil
}
