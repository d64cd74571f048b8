//go:build !linux

package sandbox

import "errors"

// protect sets the core limit. A process of the same user can still debug this one: only Linux has PR_SET_DUMPABLE.
func protect() (Report, error) {
	attach := errors.New("on this system a debugger of the same user can attach at any time")
	core, err := noCrashOutput()
	return Report{{"dumpable", "yes", attach}, core, {"start-window", "open", attach}}, err
}

// enforce changes nothing and reports every protection as missing.
func enforce(p Policy) (r Report, _ error) {
	if p.User != nil {
		return nil, errors.New("the user can be changed on Linux only; start the proxy as that user")
	}
	for _, name := range []string{"caps", "no-new-privs", "landlock", "seccomp"} {
		r = append(r, whole(name, "", errors.New("only Linux has it")))
	}
	return r, nil
}
