// Package systemd implements the two protocols between systemd and a service without its library: socket activation
// (sd_listen_fds(3)) and notification (sd_notify(3)).
package systemd

import "net"

// The names that a socket may have (FileDescriptorName= in systemd.socket(5)).
const (
	Responses = "responses" // for clients
	Metrics   = "metrics"
)

// A Socket is one that systemd created and passed to this process.
type Socket struct {
	Name string // Responses or Metrics
	// Listener accepts on systemd's socket; it is a *net.TCPListener or a *net.UnixListener. Closing it does not close
	// the socket: systemd keeps listening, and a unix socket's path remains.
	Listener net.Listener
}

// The states that a service can report (sd_notify(3)).
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
	Alive    = "WATCHDOG=1" // resets the watchdog's timer
)
