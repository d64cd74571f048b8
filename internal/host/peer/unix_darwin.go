package peer

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// ReportsUnix is whether this system reports the peer's user on a unix socket.
const ReportsUnix = true

// ofUnix uses LOCAL_PEERCRED (unix(4)), whose first group is the effective gid. The kernel recorded the ids at
// connect(2). A structure of another version could have its fields elsewhere, and is refused.
func ofUnix(fd int) (Credentials, error) {
	cred, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return Credentials{}, fmt.Errorf("LOCAL_PEERCRED: %w", err)
	}
	n := int(cred.Ngroups)
	if cred.Version != 0 || n < 1 || n > len(cred.Groups) {
		return Credentials{}, fmt.Errorf("LOCAL_PEERCRED: unsupported version %d with %d groups", cred.Version, n)
	}
	// The structure has no process id, which is for logging only.
	pid, err := unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	if err != nil {
		return Credentials{}, fmt.Errorf("LOCAL_PEERPID: %w", err)
	}
	return Credentials{cred.Uid, cred.Groups[0], slices.Clone(cred.Groups[1:n]), int32(pid)}, nil
}
