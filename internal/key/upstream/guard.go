package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/peer"
)

const (
	// acceptTimeout limits the wait for an upstream on this host to accept the connection. A single-threaded server
	// accepts only after its present response.
	acceptTimeout = 60 * time.Second
	// unknownTimeout is how long the peer's socket may not be established: the kernel may still be processing the last
	// packet of the handshake.
	unknownTimeout = time.Second

	shortestPause = 50 * time.Microsecond // between two look-ups
	longestPause  = 50 * time.Millisecond
)

// A plainGuard decides whether the key may be sent over a plain http connection. Any user may listen on a free port of
// a loopback address, so the address alone identifies no user: the kernel must report that the accepted socket is held
// by a trusted user. TLS needs no guard, because the certificate identifies the upstream.
//
// Looking up the owner of the listening socket would be simpler, but not safe: another process may have bound the port
// between the connection and the look-up. A socket that is not yet accepted has no owner; the kernel reports it as
// root's, with inode 0. So the guard waits until the connection is accepted. The uid is that of the process that
// accepted it, which may differ from the user that created the listener.
type plainGuard struct {
	peers    *peer.TCP // nil if the system does not report the peer's user
	err      error     // why peers is nil
	blind    bool      // no version of this system reports it; false on Linux, where a sandbox may refuse the look-up
	uids     []uint32
	insecure bool // the key may be sent to other hosts over plain http
}

// newGuard opens a netlink socket, which the sandbox refuses later. It trusts root, the user that runs this process
// now, and users. On Linux it returns an error for a target on this host if the kernel does not report the peer's user.
// On other systems it checks addresses only.
func newGuard(target *Target, users []uint32) (*plainGuard, error) {
	g := &plainGuard{uids: append(slices.Clone(users), 0, uint32(os.Getuid())), insecure: target.Insecure}
	g.uids = slices.DeleteFunc(g.uids, peer.IsOverflow)
	g.peers, g.err = peer.OpenTCP()
	g.blind = runtime.GOOS != "linux" && errors.Is(g.err, errors.ErrUnsupported)
	if g.err != nil && !g.blind && loopback(target.Name) {
		return nil, fmt.Errorf("--upstream-url: cannot determine which user the upstream belongs to: %w; use https", g.err)
	}
	return g, nil
}

// check returns an error unless the key may be sent over c. It may wait for c to be accepted.
func (g *plainGuard) check(ctx context.Context, c *net.TCPConn) error {
	remote := c.RemoteAddr().(*net.TCPAddr)
	switch {
	case !remote.IP.IsLoopback() && g.insecure:
		return nil
	case !remote.IP.IsLoopback():
		return fail(Untrusted, "%s is not an address of this host: plain http would send the key in clear", remote.IP).
			hint("use https, or add --upstream-tls off")
	case g.blind:
		return nil
	case g.err != nil:
		return fail(Untrusted, "cannot determine which user %s belongs to: %w", remote, g.err).hint("use https")
	}
	uid, err := g.holder(ctx, c)
	switch {
	case errors.Is(err, peer.ErrUnknown):
		return fail(Unreachable, "no process of this network namespace is at the other end of the connection to %s: "+
			"it has closed it, is in another namespace, or accepts only when data has arrived (TCP_DEFER_ACCEPT)", remote).hint("use https")
	case errors.Is(err, peer.ErrNotHeld):
		return fail(Timeout, "%s has not accepted the connection in %v", remote, acceptTimeout)
	case err != nil:
		return fail(Unreachable, "cannot determine which user %s belongs to: %w", remote, err)
	case !slices.Contains(g.uids, uid):
		return fail(Untrusted, "%s belongs to uid %d, which may not have the key", remote, uid).
			hint(fmt.Sprintf("if that is the upstream's user, add --upstream-user %d", uid))
	}
	return nil
}

// holder returns the uid that accepted c. It waits for that until ctx ends.
func (g *plainGuard) holder(ctx context.Context, c *net.TCPConn) (uint32, error) {
	begun := time.Now()
	for pause := shortestPause; ; pause = min(2*pause, longestPause) {
		uid, err := g.peers.Owner(c)
		waited := time.Since(begun)
		switch {
		case errors.Is(err, peer.ErrUnknown) && waited < unknownTimeout:
		case errors.Is(err, peer.ErrNotHeld) && waited < acceptTimeout:
		default:
			return uid, err
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(pause):
		}
	}
}
