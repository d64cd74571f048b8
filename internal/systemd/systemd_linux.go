package systemd

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

const (
	firstFD    = 3   // SD_LISTEN_FDS_START
	maxSockets = 64  // a greater number is a mistake
	maxStatus  = 200 // bytes: one line of a terminal or two; systemd ignores messages of more than 4096
)

// systemd's variables. The last one of listenVars, which distinguishes processes that had the same number, is only
// removed.
var (
	listenVars = []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"}
	notifyVars = []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
)

// takeEnv removes variables from the environment, and returns those that were set.
func takeEnv(names []string) map[string]string {
	env := map[string]string{}
	for _, name := range names {
		if value, ok := os.LookupEnv(name); ok {
			env[name] = value
			os.Unsetenv(name)
		}
	}
	return env
}

// Sockets returns the sockets that systemd has passed to this process, in its order (sd_listen_fds(3)): none if there
// are none, or if they were meant for another process. There may be several named Responses, and one named Metrics. All
// are listening stream sockets on a path, an abstract name or a loopback address, and close on exec; any other is an
// error that names it. After an error the descriptors are as they were, but for close on exec: the caller should exit.
//
// It removes systemd's variables, so that a second call returns none. It must be called before other goroutines start
// processes.
func Sockets() (sockets []Socket, err error) {
	names, err := socketNames(takeEnv(listenVars), os.Getpid())
	if err != nil {
		return nil, err
	}
	// All are checked before the first is taken: if LISTEN_FDS is too large, the others may be anything, and must not be
	// closed.
	for i, name := range names {
		if err := check(firstFD + i); err != nil {
			return nil, socketError(i, name, err)
		}
	}
	for i, name := range names {
		l, err := take(firstFD + i)
		if err != nil {
			return nil, socketError(i, name, err)
		}
		sockets = append(sockets, Socket{name, l})
	}
	return sockets, nil
}

func socketError(i int, name string, err error) error {
	return fmt.Errorf("socket %.64q from systemd (descriptor %d) %w", name, firstFD+i, err)
}

// socketNames returns the names of the descriptors that are for process self, from firstFD on. They are from a closed
// set: the purpose of a socket must not be guessed.
func socketNames(env map[string]string, self int) (names []string, err error) {
	count := env["LISTEN_FDS"]
	if env["LISTEN_PID"] != strconv.Itoa(self) || count == "" {
		return nil, nil
	}
	n, err := strconv.ParseUint(count, 10, 31)
	switch {
	case err != nil:
		return nil, fmt.Errorf("LISTEN_FDS=%.64q is not a number of sockets; it is for systemd to set", count)
	case n > maxSockets:
		return nil, fmt.Errorf("LISTEN_FDS=%d are too many sockets; pass %d at most", n, maxSockets)
	case n == 0:
		return nil, nil
	}
	joined, named := env["LISTEN_FDNAMES"]
	if !named {
		joined = strings.Repeat(":unknown", int(n))[1:] // as sd_listen_fds_with_names(3) calls them
	}
	if joined != "" {
		names = strings.Split(joined, ":")
	}
	if len(names) != int(n) {
		return nil, fmt.Errorf("LISTEN_FDNAMES has %d names for the %d sockets of LISTEN_FDS; they are for systemd to set", len(names), n)
	}
	for i, name := range names {
		switch {
		case name != Responses && name != Metrics:
			return nil, socketError(i, name, errors.New("has no name that is known here; "+
				"set FileDescriptorName="+Responses+" or FileDescriptorName="+Metrics+" in its unit"))
		case name == Metrics && slices.Contains(names[:i], Metrics):
			return nil, socketError(i, name, errors.New("is the second of that name; pass one, on one address (a socket unit may have several)"))
		}
	}
	return names, nil
}

// check reports what is wrong with a descriptor, and makes it close on exec. It changes nothing else.
func check(fd int) error {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return fmt.Errorf("is not open (%w); LISTEN_FDS says too much", err)
	}
	option := func(name int) int {
		value, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, name)
		if err != nil {
			return -1
		}
		return value
	}
	address, err := unix.Getsockname(fd)
	switch {
	case errors.Is(err, unix.ENOTSOCK):
		return errors.New("is no socket; only sockets can be passed")
	case option(unix.SO_TYPE) != unix.SOCK_STREAM:
		return errors.New("is no stream socket; use ListenStream= in its unit")
	case option(unix.SO_ACCEPTCONN) != 1:
		return errors.New("does not listen; use ListenStream= and Accept=no in its unit")
	}
	var at netip.AddrPort
	switch a := address.(type) {
	case *unix.SockaddrUnix:
		return nil
	case *unix.SockaddrInet4:
		at = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		at = netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	default:
		return errors.New("is neither a TCP nor a unix socket; set ListenStream=127.0.0.1:PORT or a path")
	}
	switch {
	case option(unix.SO_PROTOCOL) != unix.IPPROTO_TCP: // by which callers are looked up
		return errors.New("speaks another protocol than TCP; leave SocketProtocol= out of its unit")
	case !at.Addr().IsLoopback():
		return fmt.Errorf("listens on %s, which other hosts may reach; set ListenStream=127.0.0.1:%d", at, at.Port())
	}
	return nil
}

