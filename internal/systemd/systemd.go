// Package systemd speaks the two protocols of a systemd service without its
// library: sockets that are handed down, and notifications that go up.
package systemd

import (
	"fmt"
	"net"
	"os"
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
	maxSockets = 64        // nobody has so many; a greater number is a mistake
	nameless   = "unknown" // what sd_listen_fds_with_names(3) calls a socket without a name
)

// A Socket is one that systemd listens on and has passed to this process. Its
// name is Responses or Metrics.
type Socket struct {
	Name string

	// Listener accepts on systemd's socket; it is never nil. To close it ends
	// nothing but this process's part in it: systemd keeps listening, and a unix
	// socket's path stays. It is a *net.TCPListener or a *net.UnixListener.
	Listener net.Listener
}

// Sockets returns what systemd has passed to this process, in its order
// (sd_listen_fds(3)): none if there is nothing, or if it was meant for another
// process. Of those named Responses there may be several, of those named
// Metrics one. All are listening stream sockets, on a path, an abstract name, or
// a loopback address, and close on exec; whatever else comes is an error that
// names it. After an error the descriptors are as they were, but for close on
// exec: the caller should exit.
//
// The variables that tell of the sockets are gone afterwards, so that a second
// call returns none. It must be called before other goroutines start processes.
func Sockets() ([]Socket, error) {
	handed := readListenEnv()
	for _, name := range listenVars {
		os.Unsetenv(name)
	}
	return handed.sockets(os.Getpid(), check, take)
}

// LISTEN_PIDFDID is set by newer versions, to tell processes apart that had the
// same number. Only its removal concerns us.
var listenVars = []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"}

// listenEnv is the environment as systemd sets it for sockets.
type listenEnv struct {
	pid, fds, names string
	named           bool // names is there, though it may be empty
}

func readListenEnv() listenEnv {
	e := listenEnv{pid: os.Getenv("LISTEN_PID"), fds: os.Getenv("LISTEN_FDS")}
	e.names, e.named = os.LookupEnv("LISTEN_FDNAMES")
	return e
}

// A descriptor is one that the environment tells of.
type descriptor struct {
	fd   int
	name string
}

// errorf makes an error that says which socket it is about.
func (d descriptor) errorf(format string, args ...any) error {
	return fmt.Errorf("socket %.64q from systemd (descriptor %d) %w", d.name, d.fd, fmt.Errorf(format, args...))
}

// sockets checks every descriptor before it takes the first: if LISTEN_FDS says
// too much, the others may be anything, and must not be closed.
func (e listenEnv) sockets(self int, check func(descriptor) error, take func(descriptor) (net.Listener, error)) ([]Socket, error) {
	handed, err := e.descriptors(self)
	if err != nil {
		return nil, err
	}
	for _, d := range handed {
		if err := check(d); err != nil {
			return nil, err
		}
	}
	if err := checkNames(handed); err != nil {
		return nil, err
	}
	var sockets []Socket
	for _, d := range handed {
		l, err := take(d)
		if err != nil {
			return nil, err
		}
		sockets = append(sockets, Socket{Name: d.name, Listener: l})
	}
	return sockets, nil
}

// descriptors reads the environment of process self.
func (e listenEnv) descriptors(self int) ([]descriptor, error) {
	if e.pid != strconv.Itoa(self) || e.fds == "" {
		return nil, nil
	}
	n, err := strconv.ParseUint(e.fds, 10, 31)
	if err != nil {
		return nil, fmt.Errorf("LISTEN_FDS=%.64q is not a number of sockets; it is for systemd to set", e.fds)
	}
	if n > maxSockets {
		return nil, fmt.Errorf("LISTEN_FDS=%d are too many sockets; pass %d at most", n, maxSockets)
	}
	if n == 0 {
		return nil, nil
	}
	names, err := e.splitNames(int(n))
	if err != nil {
		return nil, err
	}
	handed := make([]descriptor, n)
	for i := range handed {
		handed[i] = descriptor{firstFD + i, names[i]}
	}
	return handed, nil
}

// splitNames returns n names.
func (e listenEnv) splitNames(n int) ([]string, error) {
	names := strings.Split(e.names, ":")
	switch {
	case !e.named:
		return strings.Split(strings.Repeat(nameless+":", n-1)+nameless, ":"), nil
	case e.names == "":
		names = nil
	}
	if len(names) != n {
		return nil, fmt.Errorf("LISTEN_FDNAMES has %d names for the %d sockets of LISTEN_FDS; they are for systemd to set", len(names), n)
	}
	return names, nil
}

// checkNames holds every name to the closed set: what a socket is for must not
// be guessed, for a metrics page and a key's clients are not the same.
func checkNames(handed []descriptor) error {
	metrics := 0
	for _, d := range handed {
		switch d.name {
		case Responses:
		case Metrics:
			metrics++
		default:
			return d.errorf("has no name that is known here; set FileDescriptorName=%s or FileDescriptorName=%s in its unit", Responses, Metrics)
		}
		if metrics > 1 {
			return d.errorf("is the second of that name; pass one, on one address (a socket unit may have several)")
		}
	}
	return nil
}
