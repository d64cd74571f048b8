package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/harden"
)

// enter does things in the order in which each still may be done: rules name
// files that only the old user may find, the bounding set needs a capability,
// Landlock and seccomp need no-new-privs, and after seccomp nothing of this can
// be called.
func enforce(p Policy) (*Report, error) {
	who, err := resolve(p.User)
	if err != nil {
		return nil, err
	}
	rules, noRules, err := newRuleset(p)
	if err != nil {
		return nil, err
	}
	defer rules.close()

	noPrivs := noNewPrivs()
	boundingKept, bound := dropBounding()
	if err := who.become(); err != nil {
		return nil, err
	}
	noCaps := cmp.Or(dropCaps(), bound)
	exposed, err := harden.Dumpable()
	if err := cmp.Or(err, harden.NoDump()); err != nil {
		return nil, err
	}
	threads := openThreads()
	defer threads.close()

	abi, noLandlock, noSeccomp := "", errOff, errOff
	if !p.Off {
		abi, noLandlock = rules.restrict(noRules)
		noSeccomp = filterCalls(p, noPrivs)
	}

	seen := threads.look(who, boundingKept)
	r := &Report{}
	r.addPart("user", who.name, cmp.Or(who.missing(), attachable(exposed), seen.user))
	r.add("caps", "none", cmp.Or(noCaps, seen.caps))
	r.add("no-new-privs", "on", cmp.Or(noPrivs, seen.noNewPrivs))
	r.addPart("landlock", abi, noLandlock)
	if noSeccomp == nil {
		noSeccomp = seen.seccomp
	}
	r.add("seccomp", "on", noSeccomp)
	return r, nil
}

// attachable returns an error if the process was dumpable between the change of
// user, for which the kernel sets fs.suid_dumpable, and the call of NoDump.
func attachable(exposed bool) error {
	if exposed {
		return errors.New("processes of that user could attach while the user was changed; set fs.suid_dumpable to 0")
	}
	return nil
}

var errCgo = errors.New("this binary is linked with cgo; build it with CGO_ENABLED=0")

// filterCalls leaves a binary with cgo alone: the C library makes other system
// calls, and ends the process when it cannot start a thread.
func filterCalls(p Policy, noPrivs error) error {
	if errors.Is(noPrivs, errCgo) {
		return errCgo
	}
	return install(p)
}

// onAllThreads makes a system call on every thread. They must agree on its
// result: the runtime ends the process if they do not.
func onAllThreads(trap, a1, a2, a3 uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall6(trap, a1, a2, a3, 0, 0, 0)
	switch errno {
	case 0:
		return nil
	case syscall.ENOTSUP:
		return errCgo
	}
	return errno
}

// noNewPrivs makes execve give no privileges, should it ever be called.
func noNewPrivs() error {
	if err := onAllThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_NO_NEW_PRIVS): %w", err)
	}
	return nil
}
