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

// enforce applies the protections in the only possible order. Rules are made first, since the new user may not find their
// files. Dropping the bounding set needs CAP_SETPCAP, which the change of user clears. Landlock and seccomp need
// no-new-privs. seccomp is last, since it refuses the calls that the others make.
//
// Each result is read back from /proc: an outer sandbox's filter can make a call return 0 without effect
// (SECCOMP_RET_ERRNO with error 0, seccomp(2)), and a thread that was missed keeps what it had.
func enforce(p Policy) (Report, error) {
	who := self()
	rules, err := newRuleset(p)
	defer rules.close()
	if err != nil {
		return nil, err
	}
	// With no-new-privs, execve(2) grants no privileges, should it ever be called: neither set-user-ID bits nor file
	// capabilities count. Threads inherit it, and it cannot be unset (prctl(2); Linux 3.5, and in /proc since 4.10).
	_, noPrivs := call("prctl(PR_SET_NO_NEW_PRIVS)", allThreads, unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0)
	boundingKept, bound := dropBounding()
	if p.User != nil {
		who = *p.User
		if err := who.become(); err != nil {
			return nil, err
		}
	}
	noCaps := cmp.Or(dropCaps(), bound)
	// Every change of credentials sets the dumpable attribute to fs.suid_dumpable (prctl(2), proc_sys_fs(5)), so it is
	// cleared again here.
	exposed, err := noDump()
	if err != nil {
		return nil, err
	}
	// The files are opened while Landlock still allows it, and read when all is in force.
	threads := openThreads("/proc/self/task")
	defer threads.close()
	start := threads.read()

	version, noLandlock, noSeccomp := "", errOff, errOff
	switch {
	case p.Off:
	case errors.Is(noPrivs, errCgo): // with cgo, the C library makes other calls, and aborts if it cannot start a thread
		noLandlock, noSeccomp = errCgo, errCgo
	default:
		version, noLandlock = rules.restrict()
		noSeccomp = seccomp(p)
	}
	end := threads.read()
	var groups error
	if p.User != nil {
		groups = end.check("", "Groups")
	}
	return Report{
		{"user", who.Name, cmp.Or(who.staysExposed(exposed), end.checkIDs(who.UID, "Uid"), end.checkIDs(who.GID, "Gid"), groups)},
		whole("caps", "none", cmp.Or(noCaps, end.checkNoCaps(boundingKept))),
		whole("no-new-privs", "on", cmp.Or(noPrivs, end.check("1", "NoNewPrivs"))),
		{"landlock", version, noLandlock},
		whole("seccomp", "on", cmp.Or(noSeccomp, end.checkFilter(start))),
	}, nil
}

// self returns the current effective user. Its name comes from /etc/passwd, which cannot be read after Enforce; a user
// who is not in it has the number as name.
func self() User {
	u := User{Name: strconv.Itoa(os.Geteuid()), UID: os.Geteuid(), GID: os.Getegid()}
	if found, err := user.LookupId(u.Name); err == nil {
		u.Name = found.Username
	}
	return u
}

// staysExposed returns an error for root, which owns most files even without capabilities, and if the process was
// dumpable between the change of user and noDump: a process of the new user may have attached then (ptrace(2)).
func (u User) staysExposed(dumpable int) error {
	switch {
	case u.UID == 0:
		return errors.New("the process is still root; name another user with --user")
	case dumpable == suidDumpUser:
		return errors.New("processes of that user could attach during the change of user; set fs.suid_dumpable to 0")
	}
	return nil
}

// become changes the real, effective and saved ids of all threads, so that setresuid(2) cannot restore any of them; the
// file system's ids follow the effective ones (credentials(7)). The kernel changes the calling thread alone, and
// package syscall makes the calls on every thread. The groups are dropped first, since setgroups(2) needs CAP_SETGID:
// with root's groups kept, the process could read what those may. Any failure stops the start: a requested user is not
// optional.
func (u User) become() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("only root can become another user (--user %s); start the proxy as root, or as that user without --user", u.Name)
	}
	// An empty list needs no call, which a user namespace may refuse (/proc/PID/setgroups, user_namespaces(7)).
	if groups, err := syscall.Getgroups(); err != nil || len(groups) > 0 {
		if err := syscall.Setgroups(nil); err != nil {
			return fmt.Errorf("cannot drop the groups (setgroups): %w; CAP_SETGID may be missing", err)
		}
	}
	// The group is changed before the user, because setresgid(2) needs CAP_SETGID, which the change of user drops.
	if err := syscall.Setresgid(u.GID, u.GID, u.GID); err != nil {
		return fmt.Errorf("cannot become group %d (setresgid): %w; CAP_SETGID may be missing", u.GID, err)
	}
	if err := syscall.Setresuid(u.UID, u.UID, u.UID); err != nil {
		return fmt.Errorf("cannot become user %s (setresuid): %w; CAP_SETUID may be missing", u.Name, err)
	}
	return nil
}

// Linux keeps five sets of capabilities for each thread (capabilities(7)). A process that has changed its uid from 0
// has lost the permitted, effective and ambient sets, unless its parent has set SECBIT_NO_SETUID_FIXUP, which is
// inherited. root, and a process that was given capabilities by its parent or its file, have not lost them.

// dropBounding empties the bounding set of capabilities of all threads, and reports kept if CAP_SETPCAP is missing, so
// that it could not. That is safe: the set only limits what execve(2) grants, and with no-new-privs that grants nothing
// (capabilities(7)). Each capability needs a call on all threads, but for those that this thread's set lacks.
func dropBounding() (kept bool, _ error) {
	if sets, err := capabilities(); err != nil || sets[0].Effective&(1<<unix.CAP_SETPCAP) == 0 {
		return true, err
	}
	for capability := range uintptr(64) { // the sets are 64 bits wide (capget(2)); Linux 5.9 and later use 41
		if in, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, capability, 0, 0, 0); err != nil || in == 0 {
			continue // it was dropped before, or is beyond the kernel's last one
		}
		if _, err := call("prctl(PR_CAPBSET_DROP)", allThreads, unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, capability, 0); err != nil {
			return false, fmt.Errorf("capability %d: %w", capability, err)
		}
	}
	return false, nil
}

// dropCaps clears the permitted, effective, inheritable and ambient sets, which needs no privilege and cannot be
// undone: a permitted capability that was dropped is not regained without execve(2) (capabilities(7)). It makes no call
// if they are empty, so that an outer seccomp filter need not allow it; Enforce checks the threads' status in any case.
func dropCaps() error {
	var none [2]unix.CapUserData
	if sets, err := capabilities(); err == nil && sets == none {
		return nil // the ambient set is a subset of the permitted one
	}
	// Pid 0 is the calling thread, the only one that capset(2) can change.
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	_, ambient := call("prctl(PR_CAP_AMBIENT)", allThreads, unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0)
	_, others := call("capset", allThreads, unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none)), 0)
	return cmp.Or(ambient, others)
}

// capabilities returns the calling thread's sets as two words: capabilities 0 to 31, and 32 to 63 (version 3 of the
// header, capget(2)). Version 1 has the first word only, without CAP_BPF and CAP_PERFMON.
func capabilities() (sets [2]unix.CapUserData, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return sets, fmt.Errorf("capget: %w", err)
	}
	return sets, nil
}
