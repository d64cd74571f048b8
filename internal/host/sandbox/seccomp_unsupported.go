//go:build linux && !amd64 && !arm64

package sandbox

import "errors"

// seccomp changes nothing: no list of system calls has been tested on this architecture.
func seccomp(Policy) error {
	return errors.New("no list of system calls for this architecture")
}
