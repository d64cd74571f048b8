//go:build !linux

package systemd

import (
	"errors"
	"fmt"
	"net"
	"time"
)

const supported = false

// check refuses: without systemd no sockets are passed in this way.
func check(descriptor) error {
	return fmt.Errorf("sockets from systemd are not supported here (%w); unset LISTEN_FDS", errors.ErrUnsupported)
}

func take(d descriptor) (net.Listener, error) { return nil, check(d) }

func write(*net.UnixConn, string, time.Duration) error { return errors.ErrUnsupported }