// take makes a listener of a checked descriptor, which it replaces by another that Go's poller knows.
func take(fd int) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), "a socket from systemd")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("cannot be used: %w", err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // the path is systemd's
	}
	return l, nil
}

// A Notifier sends the state of the service to systemd (sd_notify(3)). It is connected when it is made and then only
// writes to its socket, so that it works in a sandbox. Its methods may be called at the same time. Those of a nil
// Notifier do nothing.
type Notifier struct {
	conn     *net.UnixConn
	raw      syscall.RawConn // conn's
	watchdog time.Duration
}

// NewNotifier connects to systemd's socket. It returns nil if there is none: only a process that systemd starts with
// Type=notify or the like has one. It removes systemd's variables.
func NewNotifier() (*Notifier, error) {
	env := takeEnv(notifyVars)
	socket := env["NOTIFY_SOCKET"]
	if socket == "" {
		return nil, nil
	}
	watchdog, err := watchdogTime(env, os.Getpid())
	if err != nil {
		return nil, err
	}
	if socket[0] != '/' && socket[0] != '@' {
		return nil, fmt.Errorf("NOTIFY_SOCKET=%.128q is neither a path nor an abstract name (@...); other sockets are not supported", socket)
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("cannot connect to systemd's NOTIFY_SOCKET: %w; unset it if systemd did not start this", err)
	}
	raw, err := conn.SyscallConn()
	return &Notifier{conn, raw, watchdog}, err
}

// watchdogTime returns the time of the watchdog of process self (sd_watchdog_enabled(3)).
func watchdogTime(env map[string]string, self int) (time.Duration, error) {
	text, pid := env["WATCHDOG_USEC"], env["WATCHDOG_PID"]
	if text == "" || pid != "" && pid != strconv.Itoa(self) {
		return 0, nil
	}
	usec, err := strconv.ParseUint(text, 10, 64)
	if err != nil || usec == 0 || usec > math.MaxInt64/uint64(time.Microsecond) {
		return 0, fmt.Errorf("WATCHDOG_USEC=%.64q is not a number of microseconds; it is for systemd to set", text)
	}
	return time.Duration(usec) * time.Microsecond, nil
}

// Watchdog returns how long systemd waits for Alive before it kills the service; 0 if it does not. Alive should be
// reported twice in that time.
func (n *Notifier) Watchdog() time.Duration {
	if n == nil {
		return 0
	}
	return n.watchdog
}

// Notify reports a state, and a status unless that is empty: the text in systemctl status, which is made one line of at
// most 200 bytes. If systemd does not read, the message is lost, which the error says. Callers may ignore errors.
//
// The start fails without Ready, which may block for at most a second, until there is room: half the host may be
// starting at the same time. Other states do not wait, but for a Ready that does.
func (n *Notifier) Notify(state, status string) error {
	if n == nil {
		return nil
	}
	if status != "" {
		state += "\nSTATUS=" + oneLine(status)
	}
	wait := strings.HasPrefix(state, Ready)
	if wait {
		n.conn.SetWriteDeadline(time.Now().Add(time.Second))
		defer n.conn.SetWriteDeadline(time.Time{})
	}
	// conn's own Write would wait or, with a deadline that has passed, not even try.
	var failed error
	err := n.raw.Write(func(fd uintptr) (done bool) {
		_, failed = unix.Write(int(fd), []byte(state))
		return !wait || failed != unix.EAGAIN
	})
	if err := errors.Join(err, os.NewSyscallError("write", failed)); err != nil {
		return fmt.Errorf("cannot notify systemd: %w", err)
	}
	return nil
}

// Close closes the socket. Later messages fail.
func (n *Notifier) Close() error {
	if n == nil {
		return nil
	}
	return n.conn.Close()
}

// oneLine makes a status one line: each line of a message is an assignment. systemd ignores what is not UTF-8, which
// becomes U+FFFD here.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text[:min(len(text), 2*maxStatus)])
	return strings.ToValidUTF8(text[:min(len(text), maxStatus)], "")
}
