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
	udpABI   = 10 // Linux 7.2: UDP ports
	knownABI = 10 // the newest version in versions; a newer kernel is used as this one
)

// versions are the access rights that each version has added, and the flags of landlock_restrict_self(2). All rights
// that the kernel supports are handled, that is, refused unless a rule allows them. A right that is not handled is not
// restricted at all (landlock_create_ruleset(2)). seccomp refuses the calls for what a kernel's version lacks, as far
// as their arguments show it.
var versions = []struct {
	abi            int
	fs, net, scope uint64
	flags          uintptr
}{
	// Linux 5.13: EXECUTE and all others up to MAKE_SYM. Opening a file, making and removing one by its name.
	{abi: 1, fs: unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1},
	// Linux 5.19: renaming or linking into another directory, which version 1 always refuses.
	{abi: 2, fs: unix.LANDLOCK_ACCESS_FS_REFER},
	// Linux 6.2. Before, nothing restricts truncate(2), and the right to write includes O_TRUNC.
	{abi: 3, fs: unix.LANDLOCK_ACCESS_FS_TRUNCATE},
	// A compromised process must neither send the key elsewhere, nor listen in another service's place.
	{abi: netABI, net: unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP},
	{abi: 5, fs: unix.LANDLOCK_ACCESS_FS_IOCTL_DEV}, // Linux 6.10; ioctl(2) is not in seccomp's list either
	// Linux 6.12. Abstract sockets have no file, so that no rule for files reaches them (unix(7)).
	{abi: 6, scope: unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL},
	// Linux 6.15. Refusals are not logged to the kernel's audit log, which tryLandlock would otherwise fill at every
	// start.
	{abi: 7, flags: unix.LANDLOCK_RESTRICT_SELF_LOG_SAME_EXEC_OFF},
	{abi: 8, flags: unix.LANDLOCK_RESTRICT_SELF_TSYNC}, // Linux 7.0: all threads are restricted by one call
	// Linux 7.1: connecting to a unix socket that has a path, which before only the file's mode restricts.
	{abi: 9, fs: unix.LANDLOCK_ACCESS_FS_RESOLVE_UNIX},
	{abi: udpABI, net: unix.LANDLOCK_ACCESS_NET_BIND_UDP | unix.LANDLOCK_ACCESS_NET_CONNECT_SEND_UDP},
}

// handled returns everything that a kernel of version abi can restrict, and its flags. It omits signals if scopeSignals
// is false. Fields that the version lacks are 0, so that the kernel accepts a structure longer than its own
// (copy_struct_from_user).
func handled(abi int, scopeSignals bool) (a unix.LandlockRulesetAttr, flags uintptr) {
	for _, v := range versions {
		if v.abi <= abi {
			a.Handled_access_fs |= v.fs
			a.Handled_access_net |= v.net
			a.Scoped |= v.scope
			flags |= v.flags
		}
	}
	if !scopeSignals {
		a.Scoped &^= unix.LANDLOCK_SCOPE_SIGNAL
	}
	return a, flags
}

// The access that a rule for a directory of Policy allows. None includes TRUNCATE, nor appendAccess REMOVE_FILE: a
// compromised process must not be able to erase the audit log. seccomp keeps it from overwriting the log.
const (
	readAccess   = unix.LANDLOCK_ACCESS_FS_READ_FILE
	appendAccess = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_REG
	removeAccess = unix.LANDLOCK_ACCESS_FS_REMOVE_FILE
	writeAccess  = readAccess | appendAccess | removeAccess | unix.LANDLOCK_ACCESS_FS_READ_DIR
)

// resolverFiles are the files that Go's resolver reads again when they change (net/dnsclient_unix.go). Without them the
// proxy would go on asking a name server that the host has left.
var resolverFiles = []string{"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"}

// resolverDirs contain only such files, under names that resolverFiles may link to. The files are replaced, not
// written, and a rule for a file would end with its inode; so the rule is for the directory.
var resolverDirs = []string{"/run/systemd/resolve", "/run/resolvconf"}

// A ruleset contains the rules of a Policy, which restrict puts in force.
type ruleset struct {
	fd      uintptr
	attr    unix.LandlockRulesetAttr
	flags   uintptr // for landlock_restrict_self(2)
	abi     int
	missing error // why there is none
	err     error // the first rule that cannot be added
}

