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

// resolverFiles are what Go's resolver reads again when they change.
var resolverFiles = []string{"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"}

// resolverFolders hold nothing but resolver files, which are replaced rather
// than written, so that a rule for the file would go with the old one.
var resolverFolders = []string{"/run/systemd/resolve", "/run/resolvconf"}

const dnsPort = 53

// What newer kernels can refuse, by the ABI that brought it (landlock(7)).
const (
	fsABI1 = unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1 // execute, and all above it up to make_sym
	fsABI2 = unix.LANDLOCK_ACCESS_FS_REFER
	fsABI3 = unix.LANDLOCK_ACCESS_FS_TRUNCATE
	fsABI5 = unix.LANDLOCK_ACCESS_FS_IOCTL_DEV

	netABI = 4 // the first that knows of the network
	topABI = 7 // the newest whose rules this program was tested with
)

// writeAccess is what the writer of a file that is replaced as a whole needs.
const writeAccess = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR |
	unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
	unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE

// ruleset is a Landlock ruleset that is not yet in force; nil if there is no
// Landlock.
type ruleset struct {
	fd   int
	abi  int
	attr unix.LandlockRulesetAttr
}

// newRuleset makes the rules, best effort by the kernel's ABI: missing says why
// there is no Landlock. An error is a mistake in p.
func newRuleset(p Policy) (r *ruleset, missing, err error) {
	if p.Off {
		return nil, errOff, nil
	}
	r, missing = createRuleset()
	if missing != nil {
		return nil, missing, checkFolders(p)
	}
	if err := errors.Join(r.allowFiles(p), r.allowPorts(p.Ports)); err != nil {
		r.close()
		return nil, nil, err
	}
	return r, nil, nil
}

// checkFolders makes the same mistakes errors without Landlock.
func checkFolders(p Policy) error {
	for _, dir := range slices.Concat(p.Write, p.Append, p.Remove) {
		fd, err := openPath(dir, unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		unix.Close(fd)
	}
	return nil
}

func createRuleset() (*ruleset, error) {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch errno {
	case 0:
	case unix.ENOSYS:
		return nil, errors.New("this kernel does not have it")
	case unix.EOPNOTSUPP:
		return nil, errors.New("turned off at boot; add landlock to lsm=")
	default:
		return nil, fmt.Errorf("landlock_create_ruleset: %w", errno)
	}
	r := &ruleset{abi: int(abi)}
	r.attr = refusals(r.abi, threadsMaySignal())
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&r.attr)), attrSize(r.abi), 0)
	if errno != 0 {
		return nil, fmt.Errorf("landlock_create_ruleset: %w", errno)
	}
	r.fd = int(fd)
	return r, nil
}

// refusals is everything that an ABI can refuse.
func refusals(abi int, scopeSignals bool) unix.LandlockRulesetAttr {
	attr := unix.LandlockRulesetAttr{Handled_access_fs: fsABI1}
	if abi >= 2 {
		attr.Handled_access_fs |= fsABI2
	}
	if abi >= 3 {
		attr.Handled_access_fs |= fsABI3
	}
	if abi >= netABI {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if abi >= 5 {
		attr.Handled_access_fs |= fsABI5
	}
	if abi >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
		if scopeSignals {
			attr.Scoped |= unix.LANDLOCK_SCOPE_SIGNAL
		}
	}
	return attr
}

// attrSize is how much of the structure a kernel may be given: all that it
// knows, and nothing else.
func attrSize(abi int) uintptr {
	var a unix.LandlockRulesetAttr
	switch {
	case abi >= 6:
		return unsafe.Offsetof(a.Quiet_access_fs)
	case abi >= netABI:
		return unsafe.Offsetof(a.Scoped)
	}
	return unsafe.Offsetof(a.Handled_access_net)
}

// threadsMaySignal tells whether the kernel has the correction by which scoped
// signals still reach the threads of one's own process. Each thread gets a
// domain of its own here, and Go's threads signal each other: without it, the
// very call that restricts them all would hang. Seccomp keeps signals to this
// process in any case.
func threadsMaySignal() bool {
	const signalErratum = 1 << (2 - 1)
	errata, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_ERRATA)
	return errno == 0 && errata&signalErratum != 0
}

