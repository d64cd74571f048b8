package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Versions of Landlock's interface ("ABI") from which this package behaves differently. The rights of each version are
// in versions, below. Documentation/userspace-api/landlock.rst lists them under "Previous limitations".
const (
	netABI   = 4  // Linux 6.7: TCP ports
	logABI   = 7  // Linux 6.15: restrict_self takes flags for the audit log
	syncABI  = 8  // Linux 7.0: restrict_self restricts all threads
	udpABI   = 10 // Linux 7.2: UDP ports
	knownABI = 10 // the newest version in versions; a newer kernel is used as this one
)

// versions are the access rights that each version has added. All that the kernel supports are handled, that is,
// refused unless a rule allows them. A right that is not handled is not restricted at all.
var versions = []struct {
	abi            int
	fs, net, scope uint64
}{
	{abi: 1, fs: unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1}, // EXECUTE and all others up to MAKE_SYM
	{abi: 2, fs: unix.LANDLOCK_ACCESS_FS_REFER},
	{abi: 3, fs: unix.LANDLOCK_ACCESS_FS_TRUNCATE},
	{abi: netABI, net: unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP},
	{abi: 5, fs: unix.LANDLOCK_ACCESS_FS_IOCTL_DEV},
	{abi: 6, scope: unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL},
	{abi: 9, fs: unix.LANDLOCK_ACCESS_FS_RESOLVE_UNIX}, // connecting to a unix socket that has a path
	{abi: udpABI, net: unix.LANDLOCK_ACCESS_NET_BIND_UDP | unix.LANDLOCK_ACCESS_NET_CONNECT_SEND_UDP},
}

// handled returns everything that a kernel of version abi can restrict. It omits signals if scopeSignals is false.
// Fields that the version lacks are 0, so that the kernel accepts a structure longer than its own
// (copy_struct_from_user).
func handled(abi int, scopeSignals bool) (a unix.LandlockRulesetAttr) {
	for _, v := range versions {
		if v.abi <= abi {
			a.Handled_access_fs |= v.fs
			a.Handled_access_net |= v.net
			a.Scoped |= v.scope
		}
	}
	if !scopeSignals {
		a.Scoped &^= unix.LANDLOCK_SCOPE_SIGNAL
	}
	return a
}

// A pathRule allows access to a file, or to all files below a directory. Landlock identifies both by inode, not by
// name.
type pathRule struct {
	*os.File
	access uint64
}

// The access that a rule for a directory of Policy allows. appendAccess excludes TRUNCATE and REMOVE_FILE: a
// compromised process must not be able to erase the audit log.
const (
	readAccess   = unix.LANDLOCK_ACCESS_FS_READ_FILE
	appendAccess = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_REG
	removeAccess = unix.LANDLOCK_ACCESS_FS_REMOVE_FILE
	writeAccess  = readAccess | appendAccess | removeAccess |
		unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_TRUNCATE
)

// resolverFiles are the files that Go's resolver reads again when they change (net/dnsclient_unix.go).
var resolverFiles = []string{"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"}

// resolverDirs contain only such files, under names that resolverFiles may link to. The files are replaced, not
// written, and a rule for a file would end with its inode; so the rule is for the directory.
var resolverDirs = []string{"/run/systemd/resolve", "/run/resolvconf"}