// newRuleset makes the rules of p, while this process can still find its files. err means that a directory of p cannot
// be used, or that the kernel refused a rule. The caller closes the result.
func newRuleset(p Policy) (r *ruleset, err error) {
	r = &ruleset{}
	if r.abi, r.missing = landlockABI(); r.missing == nil {
		r.attr, r.flags = handled(r.abi, threadsMaySignal())
		r.fd, r.missing = call("landlock_create_ruleset", thisThread, unix.SYS_LANDLOCK_CREATE_RULESET,
			uintptr(unsafe.Pointer(&r.attr)), unsafe.Sizeof(r.attr), 0)
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
		r.addPath(target, 0, readAccess)
	}
	for _, list := range []struct {
		dirs   []string
		access uint64
	}{{p.Write, writeAccess}, {p.Append, appendAccess}, {p.Remove, removeAccess}} {
		for _, dir := range list.dirs {
			// O_DIRECTORY, because a file in place of a directory is a mistake in the configuration.
			r.addPath(dir, unix.O_DIRECTORY, list.access)
		}
	}
	for _, rule := range portRules(r.attr.Handled_access_net, p.Ports) {
		r.add(landlockRuleNetPort, unsafe.Pointer(&rule), fmt.Sprint("port ", rule.port))
	}
	return r, r.err
}

// addPath allows access to a file, or to all files below a directory. Landlock identifies both by inode, not by name.
func (r *ruleset) addPath(path string, flags int, access uint64) {
	f, err := os.OpenFile(path, unix.O_PATH|flags, 0) // O_PATH needs no permission to read the file
	if err != nil {
		r.err = cmp.Or(r.err, err)
		return
	}
	defer f.Close()
	// The kernel refuses a rule with a right that the ruleset does not handle (EINVAL, landlock_add_rule(2)); such a
	// right needs no rule, since nothing restricts it.
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access & r.attr.Handled_access_fs, Parent_fd: int32(f.Fd())}
	r.add(unix.LANDLOCK_RULE_PATH_BENEATH, unsafe.Pointer(&rule), path)
}

// add adds a rule, if there is a ruleset.
func (r *ruleset) add(kind uintptr, rule unsafe.Pointer, what string) {
	if r.missing != nil {
		return
	}
	if _, err := call("landlock_add_rule", thisThread, unix.SYS_LANDLOCK_ADD_RULE, r.fd, kind, uintptr(rule)); err != nil {
		r.err = cmp.Or(r.err, fmt.Errorf("cannot add a Landlock rule for %s: %w", what, err))
	}
}

// restrict restricts files, ports and signals on all threads and checks that they are restricted. It returns the
// version in force, and why all or a part of it is missing.
func (r *ruleset) restrict() (state string, missing error) {
	if r.missing != nil {
		return "", r.missing
	}
	// A domain belongs to a thread (landlock(7), "Inheritance"). Kernels without TSYNC need one call on each. It needs
	// no-new-privs, or CAP_SYS_ADMIN (landlock_restrict_self(2)), and cannot be undone: a later ruleset can only
	// restrict more.
	onEach := r.flags&unix.LANDLOCK_RESTRICT_SELF_TSYNC == 0
	if _, err := call("landlock_restrict_self", onEach, unix.SYS_LANDLOCK_RESTRICT_SELF, r.fd, r.flags, 0); err != nil {
		return "", err
	}
	return tryLandlock(r.abi)
}

// close closes the ruleset, which is not needed once it is in force.
func (r *ruleset) close() {
	if r.missing == nil {
		unix.Close(int(r.fd))
	}
}

// A portRule is a struct landlock_net_port_attr (linux/landlock.h). The port is in host byte order, unlike that of an
// address.
type portRule struct{ access, port uint64 }

const (
	landlockRuleNetPort = 2 // LANDLOCK_RULE_NET_PORT, which x/sys lacks
	dnsPort             = 53
)

