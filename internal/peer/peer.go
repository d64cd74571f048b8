// Package peer determines which user is at the other end of a connection, as the kernel reports it.
package peer

import (
	"errors"
	"net"
	"os"
	"strings"
)

// Errors of [TCP.Owner].
var (
	// ErrUnknown means that the kernel reports no established socket with the connection's two ends: the other end is
	// closing, closed, or not on this host.
	ErrUnknown = errors.New("the kernel reports no established connection with these ends")
	// ErrNotHeld means that no process holds the other end: the connection is not yet accepted, or its socket was
	// closed. Such a socket has no owner; the kernel may report it as root's.
	ErrNotHeld = errors.New("no process holds the other end of the connection")
)

// Credentials identify the process that connected over a unix socket.
type Credentials struct {
	UID, GID uint32
	// Groups are the supplementary groups, with or without GID.
	Groups []uint32
	// PID is for the log only: another process may have it by now. It is 0 for a process in a pid namespace that ours
	// does not see.
	PID int32
}

// OfUnix returns the credentials of the process that called connect on the other end of c, as they were at that moment.
//
// On Linux the numbers are those of our own user namespace. A process in a namespace below ours, root there or not, is
// reported as its user in ours. A user that our namespace does not map is reported as the overflow uid (see
// [IsOverflow]), and a group likewise.
//
// On a kernel without SO_PEERGROUPS, which is before Linux 4.13, Groups is empty. On macOS it has the first 16. On
// systems other than these the error is [errors.ErrUnsupported].
func OfUnix(c *net.UnixConn) (Credentials, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Credentials{}, err
	}
	var cred Credentials
	ctlErr := raw.Control(func(fd uintptr) { cred, err = ofUnix(int(fd)) })
	if err := errors.Join(ctlErr, err); err != nil {
		return Credentials{}, err // no numbers that could be taken for root's
	}
	return cred, nil
}

// IsOverflow reports whether uid is the overflow uid (/proc/sys/kernel/overflowuid) of a user namespace that does not
// map some users of the host (user_namespaces(7)): then it stands for all of those, and must not be admitted as one.
func IsOverflow(uid uint32) bool {
	if uid != 65534 {
		return false
	}
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(b)), " ") != "0 0 4294967295"
}