func (r *ruleset) allowFiles(p Policy) error {
	for _, path := range slices.Concat(resolverFiles, p.Read) {
		if err := r.allowReading(path); err != nil {
			return err
		}
	}
	return errors.Join(
		r.allowFolders(p.Write, writeAccess),
		r.allowFolders(p.Append, unix.LANDLOCK_ACCESS_FS_WRITE_FILE|unix.LANDLOCK_ACCESS_FS_MAKE_REG),
		r.allowFolders(p.Remove, unix.LANDLOCK_ACCESS_FS_REMOVE_FILE))
}

func (r *ruleset) allowFolders(dirs []string, access uint64) error {
	for _, dir := range dirs {
		if err := r.allow(dir, unix.O_DIRECTORY, access); err != nil {
			return err
		}
	}
	return nil
}

// allowReading follows links to the file itself, which is what counts.
func (r *ruleset) allowReading(path string) error {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil // not there, or not for us: then it cannot be read later either
	}
	if inResolverFolder(target) {
		target = filepath.Dir(target)
	}
	return r.allow(target, 0, unix.LANDLOCK_ACCESS_FS_READ_FILE)
}

func inResolverFolder(path string) bool {
	return slices.ContainsFunc(resolverFolders, func(dir string) bool {
		return strings.HasPrefix(path, dir+"/")
	})
}

func (r *ruleset) allow(path string, flags int, access uint64) error {
	fd, err := openPath(path, flags)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access & r.attr.Handled_access_fs, Parent_fd: int32(fd)}
	if err := r.add(unix.LANDLOCK_RULE_PATH_BENEATH, unsafe.Pointer(&rule)); err != nil {
		return fmt.Errorf("cannot make a rule for %s: %w", path, err)
	}
	return nil
}

func openPath(path string, flags int) (int, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// portRule is struct landlock_net_port_attr.
type portRule struct{ access, port uint64 }

const landlockRuleNetPort = 2

func (r *ruleset) allowPorts(ports []uint16) error {
	if r.abi < netABI {
		return nil
	}
	for _, port := range append([]uint16{dnsPort}, ports...) {
		if port == 0 {
			continue // no peer has it, and tryPort relies on its being refused
		}
		rule := portRule{access: unix.LANDLOCK_ACCESS_NET_CONNECT_TCP, port: uint64(port)}
		if err := r.add(landlockRuleNetPort, unsafe.Pointer(&rule)); err != nil {
			return fmt.Errorf("cannot make a rule for port %d: %w", port, err)
		}
	}
	return nil
}

func (r *ruleset) add(kind uintptr, rule unsafe.Pointer) error {
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(r.fd), kind, uintptr(rule), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("landlock_add_rule: %w", errno)
	}
	return nil
}

// restrict puts the rules in force and tries whether they are. It returns what
// is in force, and what is missing of it.
func (r *ruleset) restrict(missing error) (state string, _ error) {
	if missing != nil {
		return "", missing
	}
	var flags uintptr
	if r.abi >= 7 { // refusals are no news to the audit log; our own tries least of all
		flags = unix.LANDLOCK_RESTRICT_SELF_LOG_SAME_EXEC_OFF
	}
	if err := onAllThreads(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(r.fd), flags, 0); err != nil {
		return "", fmt.Errorf("landlock_restrict_self: %w", err)
	}
	if err := tryFile(); err != nil {
		return "", err
	}
	state = fmt.Sprintf("abi%d", min(r.abi, topABI))
	if r.abi < netABI {
		return state, errors.New("this kernel's has no rules for the network")
	}
	return state, tryPort()
}

// tryFile does what no rule allows.
func tryFile() error {
	fd, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return wantRefusal("a folder could still be opened", err)
}

// tryPort does so without a packet: Landlock is asked before the port is.
func tryPort() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil // no such socket, no such hole
	}
	defer unix.Close(fd)
	here := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	return cmp.Or(
		wantRefusal("a port could still be bound", unix.Bind(fd, here)),
		wantRefusal("another port could still be connected to", unix.Connect(fd, here)))
}

func wantRefusal(what string, err error) error {
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return nil
	}
	return fmt.Errorf("it had no effect: %s (%v)", what, err)
}

func (r *ruleset) close() {
	if r != nil {
		unix.Close(r.fd)
	}
}
