// Package systemd implements both protocols of a systemd service without its library: sockets that are passed down, and
// notifications that are sent up.
package systemd

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
)

// The names that sockets may have (FileDescriptorName= in systemd.socket(5)).
const (
	Responses = "responses" // for clients
	Metrics   = "metrics"
)

const (
	firstFD    = 3         // SD_LISTEN_FDS_START
	maxSockets = 64        // a greater number is a mistake
	nameless   = "unknown" // sd_listen_fds_with_names(3)
)

// A Socket is one that systemd listens on and has passed to this process.
type Socket struct {
	// Name is Responses or Metrics.
	Name string
	// Listener accepts on systemd's socket; it is a *net.TCPListener or a *net.UnixListener. Closing it does not end
	// the socket: systemd keeps listening, and a unix socket's path stays.
	Listener net.Listener
}

// Sockets returns the sockets that systemd has passed to this process, in its order (sd_listen_fds(3)): none if there
// are none, or if they were meant for another process. There may be several named Responses, and one named Metrics. All
// are listening stream sockets on a path, an abstract name or a loopback address, and close on exec; any other is an
// error that names it. After an error the descriptors are as they were, but for close on exec: the caller should exit.
//
// It removes systemd's variables, so that a second call returns none. It must be called before other goroutines start
// processes.
func Sockets() ([]Socket, error) {
	e := listenEnv{pid: os.Getenv("LISTEN_PID"), fds: os.Getenv("LISTEN_FDS")}
	e.names, e.named = os.LookupEnv("LISTEN_FDNAMES")
	for _, name := range listenVars {
		os.Unsetenv(name)
	}
	return e.sockets(os.Getpid(), check, take)
}

// listenVars are systemd's variables for sockets. The last one, which distinguishes processes that had the same number,
// is only removed.
var listenVars = []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"}

// listenEnv is the values of listenVars.
type listenEnv struct {
	pid, fds, names string
	named           bool // names is set, though it may be empty
}

// A descriptor is one that listenEnv names.
type descriptor struct {
	fd   int
	name string
}

// errorf returns an error about the descriptor.
func (d descriptor) errorf(format string, args ...any) error {
	return fmt.Errorf("socket %.64q from systemd (descriptor %d) %w", d.name, d.fd, fmt.Errorf(format, args...))
}

// sockets checks every descriptor before it takes the first: if LISTEN_FDS is too large, the others may be anything,
// and must not be closed.
func (e listenEnv) sockets(self int, check func(descriptor) error, take func(descriptor) (net.Listener, error)) ([]Socket, error) {
	passed, err := e.descriptors(self)
	if err != nil {
		return nil, err
	}
	for _, d := range passed {
		if err := check(d); err != nil {
			return nil, err
		}
	}
	var sockets []Socket
	for _, d := range passed {
		l, err := take(d)
		if err != nil {
			return nil, err
		}
		sockets = append(sockets, Socket{d.name, l})
	}
	return sockets, nil
}

// descriptors returns those for process self. Their names are from a closed set: the purpose of a socket must not be
// guessed.
func (e listenEnv) descriptors(self int) ([]descriptor, error) {
	if e.pid != strconv.Itoa(self) || e.fds == "" {
		return nil, nil
	}
	n, err := strconv.ParseUint(e.fds, 10, 31)
	switch {
	case err != nil:
		return nil, fmt.Errorf("LISTEN_FDS=%.64q is not a number of sockets; it is for systemd to set", e.fds)
	case n > maxSockets:
		return nil, fmt.Errorf("LISTEN_FDS=%d are too many sockets; pass %d at most", n, maxSockets)
	case n == 0:
		return nil, nil
	}
	var names []string
	if !e.named {
		names = slices.Repeat([]string{nameless}, int(n))
	} else if e.names != "" {
		names = strings.Split(e.names, ":")
	}
	if len(names) != int(n) {
		return nil, fmt.Errorf("LISTEN_FDNAMES has %d names for the %d sockets of LISTEN_FDS; they are for systemd to set", len(names), n)
	}
	var passed []descriptor
	for i, name := range names {
		d := descriptor{firstFD + i, name}
		switch {
		case name != Responses && name != Metrics:
			return nil, d.errorf("has no name that is known here; set FileDescriptorName=%s or FileDescriptorName=%s in its unit", Responses, Metrics)
		case name == Metrics && slices.Contains(names[:i], Metrics):
			return nil, d.errorf("is the second of that name; pass one, on one address (a socket unit may have several)")
		}
		passed = append(passed, d)
	}
	return passed, nil
}
