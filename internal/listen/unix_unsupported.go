//go:build !unix

package listen

import (
	"errors"
	"fmt"
	"net"
)

// UnixSocket is never made here.
type UnixSocket struct{ net.Listener }

// Unix refuses: Windows has unix sockets, but does not report who connects.
func Unix(cfg UnixConfig) (*UnixSocket, error) {
	return nil, fmt.Errorf("cannot listen on the socket %s: unix sockets are not supported here (%w), "+
		"because this system does not tell who connects; use --port", cfg.Path, errors.ErrUnsupported)
}
