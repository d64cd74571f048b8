//go:build !linux

package sandbox

import "errors"

var (
	errAttach      = errors.New("here a debugger of the same user can attach at any time")
	errUnsupported = errors.New("only Linux has it")
)

// enforce changes nothing.
func enforce(p Policy) (r Report, _ error) {
	if p.User != nil {
		return nil, errors.New("the user can be changed on Linux only; start the proxy as that user")
	}
	for _, name := range []string{"caps", "no-new-privs", "landlock", "seccomp"} {
		r = append(r, whole(name, "", errUnsupported))
	}
	return r, nil
}
