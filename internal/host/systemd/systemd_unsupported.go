//go:build !linux

package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// Sockets returns an error if LISTEN_FDS is set: only systemd passes sockets in this way.
func Sockets() (responses []net.Listener, metrics net.Listener, err error) {
	if n := os.Getenv("LISTEN_FDS"); n == "" || n == "0" || os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil, nil
	}
	return nil, nil, fmt.Errorf("sockets from systemd are not supported here (%w); unset LISTEN_FDS", errors.ErrUnsupported)
}

// A Notifier does nothing: there is no systemd.
type Notifier struct{}

// NewNotifier returns nil.
func NewNotifier() (*Notifier, error) { return nil, nil }

// Watchdog returns 0.
func (*Notifier) Watchdog() time.Duration { return 0 }

// Notify does nothing.
func (*Notifier) Notify(state, status string) error { return nil }

// Close does nothing.
func (*Notifier) Close() error { return nil }
