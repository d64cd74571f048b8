//go:build unix

package upstream

import (
	"errors"

	"golang.org/x/sys/unix"
)

// idleAndOpen reports whether nothing has arrived on an idle connection, neither its end nor unexpected bytes. It does
// not block.
func (c *conn) idleAndOpen() bool {
	var quiet bool
	err := c.raw.Control(func(fd uintptr) {
		var p [1]byte
		_, _, err := unix.Recvfrom(int(fd), p[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		quiet = errors.Is(err, unix.EAGAIN)
	})
	return err == nil && quiet
}
