//go:build !linux

package sandbox

import "errors"

var errUnsupported = errors.New("only Linux has it")

// enter has nothing to enter.
func enforce(p Policy) (*Report, error) {
	if p.User != "" {
		return nil, errors.New("the user can be changed on Linux only; start the proxy as that user")
	}
	r := &Report{}
	for _, name := range []string{"caps", "no-new-privs", "landlock", "seccomp"} {
		r.add(name, "", errUnsupported)
	}
	return r, nil
}
