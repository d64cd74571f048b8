package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TCP looks up the owners of TCP sockets by sock_diag(7), with one datagram for each connection, where /proc/net/tcp
// would be a list of all. The netlink socket stays open, so that it works inside the sandbox, which forbids new ones.
// It needs no privilege, and finds the sockets of the network namespace in which it was opened (network_namespaces(7)).
// Without the kernel's CONFIG_INET_DIAG every look-up fails, and no peer is identified. Methods may be called
// concurrently.
type TCP struct {
	mu  sync.Mutex
	fd  int
	seq uint32
}

// Structures of linux/inet_diag.h, in host byte order except for ports and addresses, which are in network byte order.
type (
	socketID struct {
		SourcePort, DestPort [2]byte
		Source, Dest         [16]byte
		Interface            uint32
		Cookie               [2]uint32
	}
	diagRequest struct {
		Header                     unix.NlMsghdr
		Family, Protocol, Ext, Pad uint8
		States                     uint32
		ID                         socketID
	}
	diagResponse struct {
		Header                              unix.NlMsghdr
		Family, State, Timer, Retrans       uint8
		ID                                  socketID
		Expires, RQueue, WQueue, UID, Inode uint32
	}
)

const (
	established = 1          // TCP_ESTABLISHED
	anyCookie   = ^uint32(0) // INET_DIAG_NOCOOKIE: find a socket by its addresses alone
	loopback    = 1          // the interface's index, the same in every network namespace
)

// OpenTCP opens the netlink socket. The caller must call Close.
func OpenTCP() (*TCP, error) {
	// Non-blocking, because the kernel drops a response for which the socket's buffer has no space (netlink(7)): the
	// look-up then fails with EAGAIN instead of waiting for it.
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("netlink socket for sock_diag: %w", err)
	}
	// A connected netlink socket accepts messages only from its peer, here the kernel (netlink(7)): no other process
	// can forge a response.
	if err := unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("netlink socket for sock_diag: %w", err)
	}
	return &TCP{fd: fd}, nil
}

// Close closes the netlink socket. Later calls of Owner fail.
func (t *TCP) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	// -1 makes every later call fail, since another file may get the descriptor's number.
	unix.Close(t.fd)
	t.fd = -1
}

// Owner returns the uid that owns the socket at the other end of c, which may be accepted or dialled. It does not
// block.
//
// It returns an error unless that socket is on this host, is established, has exactly the addresses of c, and is held
// by a process: the kernel reports sockets that are closing or not yet accepted as root's, and an unidentified peer
// must not be treated as uid 0. See [ErrUnknown] and [ErrNotHeld]. A socket is owned by the user that created or
// accepted it, whichever process uses it. The uid is that of this process's user namespace; see [IsOverflow].
//
// The two addresses alone do not identify a connection. After a reset, another user's connection may have the same two
// while c, with a request of the first user to be read, is not accepted yet. And c may belong to another network
// namespace, if systemd passed its listener. So Owner looks up our own end as well, after the peer's. If that is
// established, and is c's own socket by its inode, no other connection can have had these addresses since c was made.
func (t *TCP) Owner(c *net.TCPConn) (uid uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	// Mapped addresses are compared unmapped: both ends of one connection may differ in that, if a client connects an
	// IPv6 socket to ::ffff:127.0.0.1 (ipv6(7)).
	remote, local := addrPort(c.RemoteAddr()), addrPort(c.LocalAddr())
	if !remote.Addr().IsValid() || remote.Addr().Is4() != local.Addr().Is4() {
		return 0, ErrUnknown
	}
	// Control keeps the descriptor open during the look-up.
	ctlErr := raw.Control(func(fd uintptr) { uid, err = t.owner(int(fd), remote, local) })
	return uid, errors.Join(err, ctlErr)
}

// owner compares the kernel's sockets with the descriptor fd. The low 32 bits of the inode are all that inet_diag
// reports (idiag_inode, sock_diag(7)). Any mismatch is an error, so that the request is refused: the attack that it
// prevents spends the key in another user's name, by a connection that is reset and whose port another user gets.
func (t *TCP) owner(fd int, remote, local netip.AddrPort) (uint32, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	theirs, ours, err := t.lookUp(remote, local)
	// The order of the requests matters: if our end is established after the look-up of the peer's, no other connection
	// had these addresses at that time.
	switch {
	case err != nil:
		return 0, err
	case !theirs.isEstablished(remote, local), !ours.isEstablished(local, remote), ours.Inode != uint32(st.Ino):
		return 0, ErrUnknown
	case theirs.Inode == 0:
		return 0, ErrNotHeld
	}
	// ENOTCONN after a reset. The port is free for another user's connection only after that, so that a connection that
	// is still there now was there during the look-up.
	if _, err := unix.Getpeername(fd); err != nil {
		return 0, ErrUnknown
	}
	return theirs.UID, nil
}

