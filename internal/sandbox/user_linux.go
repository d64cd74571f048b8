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

// identity is whom the process shall be.
type identity struct {
	name     string
	uid, gid int
	changes  bool
}

// resolve finds the user. It needs /etc/passwd, and must be called before that
// is out of reach.
func resolve(who string) (identity, error) {
	if who == "" {
		return myself(), nil
	}
	if os.Geteuid() != 0 {
		return identity{}, fmt.Errorf("only root can become another user (--user %s); start the proxy as root, or as that user without --user", who)
	}
	u, err := lookUp(who)
	if err != nil {
		return identity{}, err
	}
	if u.uid == 0 {
		return identity{}, fmt.Errorf("--user %s is root; name a user without privileges", who)
	}
	u.changes = true
	return u, nil
}

func myself() identity {
	u := identity{uid: os.Geteuid(), gid: os.Getegid()}
	u.name = strconv.Itoa(u.uid)
	if found, err := user.LookupId(u.name); err == nil {
		u.name = found.Username
	}
	return u
}

func lookUp(who string) (identity, error) {
	id, notNumber := parseID(who)
	found, err := user.Lookup(who)
	if notNumber == nil {
		found, err = user.LookupId(strconv.Itoa(id))
	}
	if err != nil && notNumber == nil {
		return identity{name: who, uid: id, gid: id}, nil
	}
	if err != nil {
		return identity{}, fmt.Errorf("there is no user %q; name one of /etc/passwd, or give a number", who)
	}
	uid, err := parseID(found.Uid)
	gid, err2 := parseID(found.Gid)
	if err := errors.Join(err, err2); err != nil {
		return identity{}, fmt.Errorf("user %q has no proper numbers in /etc/passwd: %w", who, err)
	}
	return identity{name: found.Username, uid: uid, gid: gid}, nil
}

func parseID(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == 1<<32-1 {
		err = strconv.ErrRange // (uid_t) -1 means "leave as it is"
	}
	return int(n), err
}

// missing says that root stays root: without capabilities, but still the owner
// of most files.
func (u identity) missing() error {
	if u.uid == 0 {
		return errors.New("it stays root; name another user with --user")
	}
	return nil
}

// become changes all three ids of all threads; the groups first, while that is
// still allowed. A user that was asked for is no matter of best effort.
func (u identity) become() error {
	if !u.changes {
		return nil
	}
	if groups, err := syscall.Getgroups(); err != nil || len(groups) > 0 {
		if err := syscall.Setgroups(nil); err != nil {
			return fmt.Errorf("cannot leave the groups (setgroups): %w; CAP_SETGID may be missing", err)
		}
	}
	if err := syscall.Setresgid(u.gid, u.gid, u.gid); err != nil {
		return fmt.Errorf("cannot become group %d (setresgid): %w; CAP_SETGID may be missing", u.gid, err)
	}
	if err := syscall.Setresuid(u.uid, u.uid, u.uid); err != nil {
		return fmt.Errorf("cannot become user %s (setresuid): %w; CAP_SETUID may be missing", u.name, err)
	}
	return nil
}

// dropBounding empties the bounding set of capabilities. Without CAP_SETPCAP
// that cannot be done, and kept is true. That is no gap: the set only limits
// what execve gives, and with no-new-privs execve gives nothing.
func dropBounding() (kept bool, _ error) {
	for capability := range uintptr(64) {
		in, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, capability, 0, 0, 0)
		if err != nil {
			return false, nil // beyond the last that the kernel knows
		}
		if in == 0 {
			continue
		}
		err = onAllThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, capability, 0)
		if errors.Is(err, unix.EPERM) && !hasCapability(unix.CAP_SETPCAP) {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("prctl(PR_CAPBSET_DROP, %d): %w", capability, err)
		}
	}
	return false, nil
}

// dropCaps clears the other four sets. Where they are empty it calls nothing, so
// that a filter around this process need not allow it; the threads' own status
// is the proof in any case.
func dropCaps() error {
	if sets, err := capabilities(); err == nil && sets == [2]unix.CapUserData{} {
		return nil // so is the ambient set, a part of the permitted one
	}
	err := onAllThreads(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0)
	if err != nil {
		err = fmt.Errorf("prctl(PR_CAP_AMBIENT): %w", err)
	}
	var none [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // of the calling thread
	errSet := onAllThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none[0])), 0)
	if errSet != nil {
		errSet = fmt.Errorf("capset: %w", errSet)
	}
	return cmp.Or(err, errSet)
}

// hasCapability asks for the effective set.
func hasCapability(capability uint) bool {
	sets, err := capabilities()
	return err == nil && sets[capability/32].Effective&(1<<(capability%32)) != 0
}

// capabilities are the calling thread's.
func capabilities() (sets [2]unix.CapUserData, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	return sets, unix.Capget(&header, &sets[0])
}
