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
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/linelog"
)

const (
	firstFD    = 3   // SD_LISTEN_FDS_START
	maxSockets = 64  // a greater number is a mistake
	maxStatus  = 200 // bytes, about: one or two lines of a terminal; systemd ignores messages of more than 4096
)

// The variables that systemd sets for its own child alone. LISTEN_PIDFDID, which distinguishes processes with the same
// pid, is not used, but removed.
var (
	listenVars = []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"}
	notifyVars = []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
)

// takeEnv removes variables from the environment and returns those that were set, so that no child inherits them
// (sd_listen_fds(3), unset_environment): its descriptors from 3 on are others, and a message of its own to
// NOTIFY_SOCKET could pass for the service's.
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

// Sockets returns the sockets that systemd has passed to this process (sd_listen_fds(3)); none if there are none or if
// they are meant for another process. Those named Responses are in systemd's order; metrics is nil if none has that
// name. Each is a listening stream socket on a path, an abstract name or a loopback address, and is close-on-exec; any
// other is an error that names it. After an error the descriptors are unchanged except for close-on-exec, and the
// caller should exit.
//
// The caller owns the listeners. Closing one does not close the socket: systemd keeps listening, and a unix socket's
// path remains. So clients that connect during a restart wait in its queue instead of being refused.
//
// It removes systemd's variables, so that a second call returns none. It must be called before other goroutines start
// processes, which would inherit the descriptors: systemd passes them without close-on-exec, since they must outlive
// execve(2).
func Sockets() (responses []net.Listener, metrics net.Listener, err error) {
	names, err := socketNames(takeEnv(listenVars), os.Getpid())
	if err != nil {
		return nil, nil, err
	}
	// All sockets are checked before any is used: if LISTEN_FDS is too large, the remaining descriptors belong to
	// something else and must not be closed.
	for i, name := range names {
		if err := check(firstFD + i); err != nil {
			return nil, nil, socketError(i, name, err)
		}
	}
	for i, name := range names {
		switch l, err := take(firstFD + i); {
		case err != nil:
			return nil, nil, socketError(i, name, err)
		case name == Metrics:
			metrics = l
		default:
			responses = append(responses, l)
		}
	}
	return responses, metrics, nil
}

// socketError names the socket as its unit does, and by its descriptor, since several may have the same name. The name
// is from the environment, and may have any length and characters.
func socketError(i int, name string, err error) error {
	return fmt.Errorf("socket %.64q from systemd (descriptor %d) %w", name, firstFD+i, err)
}

// socketNames returns the names of the descriptors from firstFD on that are for process self. Only known names are
// accepted: guessing a socket's purpose could expose the metrics to clients. LISTEN_PID differs from self in a child of
// the process that systemd started, such as a shell's, which has inherited the variables but maybe not the descriptors.
func socketNames(env map[string]string, self int) (names []string, err error) {
	count := env["LISTEN_FDS"]
	if env["LISTEN_PID"] != strconv.Itoa(self) || count == "" {
		return nil, nil
	}
	n, err := strconv.ParseUint(count, 10, 31)
	switch {
	case err != nil:
		return nil, fmt.Errorf("LISTEN_FDS=%.64q is not a number of sockets; only systemd should set it", count)
	case n > maxSockets:
		return nil, fmt.Errorf("LISTEN_FDS=%d is too many sockets; pass at most %d", n, maxSockets)
	case n == 0:
		return nil, nil
	}
	if joined := env["LISTEN_FDNAMES"]; joined != "" {
		names = strings.Split(joined, ":")
	}
	if len(names) != int(n) {
		return nil, fmt.Errorf("LISTEN_FDNAMES has %d names for the %d sockets of LISTEN_FDS; only systemd should set them, "+
			"from FileDescriptorName= in their units", len(names), n)
	}
	// Several sockets for clients serve alike. Two for the metrics are refused, since one of them would be a mistake.
	for i, name := range names {
		switch {
		case name != Responses && name != Metrics:
			return nil, socketError(i, name, errors.New("has an unknown name; "+
				"set FileDescriptorName="+Responses+" or FileDescriptorName="+Metrics+" in its unit"))
		case name == Metrics && slices.Contains(names[:i], Metrics):
			return nil, socketError(i, name, errors.New("is the second of that name; pass one, on one address (a socket unit may have several)"))
		}
	}
	return names, nil
}

// check returns an error unless a descriptor is a suitable socket, and makes it close-on-exec. It changes nothing else.
// The unit's author may have made any mistake, and the consequences would be silent: a socket that other hosts reach,
// whose users the kernel cannot report; or one that never accepts. The options are those of socket(7); SO_PROTOCOL
// needs Linux 2.6.32.
func check(fd int) error {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return fmt.Errorf("is not open (%w); LISTEN_FDS is too large", err)
	}
	// An option that cannot be read is 0, which is none of those that are required.
	option := func(name int) int {
		value, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, name)
		return value
	}
	address, err := unix.Getsockname(fd)
	switch {
	case errors.Is(err, unix.ENOTSOCK):
		return errors.New("is not a socket; pass only sockets")
	case option(unix.SO_TYPE) != unix.SOCK_STREAM:
		return errors.New("is not a stream socket; use ListenStream= in its unit")
	case option(unix.SO_ACCEPTCONN) != 1:
		return errors.New("does not listen; use ListenStream= and Accept=no in its unit")
	}
	var at netip.AddrPort
	switch a := address.(type) {
	case *unix.SockaddrUnix: // on any path or abstract name: only users of this host can connect (unix(7))
		return nil
	case *unix.SockaddrInet4:
		at = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		at = netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	default:
		return errors.New("is neither a TCP nor a unix socket; set ListenStream=127.0.0.1:PORT or a path")
	}
	switch {
	case option(unix.SO_PROTOCOL) != unix.IPPROTO_TCP:
		// A Multipath TCP socket has the same type and family, but package peer looks callers up by TCP sockets only.
		return errors.New("uses another protocol than TCP; remove SocketProtocol= from its unit")
	case !at.Addr().IsLoopback():
		return fmt.Errorf("listens on %s, which other hosts may reach; set ListenStream=127.0.0.1:%d", at, at.Port())
	}
	return nil
}

