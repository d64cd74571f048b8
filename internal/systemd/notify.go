package systemd

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const (
	// maxStatus is the length of a status in bytes: one line of a terminal or
	// two. systemd ignores messages of more than 4096.
	maxStatus = 200

	// readyPatience is how long Ready waits for room; see there.
	readyPatience = time.Second
)

// A Notifier tells systemd how the service is (sd_notify(3)). It is connected
// when it is made, and after that needs nothing but to write to its socket, so
// that it works in a jail. Its methods may be called at the same time. Those of
// a nil Notifier do nothing.
//
// No method but Ready ever waits (nor another, unless Ready is waiting just
// then): if systemd does not read, the message is lost, which the error says.
// Callers may ignore errors: there is nothing to be done about them but to send
// again.
type Notifier struct {
	link     link
	watchdog time.Duration
}

// NewNotifier connects to systemd's socket. It returns nil if there is none,
// which is so unless systemd has started this process with Type=notify or the
// like. The variables that tell of it are gone afterwards.
func NewNotifier() (*Notifier, error) {
	e := readNotifyEnv()
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
	l, err := dial(e.socket)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to systemd's NOTIFY_SOCKET: %w; unset it if systemd did not start this", err)
	}
	return &Notifier{link: l, watchdog: watchdog}, nil
}

var notifyVars = []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}

// notifyEnv is the environment as systemd sets it for notifications.
type notifyEnv struct{ socket, usec, pid string }

func readNotifyEnv() notifyEnv {
	return notifyEnv{os.Getenv("NOTIFY_SOCKET"), os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID")}
}

// timeout is that of the watchdog of process self (sd_watchdog_enabled(3)).
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

// Watchdog returns how long systemd waits for Alive before it takes the service
// for dead and kills it; 0 if it does not. Alive should be called twice in that
// time.
func (n *Notifier) Watchdog() time.Duration {
	if n == nil {
		return 0
	}
	return n.watchdog
}

// Ready says that the service serves, and a status unless that is empty. The
// start fails without this message, so Ready alone waits for room, for at most a
// second: half the host may be starting at the same time.
func (n *Notifier) Ready(status string) error {
	return n.send("READY=1"+statusLine(status), readyPatience)
}

// Status shows text in systemctl status. It is made one line of at most 200
// bytes.
func (n *Notifier) Status(text string) error {
	return n.send("STATUS="+oneLine(text), 0)
}

// Stopping says that the service is about to end, and a status unless that is
// empty.
func (n *Notifier) Stopping(status string) error {
	return n.send("STOPPING=1"+statusLine(status), 0)
}

// Alive satisfies the watchdog until its time has passed again.
func (n *Notifier) Alive() error {
	return n.send("WATCHDOG=1", 0)
}

// Close closes the socket. Later messages fail.
func (n *Notifier) Close() error {
	if n == nil {
		return nil
	}
	return n.link.close()
}

// send sends one datagram, or none.
func (n *Notifier) send(message string, patience time.Duration) error {
	if n == nil {
		return nil
	}
	if err := n.link.send(message, patience); err != nil {
		return fmt.Errorf("cannot notify systemd: %w", err)
	}
	return nil
}

func statusLine(status string) string {
	if status == "" {
		return ""
	}
	return "\nSTATUS=" + oneLine(status)
}

// oneLine keeps a status from being more than that: each line of a message is
// an assignment. systemd ignores what is not UTF-8.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r // bytes that are no UTF-8 come as U+FFFD
	}, text[:min(len(text), 2*maxStatus)])
	if len(text) <= maxStatus {
		return text
	}
	return strings.ToValidUTF8(text[:maxStatus], "")
}
