package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// enforce does things in the order in which each is still allowed: paths may be found by the old user only, the bounding
// set needs a capability, Landlock and seccomp need no-new-privs, and after seccomp none of this can be called.
func enforce(p Policy) (Report, error) {
	who := self()
	paths, err := openPaths(p)
	defer closePaths(paths)
	if err != nil {
		return nil, err
	}
	noPrivs := noNewPrivs()
	boundingKept, bound := dropBounding()
	if p.User != nil {
		who = *p.User
		if err := who.become(); err != nil {
			return nil, err
		}
	}
	noCaps := cmp.Or(dropCaps(), bound)
	// A change of user has made the process dumpable again, or not, by fs.suid_dumpable (proc_sys_fs(5)).
	exposed, err := dumpable()
	if err := cmp.Or(err, noDump()); err != nil {
		return nil, err
	}
	threads := openThreads() // while /proc can be opened
	defer threads.close()

	version, noLandlock, noSeccomp := "", errOff, errOff
	switch {
	case p.Off:
	case errors.Is(noPrivs, errCgo): // the C library makes other calls, and ends the process when it cannot start a thread
		noLandlock, noSeccomp = errCgo, errCgo
	default:
		if version, noLandlock, err = landlock(p, paths); err != nil {
			return nil, err
		}
		noSeccomp = seccomp(p)
	}
	return Report{
		{"user", who.Name, cmp.Or(who.staysRoot(), attachable(exposed), threads.wantIDs(who.UID, "Uid"), threads.wantIDs(who.GID, "Gid"))},
		whole("caps", "none", cmp.Or(noCaps, threads.wantNoCaps(boundingKept))),
		whole("no-new-privs", "on", cmp.Or(noPrivs, threads.want("1", "NoNewPrivs"))),
		{"landlock", version, noLandlock},
		whole("seccomp", "on", cmp.Or(noSeccomp, threads.wantFilter())),
	}, nil
}

// attachable returns an error if the process was dumpable between the change of user and noDump.
func attachable(exposed int) error {
	if exposed == suidDumpUser {
		return errors.New("processes of that user could attach while the user was changed; set fs.suid_dumpable to 0")
	}
	return nil
}

var errCgo = errors.New("this binary is linked with cgo; build it with CGO_ENABLED=0")

// onAllThreads makes a system call on every thread. They must agree on its result: the runtime ends the process if they
// do not. It works by signals, and not in a binary with cgo.
//
//go:uintptrescapes
func onAllThreads(trap, a1, a2, a3 uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall(trap, a1, a2, a3)
	switch errno {
	case 0:
		return nil
	case syscall.ENOTSUP:
		return errCgo
	}
	return errno
}

// onThisThread makes a system call.
//
//go:uintptrescapes
func onThisThread(trap, a1, a2, a3 uintptr) error {
	if _, _, errno := syscall.Syscall(trap, a1, a2, a3); errno != 0 {
		return errno
	}
	return nil
}

// noNewPrivs makes execve(2) grant no privileges, should it ever be called (prctl(2), PR_SET_NO_NEW_PRIVS).
func noNewPrivs() error {
	if err := onAllThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_NO_NEW_PRIVS): %w", err)
	}
	return nil
}