// openPaths opens all paths of p, while this process can still find them. The caller closes the result even if err is
// not nil, which means that a directory of p cannot be used.
func openPaths(p Policy) (rules []pathRule, err error) {
	// O_PATH needs no permission to read the file, and ties the rule to this inode even if the path is replaced before
	// the rule is added.
	open := func(path string, flags int, access uint64) {
		f, openErr := os.OpenFile(path, unix.O_PATH|flags, 0)
		if openErr != nil {
			err = cmp.Or(err, openErr)
			return
		}
		rules = append(rules, pathRule{f, access})
	}
	for _, path := range slices.Concat(resolverFiles, p.Read) {
		// The resolver's files are often links into another directory. A rule applies to the target's inode, so the
		// link is resolved now.
		target, err := filepath.EvalSymlinks(path)
		if err != nil {
			continue // absent or not accessible now, so not readable later either
		}
		dir := filepath.Dir(target)
		if slices.ContainsFunc(resolverDirs, func(d string) bool { return strings.HasPrefix(dir+"/", d+"/") }) {
			target = dir
		}
		open(target, 0, readAccess)
	}
	for _, list := range []struct {
		dirs   []string
		access uint64
	}{{p.Write, writeAccess}, {p.Append, appendAccess}, {p.Remove, removeAccess}} {
		for _, dir := range list.dirs {
			// O_DIRECTORY, because a file in place of a directory is a mistake in the configuration.
			open(dir, unix.O_DIRECTORY, list.access)
		}
	}
	return rules, err
}

func closePaths(rules []pathRule) {
	for _, r := range rules {
		r.Close()
	}
}

// A portRule is a struct landlock_net_port_attr (linux/landlock.h).
type portRule struct{ access, port uint64 }

const (
	landlockRuleNetPort = 2 // LANDLOCK_RULE_NET_PORT, which x/sys lacks
	dnsPort             = 53
)

// portRules allows connections to ports and DNS queries, by TCP and UDP, to port 53. The kernel binds a UDP socket when
// it is connected, for which Landlock requires the right to bind to port 0. That right does not allow any port of the
// caller's choice.
//
// No rule allows connecting to port 0; tryPort relies on that.
func portRules(abi int, ports []uint16) []portRule {
	const tcp, udp = unix.LANDLOCK_ACCESS_NET_CONNECT_TCP, unix.LANDLOCK_ACCESS_NET_CONNECT_SEND_UDP
	if abi < netABI {
		return nil
	}
	rules := []portRule{{tcp, dnsPort}}
	if abi >= udpABI {
		rules = []portRule{{tcp | udp, dnsPort}, {unix.LANDLOCK_ACCESS_NET_BIND_UDP, 0}}
	}
	for _, port := range ports {
		if port != 0 {
			rules = append(rules, portRule{tcp, uint64(port)})
		}
	}
	return rules
}

