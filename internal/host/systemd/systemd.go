// Package systemd implements the two protocols between systemd and a service without its library: socket activation
// (sd_listen_fds(3)) and notification (sd_notify(3)). Both are covered by systemd's promise of a stable interface. The
// library would need cgo, with which the sandbox does not work.
package systemd

import "net"

// The names that a socket may have (FileDescriptorName= in systemd.socket(5)). Without one, systemd uses the name of
// the socket's unit, which is refused, since it does not state the purpose.
const (
	Responses = "responses" // for clients
	Metrics   = "metrics"
)

// A Socket is one that systemd created and passed to this process.
type Socket struct {
	Name string // Responses or Metrics
	// Listener accepts on systemd's socket; it is a *net.TCPListener or a *net.UnixListener. Closing it does not close
	// the socket: systemd keeps listening, and a unix socket's path remains. So clients that connect during a restart
	// wait in its queue instead of being refused. The caller owns Listener.
	Listener net.Listener
}

// The states that a service can report (sd_notify(3)). Ready ends the start of a unit with Type=notify: units that are
// ordered after it start then. Stopping is for those who look at systemctl status during the shutdown.
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
	Alive    = "WATCHDOG=1" // resets the watchdog's timer
)
