// Package systemd implements both protocols of a systemd service without its library: sockets that are passed down, and
// notifications that are sent up.
package systemd

import "net"

// The names that sockets may have (FileDescriptorName= in systemd.socket(5)).
const (
	Responses = "responses" // for clients
	Metrics   = "metrics"
)

// A Socket is one that systemd listens on and has passed to this process.
type Socket struct {
	Name string // Responses or Metrics
	// Listener accepts on systemd's socket; it is a *net.TCPListener or a *net.UnixListener. Closing it does not end
	// the socket: systemd keeps listening, and a unix socket's path stays.
	Listener net.Listener
}

// The states that a service can report (sd_notify(3)).
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
	Alive    = "WATCHDOG=1" // restarts the time of the watchdog
)
