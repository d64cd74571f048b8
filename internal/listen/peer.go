package listen

import "net"

// PeerOfUnix asks the kernel who has connected: the user and groups of the
// process that called connect, as they were at that moment. groups may or may
// not include gid. pid is for the log only: another process may have it by now,
// and it is 0 for a process in a pid namespace that ours does not see.
//
// On Linux the numbers are those of our own user namespace. A process in a
// namespace below ours, root there or not, is seen as the user that it is out
// here. But a user whom our namespace does not know is reported as the overflow
// uid, 65534 (/proc/sys/kernel/overflowuid), likewise a group: then 65534 is
// not one user but any number of them, and must not be let in as one.
//
// On a kernel that has no SO_PEERGROUPS, and so before Linux 4.13, groups is
// empty. Of macOS, groups has the first 16. On systems other than these the
// error is [errors.ErrUnsupported].
func PeerOfUnix(c *net.UnixConn) (uid, gid uint32, groups []uint32, pid int32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, 0, nil, 0, err
	}
	ctlErr := raw.Control(func(fd uintptr) { uid, gid, groups, pid, err = peer(int(fd)) })
	if ctlErr != nil {
		err = ctlErr
	}
	if err != nil {
		return 0, 0, nil, 0, err // no numbers that could be taken for root's
	}
	return uid, gid, groups, pid, nil
}
