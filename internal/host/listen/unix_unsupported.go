//go:build !unix

package listen

import (
	"errors"
	"fmt"
	"net"
)

// UnixSocket is never created on this system.
type UnixSocket struct{ net.Listener }

// Unix returns an error: Windows has unix sockets, but does not report the peer's user, so that every user who can open
// the socket's directory could use the key.
func Unix(cfg UnixConfig) (*UnixSocket, error) {
	return nil, fmt.Errorf("cannot listen on the socket %s: unix sockets are not supported here (%w), "+
		"because this system does not report the user of a client; use --port", cfg.Path, errors.ErrUnsupported)
}
