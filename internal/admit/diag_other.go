//go:build !linux

package admit

import (
	"errors"
	"net/netip"
)

// diag is not supported here: no call tells whose the other end of a TCP
// connection is without a race.
type diag struct{}

func openDiag() (*diag, error) {
	return nil, errors.New("this system does not tell whose the other end of a TCP connection is; use --socket without --port")
}

func (*diag) close() {}

func (*diag) owner(_, _ netip.AddrPort) (uint32, error) { return 0, errors.ErrUnsupported }
