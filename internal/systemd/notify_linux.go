package systemd

import (
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const supported = true

// link is a connected datagram socket.
type link struct {
	conn *net.UnixConn
	raw  syscall.RawConn
}

// dial connects to a path or, behind @, an abstract name.
func dial(socket string) (link, error) {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return link{}, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return link{}, err
	}
	return link{conn, raw}, nil
}

func (l link) close() error { return l.conn.Close() }

// send writes message, and waits for room in the receiver's queue for at most
// patience. With none it tries just once: net.Conn's own Write would wait, or,
// with a deadline that has passed, not even try.
func (l link) send(message string, patience time.Duration) error {
	if patience > 0 {
		if err := l.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		defer l.conn.SetWriteDeadline(time.Time{})
	}
	var err error
	waitErr := l.raw.Write(func(fd uintptr) (done bool) {
		for {
			if _, err = unix.Write(int(fd), []byte(message)); err != unix.EINTR {
				return err != unix.EAGAIN || patience <= 0
			}
		}
	})
	if waitErr != nil { // closed, or the deadline
		return waitErr
	}
	return os.NewSyscallError("write", err)
}
