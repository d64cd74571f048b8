//go:build !linux

package jail

import "errors"

var errNoJail = errors.New("only Linux has it")

// enter has nothing to enter.
func enter(cfg Config) (*Report, error) {
	if cfg.User != "" {
		return nil, errors.New("the user can be changed on Linux only; start the proxy as that user")
	}
	r := &Report{}
	for _, name := range []string{"caps", "no-new-privs", "landlock", "seccomp"} {
		r.add(name, "", errNoJail)
	}
	return r, nil
}