// landlock restricts files, ports and signals on all threads and checks that they are restricted. It returns the
// version in force, and why all or a part of it is missing. An error means that the kernel refused a rule of p.
func landlock(p Policy, paths []pathRule) (state string, missing, err error) {
	abi, missing := landlockABI()
	if missing != nil {
		return "", missing, nil
	}
	attr := handled(abi, threadsMaySignal())
	ruleset, missing := call("landlock_create_ruleset", thisThread, unix.SYS_LANDLOCK_CREATE_RULESET,
		uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if missing != nil {
		return "", missing, nil
	}
	defer unix.Close(int(ruleset))
	add := func(kind uintptr, rule unsafe.Pointer) error {
		_, err := call("landlock_add_rule", thisThread, unix.SYS_LANDLOCK_ADD_RULE, ruleset, kind, uintptr(rule))
		return err
	}
	for _, r := range paths {
		// The kernel refuses a rule with a right that the ruleset does not handle (EINVAL, landlock_add_rule(2)).
		rule := unix.LandlockPathBeneathAttr{Allowed_access: r.access & attr.Handled_access_fs, Parent_fd: int32(r.Fd())}
		if err := add(unix.LANDLOCK_RULE_PATH_BENEATH, unsafe.Pointer(&rule)); err != nil {
			return "", nil, fmt.Errorf("cannot add a Landlock rule for %s: %w", r.Name(), err)
		}
	}
	for _, r := range portRules(abi, p.Ports) {
		if err := add(landlockRuleNetPort, unsafe.Pointer(&r)); err != nil {
			return "", nil, fmt.Errorf("cannot add a Landlock rule for port %d: %w", r.port, err)
		}
	}
	all := abi < syncABI // later kernels restrict all threads by one call
	// It needs no-new-privs, or CAP_SYS_ADMIN (landlock_restrict_self(2)), and cannot be undone.
	_, err = call("landlock_restrict_self", all, unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, restrictFlags(abi), 0)
	if err != nil {
		return "", err, nil
	}
	state, missing = tryLandlock(abi)
	return state, missing, nil
}

// landlockABI returns the version of the kernel's Landlock, or why it is not available.
func landlockABI() (int, error) {
	abi, err := call("landlock_create_ruleset", thisThread,
		unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch {
	case errors.Is(err, unix.ENOSYS):
		return 0, errors.New("not supported by this kernel; Linux 6.7 has what is needed")
	case errors.Is(err, unix.EOPNOTSUPP):
		return 0, errors.New("disabled at boot; add landlock to lsm=")
	}
	return min(int(abi), knownABI), err
}

// threadsMaySignal reports whether a scoped process can still signal its own threads, which is erratum 2 of Landlock,
// also fixed in stable kernels. Before syncABI each thread gets its own domain, and Go's threads signal each other to
// make calls on all threads: without the fix, the call that restricts them would hang. seccomp restricts signals in any
// case.
func threadsMaySignal() bool {
	const signalErratum = 1 << (2 - 1)
	errata, err := call("landlock_create_ruleset", thisThread,
		unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_ERRATA)
	return err == nil && errata&signalErratum != 0
}

// restrictFlags returns the flags of landlock_restrict_self(2). Refusals are not logged to the kernel's audit log,
// which tryLandlock would otherwise fill at every start.
func restrictFlags(abi int) (flags uintptr) {
	if abi >= logABI {
		flags |= unix.LANDLOCK_RESTRICT_SELF_LOG_SAME_EXEC_OFF
	}
	if abi >= syncABI {
		flags |= unix.LANDLOCK_RESTRICT_SELF_TSYNC
	}
	return flags
}

// tryLandlock tries, on every thread, operations that no rule allows, because the kernel does not show whether a thread
// is restricted. It returns the version in force and what is missing.
func tryLandlock(abi int) (state string, missing error) {
	cwd := unix.AT_FDCWD
	err := refused("a directory could still be opened", unix.SYS_OPENAT, uintptr(cwd), uintptr(unsafe.Pointer(&rootPath)),
		unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return "", err
	}
	state = fmt.Sprintf("abi%d", abi)
	if abi < netABI {
		return state, errors.New("this kernel's version has no rules for the network; Linux 6.7 has them")
	}
	if err := tryPort(unix.SOCK_STREAM); err != nil || abi < udpABI {
		return state, err
	}
	return state, tryPort(unix.SOCK_DGRAM)
}

// Arguments of the checks. They are package variables because their addresses reach the kernel as integers, which do
// not keep an object alive (unsafe.Pointer, rule 4). highPort needs no capability, and is not 0, to which a UDP socket
// may be bound.
var (
	rootPath = [...]byte{'/', 0}
	portZero = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: [4]byte{127, 0, 0, 1}}
	highPort = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: [4]byte{127, 0, 0, 1}, Port: 0xffff} // in either byte order
)

// tryPort binds and connects a TCP or UDP socket. No packet is sent: Landlock checks the port first.
func tryPort(kind int) error {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil // a protocol without sockets needs no restriction
	}
	defer unix.Close(fd)
	return cmp.Or(
		refused("a port could still be bound",
			unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&highPort)), unix.SizeofSockaddrInet4),
		refused("another port could still be connected to",
			unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&portZero)), unix.SizeofSockaddrInet4))
}

// refused returns an error unless the kernel refuses a system call on every thread. It first makes the call on this
// thread alone: the runtime aborts if results differ between threads, as new descriptors would.
func refused(what string, trap, a1, a2, a3 uintptr) error {
	got, err := call("this thread", thisThread, trap, a1, a2, a3)
	if err == nil && trap == unix.SYS_OPENAT {
		unix.Close(int(got))
	}
	denied := func() bool { return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) }
	if denied() {
		_, err = call("all threads", allThreads, trap, a1, a2, a3)
	}
	if !denied() {
		return fmt.Errorf("it had no effect: %s (%v)", what, err)
	}
	return nil
}
