// Package systemd implements the two protocols between systemd and a service without its library: socket activation
// (sd_listen_fds(3)) and notification (sd_notify(3)). Both are covered by systemd's promise of a stable interface. The
// library would need cgo, with which the sandbox does not work.
package systemd

// The names that a socket may have (FileDescriptorName= in systemd.socket(5)). Without one, systemd uses the name of
// the socket's unit, which is refused, since it does not state the purpose.
const (
	Responses = "responses" // for clients
	Metrics   = "metrics"
)

// The states that a service can report (sd_notify(3)). Ready ends the start of a unit with Type=notify: units that are
// ordered after it start then. Stopping is for those who look at systemctl status during the shutdown.
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
	Alive    = "WATCHDOG=1" // resets the watchdog's timer
)
