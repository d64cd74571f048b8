//go:build !linux

package systemd

import (
	"errors"
	"fmt"
	"net"
)

// check refuses: without systemd nobody passes sockets in this way.
func check(descriptor) error {
	return fmt.Errorf("sockets from systemd are not supported here (%w); unset LISTEN_FDS", errors.ErrUnsupported)
}

func take(d descriptor) (net.Listener, error) { return nil, check(d) }
