package listen

import (
	"context"
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenNarrow makes a socket that is born with mode 0600. Linux makes the file with the mode that the socket itself
// has when it is bound (and the umask), so that nothing is changed for the process's other threads, as by umask(2), and
// no name has to be moved into place, after which ss(8) would know the socket by a name that is gone.
func listenNarrow(path string) (*net.UnixListener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(ctlErr, err)
	}}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	return l.(*net.UnixListener), nil
}
