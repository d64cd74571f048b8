package listen

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// peer finds the effective gid as the first of the groups.
func peer(fd int) (uid, gid uint32, groups []uint32, pid int32, err error) {
	cred, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return 0, 0, nil, 0, fmt.Errorf("cannot tell who has connected: %w", err)
	}
	n := int(cred.Ngroups)
	if cred.Version != 0 || n < 1 || n > len(cred.Groups) {
		return 0, 0, nil, 0, fmt.Errorf("cannot tell who has connected: the kernel answers in version %d with %d groups", cred.Version, n)
	}
	id, err := unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	if err != nil {
		return 0, 0, nil, 0, fmt.Errorf("cannot tell which process has connected: %w", err)
	}
	return cred.Uid, cred.Groups[0], slices.Clone(cred.Groups[1:n]), int32(id), nil
}
