package admit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// diag asks the kernel whose TCP sockets are (sock_diag(7), inet_diag): one
// question and one answer for each connection, and no walk through
// /proc/net/tcp. It keeps its socket open, so that it works in a jail.
type diag struct {
	mu  sync.Mutex
	fd  int
	seq uint32
}

// Structures of linux/inet_diag.h, in the kernel's byte order but for ports
// and addresses, which are in the network's.
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
	diagAnswer struct {
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

var errUnknownPeer = errors.New("the kernel knows no such connection")

func openDiag() (*diag, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("netlink socket for sock_diag: %w", err)
	}
	return &diag{fd: fd}, nil
}

func (d *diag) close() { unix.Close(d.fd) }

// owner returns the uid of the socket at the client's end of a connection. It
// counts only for a socket that is established, that has exactly these two
// ends, and that a process still holds: sockets that are closing are reported
// as root's.
func (d *diag) owner(client, server netip.AddrPort) (uint32, error) {
	client, server = unmap(client), unmap(server)
	if !client.Addr().Is4() && !client.Addr().Is6() || client.Addr().Is4() != server.Addr().Is4() {
		return 0, errUnknownPeer
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.ask(client, server); err != nil {
		return 0, err
	}
	answer, err := d.receive()
	if err != nil {
		return 0, err
	}
	if !answer.is(client, server) {
		return 0, errUnknownPeer
	}
	return answer.UID, nil
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// is checks that the answer is about an established socket with these ends. The
// kernel falls back to listening sockets when it finds no other. A client's
// IPv6 socket may have a mapped IPv4 address.
func (a *diagAnswer) is(client, server netip.AddrPort) bool {
	if a.State != established || a.Inode == 0 {
		return false
	}
	return a.end(a.ID.Source, a.ID.SourcePort) == client && a.end(a.ID.Dest, a.ID.DestPort) == server
}

func (a *diagAnswer) end(addr [16]byte, port [2]byte) netip.AddrPort {
	ip := netip.AddrFrom16(addr).Unmap()
	if a.Family == unix.AF_INET {
		ip = netip.AddrFrom4([4]byte(addr[:4]))
	}
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(port[:]))
}

// ask sends the question about the socket whose own end is the client's.
func (d *diag) ask(client, server netip.AddrPort) error {
	d.seq++
	q := diagRequest{Family: unix.AF_INET, Protocol: unix.IPPROTO_TCP, States: 1 << established}
	if client.Addr().Is6() {
		q.Family = unix.AF_INET6
	}
	q.Header = unix.NlMsghdr{Len: uint32(unsafe.Sizeof(q)), Type: unix.SOCK_DIAG_BY_FAMILY, Flags: unix.NLM_F_REQUEST, Seq: d.seq}
	binary.BigEndian.PutUint16(q.ID.SourcePort[:], client.Port())
	binary.BigEndian.PutUint16(q.ID.DestPort[:], server.Port())
	copy(q.ID.Source[:], client.Addr().AsSlice())
	copy(q.ID.Dest[:], server.Addr().AsSlice())
	q.ID.Cookie = [2]uint32{anyCookie, anyCookie}
	message := unsafe.Slice((*byte)(unsafe.Pointer(&q)), unsafe.Sizeof(q))
	for {
		err := unix.Sendto(d.fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// receive reads the answer to the last question; the kernel has put it there
// before ask returns. Older answers are left-overs.
func (d *diag) receive() (*diagAnswer, error) {
	var buf [1024]byte
	for {
		n, from, err := unix.Recvfrom(d.fd, buf[:], unix.MSG_DONTWAIT)
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
		if err := binary.Read(r, binary.NativeEndian, &header); err != nil || header.Seq != d.seq {
			continue
		}
		return parseAnswer(header.Type, r)
	}
}

func parseAnswer(kind uint16, r *bytes.Reader) (*diagAnswer, error) {
	if kind != unix.SOCK_DIAG_BY_FAMILY { // NLMSG_ERROR: ENOENT
		return nil, errUnknownPeer
	}
	var a diagAnswer
	if err := binary.Read(r, binary.NativeEndian, &a); err != nil {
		return nil, fmt.Errorf("sock_diag: a short answer: %w", err)
	}
	return &a, nil
}
