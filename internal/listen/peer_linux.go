package listen

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

func peer(fd int) (uid, gid uint32, groups []uint32, pid int32, err error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, 0, nil, 0, fmt.Errorf("cannot tell who has connected: %w", err)
	}
	groups, err = peerGroups(fd, 32)
	return cred.Uid, cred.Gid, groups, cred.Pid, err
}

// peerGroups begins with room for n groups; the kernel says how many there are
// if that is too little. They cannot change once the peer has connected.
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
			return nil, fmt.Errorf("cannot tell the groups of who has connected: %w", errno)
		}
		n = need
	}
}