// portRules allows connections to ports and DNS queries, by TCP and UDP, to port 53. The kernel binds a UDP socket when
// it is connected, for which Landlock requires the right to bind to port 0. That right does not allow any port of the
// caller's choice. handled are the rights for the network that the kernel has: it refuses a rule with another.
//
// A rule has a port but no address: a process that is taken over can reach that port of every host. No rule allows
// connecting to port 0; tryPort relies on that.
func portRules(handled uint64, ports []uint16) (rules []portRule) {
	const tcp, udp = unix.LANDLOCK_ACCESS_NET_CONNECT_TCP, unix.LANDLOCK_ACCESS_NET_CONNECT_SEND_UDP
	add := func(access uint64, port uint16) {
		if access &= handled; access != 0 {
			rules = append(rules, portRule{access, uint64(port)})
		}
	}
	add(tcp|udp, dnsPort)
	add(unix.LANDLOCK_ACCESS_NET_BIND_UDP, 0)
	for _, port := range ports {
		if port != 0 {
			add(tcp, port)
		}
	}
	return rules
}

// tooOld is a reason that only a later kernel removes. It is an errors.ErrUnsupported.
type tooOld string

func (t tooOld) Error() string { return string(t) }

// Is reports whether target is errors.ErrUnsupported.
func (tooOld) Is(target error) bool { return target == errors.ErrUnsupported }

// landlockABI returns the version of the kernel's Landlock, or why it is not available. Linux 5.13 has it, if it was
// built with CONFIG_SECURITY_LANDLOCK, and if the list of security modules names it at boot (landlock(7), "NOTES").
func landlockABI() (int, error) {
	abi, err := call("landlock_create_ruleset", thisThread,
		unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch {
	case errors.Is(err, unix.ENOSYS):
		return 0, tooOld("not supported by this kernel; Linux 6.7 has what is needed")
	case errors.Is(err, unix.EOPNOTSUPP):
		return 0, errors.New("disabled at boot; add landlock to lsm=")
	}
	return min(int(abi), knownABI), err
}

// threadsMaySignal reports whether a scoped process can still signal its own threads, which is erratum 2 of Landlock,
// also fixed in stable kernels. Without TSYNC each thread gets its own domain, and Go's threads signal each other to
// make calls on all threads: without the fix, the call that restricts them would hang. seccomp restricts signals in any
// case. Kernels before 6.15 lack the flag, fail with EINVAL, and count as not corrected.
func threadsMaySignal() bool {
	const signalErratum = 1 << (2 - 1)
	errata, err := call("landlock_create_ruleset", thisThread,
		unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_ERRATA)
	return err == nil && errata&signalErratum != 0
}

// tryLandlock tries operations that no rule allows, because the kernel does not show whether a thread is restricted,
// and a filter of an outer sandbox can make landlock_restrict_self return 0 without effect (SECCOMP_RET_ERRNO,
// seccomp(2)). It tries them on one thread: that the call succeeded on every other one, the kernel or the Go runtime
// has checked. It returns the version in force and what is missing.
func tryLandlock(abi int) (state string, missing error) {
	fd, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	if err := refused("a directory could still be opened", err); err != nil {
		return "", err
	}
	state = fmt.Sprintf("abi%d", abi)
	if abi < netABI {
		return state, tooOld("this kernel's version has no rules for the network; Linux 6.7 has them")
	}
	if err := tryPort(unix.SOCK_STREAM); err != nil || abi < udpABI {
		return state, err
	}
	return state, tryPort(unix.SOCK_DGRAM)
}

// tryPort binds and connects a TCP or UDP socket. No packet is sent: Landlock checks the port first. The port to bind
// needs no capability, and is not 0, to which a UDP socket may be bound.
func tryPort(kind int) error {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil // a protocol without sockets needs no restriction
	}
	defer unix.Close(fd)
	loopback := [4]byte{127, 0, 0, 1}
	return cmp.Or(
		refused("a port could still be bound", unix.Bind(fd, &unix.SockaddrInet4{Port: 0xffff, Addr: loopback})),
		refused("another port could still be connected to", unix.Connect(fd, &unix.SockaddrInet4{Addr: loopback})))
}

// refused returns an error unless err is a refusal of the kernel: Landlock's is EACCES, an outer sandbox's may be
// EPERM. Any other error, such as ECONNREFUSED, comes after the check that should have refused.
func refused(what string, err error) error {
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return nil
	}
	return fmt.Errorf("it had no effect: %s (%v)", what, err)
}