// take returns a listener for a checked descriptor, which it replaces with a duplicate that is registered with the
// poller. FileListener makes the duplicate close-on-exec and non-blocking; the latter belongs to the open file
// description, and so applies to systemd's own descriptor too (fcntl(2), F_SETFL), which only listens.
func take(fd int) (net.Listener, error) {
	// The File owns fd from here on.
	f := os.NewFile(uintptr(fd), "a socket from systemd")
	defer f.Close() // the original descriptor; the listener has a duplicate
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("cannot be used: %w", err)
	}
	// The path belongs to systemd, which goes on listening, and starts the service again at the next connection.
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	return l, nil
}

// A Notifier sends the state of the service to systemd (sd_notify(3)). NewNotifier connects its socket; later calls
// only write to it, so that it works in the sandbox, which allows neither new unix sockets nor sendmsg(2). A message
// needs no credentials of its own: the kernel adds the sender's, by which systemd finds the service (SO_PASSCRED,
// unix(7)). A Notifier's methods may be called concurrently. The methods of a nil Notifier do nothing.
type Notifier struct {
	conn     *net.UnixConn
	watchdog time.Duration
}

// NewNotifier connects to systemd's socket. It returns nil if systemd did not start the process with Type=notify or
// similar. It removes systemd's variables. An error should stop the start: systemd would wait for a message that cannot
// come, until TimeoutStartSec= ends the service. The caller must call Close.
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
	// There are also addresses that begin with "vsock:", by which the first process of a virtual machine notifies its
	// host.
	if socket[0] != '/' && socket[0] != '@' {
		return nil, fmt.Errorf("NOTIFY_SOCKET=%.128q is neither a path nor an abstract name (@...); other sockets are not supported", socket)
	}
	// DialUnix maps the @ of an abstract name to the zero byte with which the kernel marks it (unix(7)).
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("cannot connect to systemd's NOTIFY_SOCKET: %w; unset it if systemd did not start this", err)
	}
	return &Notifier{conn, watchdog}, nil
}

// watchdogTime returns the watchdog's time for process self (sd_watchdog_enabled(3)); 0 without WatchdogSec= in the
// unit, or if another process is to report. A time that is not understood is an error, because systemd kills a service
// that it watches and does not hear.
func watchdogTime(env map[string]string, self int) (time.Duration, error) {
	text, pid := env["WATCHDOG_USEC"], env["WATCHDOG_PID"]
	if text == "" || pid != "" && pid != strconv.Itoa(self) {
		return 0, nil
	}
	// Beyond 292 years a time.Duration overflows, and would be negative.
	usec, err := strconv.ParseUint(text, 10, 64)
	if err != nil || usec == 0 || usec > math.MaxInt64/uint64(time.Microsecond) {
		return 0, fmt.Errorf("WATCHDOG_USEC=%.64q is not a number of microseconds; only systemd should set it", text)
	}
	return time.Duration(usec) * time.Microsecond, nil
}

// Watchdog returns how long systemd waits for Alive before it kills the service; 0 means that it does not. Alive should
// be reported twice in that time (sd_watchdog_enabled(3)), so that one late message does no harm.
func (n *Notifier) Watchdog() time.Duration {
	if n == nil {
		return 0
	}
	return n.watchdog
}

// Notify reports a state, and a status, shown by systemctl status, unless it is empty. The status is escaped to one
// line of about 200 bytes at most.
//
// It blocks for a second at most: at boot many services notify at once, and the queue of a datagram socket has
// net.unix.max_dgram_qlen places, which all senders share (unix(7)). If systemd does not read in that time, the message
// is lost and Notify returns an error: that of Ready must be reported, since the start fails without it.
func (n *Notifier) Notify(state, status string) error {
	if n == nil {
		return nil
	}
	if status != "" {
		// Each line of a message is an assignment (sd_notify(3)): a line feed in a path or an error could otherwise
		// report another state.
		state += "\nSTATUS=" + string(linelog.AppendText(nil, status, maxStatus))
	}
	n.conn.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := n.conn.Write([]byte(state)); err != nil { // a datagram is written as a whole or not at all
		return fmt.Errorf("cannot notify systemd: %w", err)
	}
	return nil
}

// Close closes the socket. Later messages fail. It is not needed for systemd, which sees the end of the process.
func (n *Notifier) Close() error {
	if n == nil {
		return nil
	}
	return n.conn.Close()
}
