//go:build unix

package upstream

import (
	"errors"

	"golang.org/x/sys/unix"
)

// quiet reports whether nothing has arrived on an idle connection: neither its end nor bytes that were not asked for.
// It does not block.
func (c *conn) quiet() bool {
	var quiet bool
	err := c.raw.Control(func(fd uintptr) {
		var p [1]byte
		_, _, err := unix.Recvfrom(int(fd), p[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		quiet = errors.Is(err, unix.EAGAIN)
	})
	return err == nil && quiet
}
