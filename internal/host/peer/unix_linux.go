package peer

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ReportsUnix is whether this system reports the peer's user on a unix socket.
const ReportsUnix = true

// ofUnix uses SO_PEERCRED: the kernel recorded the ids at connect(2), so the peer cannot change them. They are the
// effective ones; a set-user-ID program that passes its descriptor on is reported as its owner (unix(7)).
func ofUnix(fd int) (Credentials, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Credentials{}, fmt.Errorf("SO_PEERCRED: %w", err)
	}
	groups, err := peerGroups(fd, 32)
	return Credentials{cred.Uid, cred.Gid, groups, cred.Pid}, err
}

// peerGroups returns the supplementary groups of the peer (SO_PEERGROUPS, Linux 4.13). It starts with space for n
// groups; with ERANGE the kernel returns the size needed, in bytes, for at most 65,536 groups (credentials(7)). The
// groups were recorded at connect(2), so the second call always succeeds. x/sys has no function for it.
func peerGroups(fd, n int) ([]uint32, error) {
	for {
		groups := make([]uint32, n)
		size := uint32(4 * n)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(unsafe.SliceData(groups))), uintptr(unsafe.Pointer(&size)), 0)
		need := int(size / 4)
		switch {
		case errno == 0:
			return groups[:need], nil
		case errors.Is(errno, unix.ENOPROTOOPT):
			return nil, nil
		case errno != unix.ERANGE || need <= n:
			return nil, fmt.Errorf("SO_PEERGROUPS: %w", errno)
		}
		n = need
	}
}
