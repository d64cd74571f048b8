//go:build !linux && !darwin

package peer

import "errors"

// ReportsUnix is whether this system reports the peer's user on a unix socket. FreeBSD, OpenBSD and NetBSD do, in ways of
// their own that the program does not use.
const ReportsUnix = false

func ofUnix(int) (Credentials, error) { return Credentials{}, errors.ErrUnsupported }
