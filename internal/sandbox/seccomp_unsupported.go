//go:build linux && !amd64 && !arm64

package sandbox

import "errors"

// seccomp changes nothing: no list of system calls was ever tried here.
func seccomp(Policy) error {
	return errors.New("there is no list of system calls for this architecture")
}
