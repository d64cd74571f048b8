// Package peer determines which user is at the other end of a connection, as the kernel reports it. Nothing that a peer
// sends can change the result, so that callers need no secret of their own.
package peer

import (
	"errors"
	"net"
	"os"
	"strings"
)

// The errors of [TCP.Owner].
var (
	// ErrUnknown means that the kernel reports no established socket with the connection's two addresses: the peer is
	// closing, closed, or not on this host.
	ErrUnknown = errors.New("the kernel reports no established connection between these addresses")
	// ErrNotHeld means that no process holds the peer's socket: it is not accepted yet, or was closed. Such a socket
	// has no owner; the kernel may report it as root's.
	ErrNotHeld = errors.New("no process holds the other end of the connection")
)

// Credentials identify the process that connected over a unix socket.
type Credentials struct {
	UID, GID uint32
	// Groups are the supplementary groups, with or without GID.
	Groups []uint32
	// PID is for logging only: the process may have exited, and another may have its number. It is 0 for a process
	// outside this process's PID namespace (pid_namespaces(7)).
	PID int32
}

// OfUnix returns the credentials of the process that called connect(2) on the other end of c, as they were at that time
// (SO_PEERCRED, unix(7)).
//
// On Linux the ids are those of this process's user namespace. A process in a child namespace, as its root or as
// another user, is reported as the user that it is mapped to in ours. A user that our namespace does not map is
// reported as the overflow uid (see [IsOverflow]), and a group likewise.
//
// Groups is empty on a kernel without SO_PEERGROUPS (before Linux 4.13). On macOS it contains the first 16 groups. On
// other systems the error is [errors.ErrUnsupported].
func OfUnix(c *net.UnixConn) (Credentials, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Credentials{}, err
	}
	var cred Credentials
	ctlErr := raw.Control(func(fd uintptr) { cred, err = ofUnix(int(fd)) })
	if err := errors.Join(ctlErr, err); err != nil {
		return Credentials{}, err // zero ids would be root's
	}
	return cred, nil
}

// IsOverflow reports whether uid is the overflow uid (/proc/sys/kernel/overflowuid) in a user namespace that does not
// map all users of the host (user_namespaces(7)). It then stands for every unmapped user, and must not be admitted as
// one user.
func IsOverflow(uid uint32) bool {
	if uid != 65534 {
		return false
	}
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(b)), " ") != "0 0 4294967295"
}
