package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"unsafe"

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
	// execve(2) grants no privileges from here on, should it ever be called.
	_, noPrivs := call("prctl(PR_SET_NO_NEW_PRIVS)", allThreads, unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0)
	boundingKept, bound := dropBounding()
	if p.User != nil {
		who = *p.User
		if err := who.become(); err != nil {
			return nil, err
		}
	}
	noCaps := cmp.Or(dropCaps(), bound)
	// A change of user has made the process dumpable again, or not, by fs.suid_dumpable (proc_sys_fs(5)).
	exposed, err := noDump()
	if err != nil {
		return nil, err
	}
	threads := openThreads("/proc/self/task") // while it can be opened
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
		{"user", who.Name, cmp.Or(who.staysExposed(exposed), threads.wantIDs(who.UID, "Uid"), threads.wantIDs(who.GID, "Gid"))},
		whole("caps", "none", cmp.Or(noCaps, threads.wantNoCaps(boundingKept))),
		whole("no-new-privs", "on", cmp.Or(noPrivs, threads.want("1", "NoNewPrivs"))),
		{"landlock", version, noLandlock},
		whole("seccomp", "on", cmp.Or(noSeccomp, threads.wantFilter())),
	}, nil
}

// self returns the user that the process is now. Its name needs /etc/passwd.
func self() User {
	u := User{Name: strconv.Itoa(os.Geteuid()), UID: os.Geteuid(), GID: os.Getegid()}
	if found, err := user.LookupId(u.Name); err == nil {
		u.Name = found.Username
	}
	return u
}

// staysExposed returns an error for root, which is the owner of most files even without capabilities, and if the process
// was dumpable between the change of user and noDump.
func (u User) staysExposed(dumpable int) error {
	switch {
	case u.UID == 0:
		return errors.New("it stays root; name another user with --user")
	case dumpable == suidDumpUser:
		return errors.New("processes of that user could attach while the user was changed; set fs.suid_dumpable to 0")
	}
	return nil
}

// become changes real, effective and saved ids of all threads, which package syscall sees to, so that none is left to go
// back to (credentials(7)). The groups are first, while that is allowed. The start does not go on if it fails: a user
// that was asked for is not optional.
func (u User) become() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("only root can become another user (--user %s); start the proxy as root, or as that user without --user", u.Name)
	}
	if groups, err := syscall.Getgroups(); err != nil || len(groups) > 0 {
		if err := syscall.Setgroups(nil); err != nil {
			return fmt.Errorf("cannot leave the groups (setgroups): %w; CAP_SETGID may be missing", err)
		}
	}
	if err := syscall.Setresgid(u.GID, u.GID, u.GID); err != nil {
		return fmt.Errorf("cannot become group %d (setresgid): %w; CAP_SETGID may be missing", u.GID, err)
	}
	if err := syscall.Setresuid(u.UID, u.UID, u.UID); err != nil {
		return fmt.Errorf("cannot become user %s (setresuid): %w; CAP_SETUID may be missing", u.Name, err)
	}
	return nil
}

// Linux keeps five sets of capabilities for each thread (capabilities(7)). A process that has changed its uid from 0 has
// lost the permitted and effective ones by that; root, and a process that was given some, has not.

// dropBounding empties the bounding set of capabilities. It keeps the set where CAP_SETPCAP is missing. That is no gap:
// the set only limits what execve(2) grants, and with no-new-privs that grants nothing (capabilities(7)).
func dropBounding() (kept bool, _ error) {
	for capability := range uintptr(64) {
		in, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, capability, 0, 0, 0)
		if err != nil {
			return false, nil // beyond the last that the kernel has
		}
		if in == 0 {
			continue
		}
		_, err = call(fmt.Sprintf("prctl(PR_CAPBSET_DROP, %d)", capability), allThreads, unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, capability, 0)
		if sets, _ := capabilities(); errors.Is(err, unix.EPERM) && sets[0].Effective&(1<<unix.CAP_SETPCAP) == 0 {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// dropCaps clears the other four sets. Where they are empty it makes no call, so that a filter around this process need
// not allow it; the threads' status is the proof in any case.
func dropCaps() error {
	var none [2]unix.CapUserData
	if sets, err := capabilities(); err == nil && sets == none {
		return nil // the ambient set, a part of the permitted one, is empty too
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // Pid 0: the calling thread
	_, ambient := call("prctl(PR_CAP_AMBIENT)", allThreads, unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0)
	_, others := call("capset", allThreads, unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none)), 0)
	return cmp.Or(ambient, others)
}

// capabilities returns the calling thread's sets: the capabilities below 32, and those from 32 on.
func capabilities() (sets [2]unix.CapUserData, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return sets, fmt.Errorf("capget: %w", err)
	}
	return sets, nil
}
