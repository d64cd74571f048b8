package peer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TCP asks the kernel who owns TCP sockets (sock_diag(7), inet_diag): one
// message each way for each connection, and no walk through /proc/net/tcp. It
// keeps its netlink socket open, so that it works inside a sandbox. Its methods
// may be called concurrently.
type TCP struct {
	mu  sync.Mutex
	fd  int
	seq uint32
}

// Structures of linux/inet_diag.h, in the kernel's byte order but for ports
// and addresses, which are in network byte order.
type (
	socketID struct {
		SourcePort, DestPort [2]byte
		Source, Dest         [16]byte
		Interface            uint32
		Cookie               [2]uint32
	}
	diagRequest struct {
		Header   unix.NlMsghdr
		Family   uint8
		Protocol uint8
		Ext      uint8
		Pad      uint8
		States   uint32
		ID       socketID
	}
	diagMessage struct {
		Family  uint8
		State   uint8
		Timer   uint8
		Retrans uint8
		ID      socketID
		Expires uint32
		RQueue  uint32
		WQueue  uint32
		UID     uint32
		Inode   uint32
	}
)

const (
	established = 1 // TCP_ESTABLISHED
	anyCookie   = ^uint32(0)
)

// OpenTCP opens the netlink socket. Call Close when done.
func OpenTCP() (*TCP, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("netlink socket for sock_diag: %w", err)
	}
	return &TCP{fd: fd}, nil
}

// Close closes the netlink socket. No other method may be called after it.
func (t *TCP) Close() { unix.Close(t.fd) }

// Owner returns the uid that owns the socket at the other end of c, which may
// have been accepted or dialled here. It does not block.
//
// The error is not nil unless that socket is on this host, established, has
// exactly the two ends of c, and is held by a process: the kernel reports sockets
// that are closing, or not yet accepted, as root's. See [ErrUnknown] and
// [ErrNotHeld]. A socket is owned by the user that created it, or accepted it,
// whichever process uses it.
func (t *TCP) Owner(c *net.TCPConn) (uid uint32, err error) {
	remote, local := addrPort(c.RemoteAddr()), addrPort(c.LocalAddr())
	if !remote.Addr().IsValid() || remote.Addr().Is4() != local.Addr().Is4() {
		return 0, ErrUnknown
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.ask(remote, local); err != nil {
		return 0, err
	}
	m, err := t.receive()
	if err != nil {
		return 0, err
	}
	if !m.isEstablished(remote, local) {
		return 0, ErrUnknown
	}
	if m.Inode == 0 {
		return 0, ErrNotHeld
	}
	return m.UID, nil
}

// isEstablished reports whether m is about an established socket whose own end
// is source and whose other end is dest. The kernel falls back to listening
// sockets when it finds no other. An IPv6 socket may have mapped IPv4 addresses.
func (m *diagMessage) isEstablished(source, dest netip.AddrPort) bool {
	return m.State == established &&
		m.end(m.ID.Source, m.ID.SourcePort) == source && m.end(m.ID.Dest, m.ID.DestPort) == dest
}

func (m *diagMessage) end(addr [16]byte, port [2]byte) netip.AddrPort {
	ip := netip.AddrFrom16(addr).Unmap()
	if m.Family == unix.AF_INET {
		ip = netip.AddrFrom4([4]byte(addr[:4]))
	}
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(port[:]))
}

// ask requests the socket whose own end is source. It needs t.mu.
func (t *TCP) ask(source, dest netip.AddrPort) error {
	t.seq++
	q := diagRequest{Family: unix.AF_INET, Protocol: unix.IPPROTO_TCP, States: 1 << established}
	if source.Addr().Is6() {
		q.Family = unix.AF_INET6
	}
	q.Header = unix.NlMsghdr{Len: uint32(unsafe.Sizeof(q)), Type: unix.SOCK_DIAG_BY_FAMILY, Flags: unix.NLM_F_REQUEST, Seq: t.seq}
	binary.BigEndian.PutUint16(q.ID.SourcePort[:], source.Port())
	binary.BigEndian.PutUint16(q.ID.DestPort[:], dest.Port())
	copy(q.ID.Source[:], source.Addr().AsSlice())
	copy(q.ID.Dest[:], dest.Addr().AsSlice())
	q.ID.Cookie = [2]uint32{anyCookie, anyCookie}
	message := unsafe.Slice((*byte)(unsafe.Pointer(&q)), unsafe.Sizeof(q))
	for {
		err := unix.Sendto(t.fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// receive reads the response to the last request, which the kernel has queued
// before ask returns. Responses to earlier requests are skipped. It needs t.mu.
func (t *TCP) receive() (*diagMessage, error) {
	var buf [1024]byte
	for {
		n, from, err := unix.Recvfrom(t.fd, buf[:], unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("sock_diag: %w", err)
		}
		var header unix.NlMsghdr
		sender, ok := from.(*unix.SockaddrNetlink)
		if !ok || sender.Pid != 0 || n < binary.Size(header) { // from a process, not from the kernel
			continue
		}
		r := bytes.NewReader(buf[:n])
		if err := binary.Read(r, binary.NativeEndian, &header); err != nil || header.Seq != t.seq {
			continue
		}
		return parseMessage(header.Type, r)
	}
}

func parseMessage(kind uint16, r *bytes.Reader) (*diagMessage, error) {
	if kind != unix.SOCK_DIAG_BY_FAMILY { // NLMSG_ERROR: ENOENT
		return nil, ErrUnknown
	}
	var m diagMessage
	if err := binary.Read(r, binary.NativeEndian, &m); err != nil {
		return nil, fmt.Errorf("sock_diag: short message: %w", err)
	}
	return &m, nil
}
