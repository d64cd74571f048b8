package systemd

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// maxStatus is the length of a status in bytes: one line of a terminal or two. systemd ignores messages of more than
// 4096.
const maxStatus = 200

// A Notifier sends the state of the service to systemd (sd_notify(3)). It is connected when it is made and then only
// writes to its socket, so that it works in a sandbox. Its methods may be called at the same time. Those of a nil
// Notifier do nothing.
//
// Only Ready may block; other methods may briefly contend with it. If systemd does not read, the message is lost, which
// the error says. Callers may ignore errors.
type Notifier struct {
	conn     *net.UnixConn
	watchdog time.Duration
}

// NewNotifier connects to systemd's socket. It returns nil if there is none: only a process that systemd starts with
// Type=notify or the like has one. It removes systemd's variables.
func NewNotifier() (*Notifier, error) {
	e := notifyEnv{os.Getenv("NOTIFY_SOCKET"), os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID")}
	for _, name := range notifyVars {
		os.Unsetenv(name)
	}
	if e.socket == "" || !supported {
		return nil, nil
	}
	watchdog, err := e.timeout(os.Getpid())
	if err != nil {
		return nil, err
	}
	if e.socket[0] != '/' && e.socket[0] != '@' {
		return nil, fmt.Errorf("NOTIFY_SOCKET=%.128q is neither a path nor an abstract name (@...); other sockets are not supported", e.socket)
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: e.socket, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("cannot connect to systemd's NOTIFY_SOCKET: %w; unset it if systemd did not start this", err)
	}
	return &Notifier{conn, watchdog}, nil
}

var notifyVars = []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}

// notifyEnv is the values of notifyVars.
type notifyEnv struct{ socket, usec, pid string }

// timeout returns that of the watchdog of process self (sd_watchdog_enabled(3)).
func (e notifyEnv) timeout(self int) (time.Duration, error) {
	if e.usec == "" || e.pid != "" && e.pid != strconv.Itoa(self) {
		return 0, nil
	}
	const most = 1<<63/uint64(time.Microsecond) - 1
	usec, err := strconv.ParseUint(e.usec, 10, 64)
	if err != nil || usec == 0 || usec > most {
		return 0, fmt.Errorf("WATCHDOG_USEC=%.64q is not a number of microseconds; it is for systemd to set", e.usec)
	}
	return time.Duration(usec) * time.Microsecond, nil
}

// Watchdog returns how long systemd waits for Alive before it kills the service; 0 if it does not. Alive should be
// called twice in that time.
func (n *Notifier) Watchdog() time.Duration {
	if n == nil {
		return 0
	}
	return n.watchdog
}

// Ready reports that the service is ready, and a status unless that is empty. The start fails without this message, so
// Ready waits for room, for at most a second: half the host may be starting at the same time.
func (n *Notifier) Ready(status string) error { return n.send("READY=1"+line(status), time.Second) }

// Status sets the text in systemctl status. It is made one line of at most 200 bytes.
func (n *Notifier) Status(text string) error { return n.send("STATUS="+oneLine(text), 0) }

// Stopping reports that the service is about to end, and a status unless that is empty.
func (n *Notifier) Stopping(status string) error { return n.send("STOPPING=1"+line(status), 0) }

// Alive restarts the time of the watchdog.
func (n *Notifier) Alive() error { return n.send("WATCHDOG=1", 0) }

// Close closes the socket. Later messages fail.
func (n *Notifier) Close() error {
	if n == nil {
		return nil
	}
	return n.conn.Close()
}

// send sends one datagram, or none.
func (n *Notifier) send(message string, wait time.Duration) error {
	if n == nil {
		return nil
	}
	if err := write(n.conn, message, wait); err != nil {
		return fmt.Errorf("cannot notify systemd: %w", err)
	}
	return nil
}

func line(status string) string {
	if status == "" {
		return ""
	}
	return "\nSTATUS=" + oneLine(status)
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
