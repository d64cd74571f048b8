package listen

import (
	"context"
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenNarrow creates a socket file with mode 0600. On Linux bind(2) gives the file the mode of the socket itself,
// less the umask (net/unix/af_unix.c, unix_bind); Control is called between socket(2) and bind(2). That avoids
// umask(2), which would affect files that other threads create, and a rename from a temporary name, which ss(8) would
// go on showing.
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
