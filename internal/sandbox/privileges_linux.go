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

// self returns the user that the process is now. Its name needs /etc/passwd.
func self() User {
	u := User{Name: strconv.Itoa(os.Geteuid()), UID: os.Geteuid(), GID: os.Getegid()}
	if found, err := user.LookupId(u.Name); err == nil {
		u.Name = found.Username
	}
	return u
}

// staysRoot returns an error for root, which is the owner of most files even without capabilities.
func (u User) staysRoot() error {
	if u.UID == 0 {
		return errors.New("it stays root; name another user with --user")
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
		err = onAllThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, capability, 0)
		if errors.Is(err, unix.EPERM) && !mayDropBounding() {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("prctl(PR_CAPBSET_DROP, %d): %w", capability, err)
		}
	}
	return false, nil
}

// mayDropBounding reports whether CAP_SETPCAP is effective.
func mayDropBounding() bool {
	sets, err := capabilities()
	return err == nil && sets[0].Effective&(1<<unix.CAP_SETPCAP) != 0
}

// dropCaps clears the other four sets. Where they are empty it makes no call, so that a filter around this process need
// not allow it; the threads' status is the proof in any case.
func dropCaps() error {
	if sets, err := capabilities(); err == nil && sets == [2]unix.CapUserData{} {
		return nil // the ambient set, a part of the permitted one, is empty too
	}
	err := onAllThreads(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0)
	if err != nil {
		err = fmt.Errorf("prctl(PR_CAP_AMBIENT): %w", err)
	}
	var none [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // Pid 0: the calling thread
	errSet := onAllThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none)), 0)
	if errSet != nil {
		errSet = fmt.Errorf("capset: %w", errSet)
	}
	return cmp.Or(err, errSet)
}

// capabilities returns the calling thread's sets: the capabilities below 32, and those from 32 on.
func capabilities() (sets [2]unix.CapUserData, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return sets, fmt.Errorf("capget: %w", err)
	}
	return sets, nil
}