// lookUp returns the kernel's sockets for both ends of a connection: the zero diagResponse for a missing one.
func (t *TCP) lookUp(remote, local netip.AddrPort) (theirs, ours diagResponse, err error) {
	// One look-up at a time, so that each reads its own responses.
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seq += 2
	// A new sequence number for each request identifies its response.
	requests := [2]diagRequest{newRequest(t.seq, remote, local), newRequest(t.seq+1, local, remote)}
	// An accepted socket inherits the interface of a listener bound to one (SO_BINDTODEVICE, socket(7)), and is found
	// only under it.
	requests[1].ID.Interface = loopback
	// The kernel processes both in order, and queues the responses before the call returns. NLMSG_ALIGN is not needed:
	// the size of a request is a multiple of 4 (netlink(3)).
	datagram := unsafe.Slice((*byte)(unsafe.Pointer(&requests)), unsafe.Sizeof(requests))
	for err = unix.EINTR; err == unix.EINTR; {
		_, err = unix.Write(t.fd, datagram)
	}
	if err != nil {
		return theirs, ours, err
	}
	theirs, err = t.receive(t.seq)
	ours, err2 := t.receive(t.seq + 1)
	return theirs, ours, errors.Join(err, err2)
}

// isEstablished reports whether m is an established socket with local address source and remote address dest. The
// kernel returns a listening socket if it finds no other, and ignores the states of a request for a single socket
// (idiag_states, sock_diag(7)). An IPv6 socket may have IPv4-mapped addresses (RFC 4291, section 2.5.5.2).
func (m *diagResponse) isEstablished(source, dest netip.AddrPort) bool {
	return m.State == established &&
		m.end(m.ID.Source, m.ID.SourcePort) == source && m.end(m.ID.Dest, m.ID.DestPort) == dest
}

// end returns an address in the form that net uses, so that both can be compared.
func (m *diagResponse) end(addr [16]byte, port [2]byte) netip.AddrPort {
	ip := netip.AddrFrom16(addr).Unmap()
	if m.Family == unix.AF_INET {
		ip = netip.AddrFrom4([4]byte(addr[:4]))
	}
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(port[:]))
}

// newRequest returns a request for the socket with local address source and remote address dest.
func newRequest(seq uint32, source, dest netip.AddrPort) diagRequest {
	q := diagRequest{Family: unix.AF_INET, Protocol: unix.IPPROTO_TCP, ID: socketID{Cookie: [2]uint32{anyCookie, anyCookie}}}
	if source.Addr().Is6() {
		q.Family = unix.AF_INET6
	}
	q.Header = unix.NlMsghdr{Len: uint32(unsafe.Sizeof(q)), Type: unix.SOCK_DIAG_BY_FAMILY, Flags: unix.NLM_F_REQUEST, Seq: seq}
	binary.BigEndian.PutUint16(q.ID.SourcePort[:], source.Port())
	binary.BigEndian.PutUint16(q.ID.DestPort[:], dest.Port())
	copy(q.ID.Source[:], source.Addr().AsSlice())
	copy(q.ID.Dest[:], dest.Addr().AsSlice())
	return q
}

// receive reads the response to request seq: the zero diagResponse for an error, which usually means that there is no
// such socket, and in any case that none was found. It skips responses to earlier requests, whose reader may have
// failed.
func (t *TCP) receive(seq uint32) (r diagResponse, err error) {
	for {
		n, err := unix.Read(t.fd, unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r)))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return diagResponse{}, fmt.Errorf("sock_diag: %w", err)
		case r.Header.Seq != seq:
		case r.Header.Type != unix.SOCK_DIAG_BY_FAMILY: // NLMSG_ERROR: ENOENT
			return diagResponse{}, nil
		case n < int(unsafe.Sizeof(r)):
			return diagResponse{}, errors.New("sock_diag: short message")
		default:
			return r, nil
		}
	}
}

// addrPort returns the address of a TCP connection, unmapped and without zone; the zero AddrPort for any other address.
func addrPort(a net.Addr) netip.AddrPort {
	tcp, _ := a.(*net.TCPAddr)
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
