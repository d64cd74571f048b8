//go:build !linux

package peer

import (
	"errors"
	"fmt"
	"net"
)

// TCP is not supported: this system has no call that reports the owner of a TCP connection's other end without a race.
type TCP struct{}

// OpenTCP returns an error that wraps [errors.ErrUnsupported].
func OpenTCP() (*TCP, error) {
	return nil, fmt.Errorf("this system does not report the peer's user on a TCP connection: %w", errors.ErrUnsupported)
}

// Close does nothing.
func (*TCP) Close() {}

// Owner returns [errors.ErrUnsupported].
func (*TCP) Owner(*net.TCPConn) (uint32, error) { return 0, errors.ErrUnsupported }
