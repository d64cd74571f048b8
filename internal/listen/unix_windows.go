package listen

import (
	"errors"
	"fmt"
)

// entry is never made here.
type entry struct{}

func (*entry) remove() error { return nil }
func (*entry) close()        {}

// makeUnix refuses: Windows has unix sockets, but does not tell who connects.
func makeUnix(UnixConfig) (*UnixSocket, error) {
	return nil, fmt.Errorf("unix sockets are not supported here (%w), because this system does not tell who connects; use --port", errors.ErrUnsupported)
}
