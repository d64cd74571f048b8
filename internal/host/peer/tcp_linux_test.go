package peer

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// pair returns both ends of a connection on loopback.
func pair(tb testing.TB) (tcp *TCP, accepted, dialled *net.TCPConn) {
	tb.Helper()
	tcp, l := openTCP(tb), listenTCP(tb)
	dialled = dial(tb, l)
	return tcp, accept(tb, l), dialled
}

func accept(tb testing.TB, l *net.TCPListener) *net.TCPConn {
	tb.Helper()
	l.SetDeadline(time.Now().Add(timeout))
	c, err := l.AcceptTCP()
	if err != nil {
		tb.Fatal("no connection to accept: ", err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

func openTCP(tb testing.TB) *TCP {
	tb.Helper()
	tcp, err := OpenTCP()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(tcp.Close)
	return tcp
}

func listenTCP(tb testing.TB) *net.TCPListener {
	tb.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return l
}

func dial(tb testing.TB, l net.Listener) *net.TCPConn {
	tb.Helper()
	c, err := net.DialTimeout("tcp", l.Addr().String(), timeout)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// TestOwner looks up each end of a connection from the other.
func TestOwner(t *testing.T) {
	tcp, accepted, dialled := pair(t)
	for name, c := range map[string]*net.TCPConn{"accepted": accepted, "dialled": dialled} {
		if uid, err := tcp.Owner(c); err != nil || int(uid) != os.Geteuid() {
			t.Errorf("%s: uid %d, %v", name, uid, err)
		}
	}
}

// TestOwnerOverIPv6 looks up each end of a connection to ::1 from the other.
func TestOwnerOverIPv6(t *testing.T) {
	tcp := openTCP(t)
	l, err := net.ListenTCP("tcp6", &net.TCPAddr{IP: net.IPv6loopback})
	if err != nil {
		t.Skip("no IPv6 here: ", err)
	}
	defer l.Close()
	dialled := dial(t, l)
	if uid, err := tcp.Owner(dialled); !errors.Is(err, ErrNotHeld) {
		t.Errorf("not accepted: uid %d, %v", uid, err)
	}
	for name, c := range map[string]*net.TCPConn{"accepted": accept(t, l), "dialled": dialled} {
		if uid, err := tcp.Owner(c); err != nil || int(uid) != os.Geteuid() {
			t.Errorf("%s: uid %d, %v", name, uid, err)
		}
	}
}

// TestEstablished: a socket is the one that was looked up by its state and both of its addresses.
func TestEstablished(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("127.0.0.1:80"), netip.MustParseAddrPort("[::1]:80")
	for _, near := range []netip.AddrPort{v4, v6} {
		far := netip.AddrPortFrom(near.Addr(), 81)
		q := newRequest(1, near, far)
		m := diagResponse{Family: q.Family, State: established, ID: q.ID}
		if !m.isEstablished(near, far) {
			t.Errorf("%v is not established", near)
		}
		if m.isEstablished(far, far) || m.isEstablished(near, near) || m.isEstablished(netip.AddrPortFrom(near.Addr().Next(), 80), far) {
			t.Errorf("%v passes for another socket", near)
		}
		const listening = 10 // TCP_LISTEN
		if m.State = listening; m.isEstablished(near, far) {
			t.Errorf("%v only listens", near)
		}
	}
}

// TestStaleResponse: a response to an earlier request, whose reader has failed, is skipped.
func TestStaleResponse(t *testing.T) {
	tcp, accepted, dialled := pair(t)
	stale := newRequest(tcp.seq, addrPort(dialled.RemoteAddr()), addrPort(dialled.LocalAddr()))
	if _, err := unix.Write(tcp.fd, unsafe.Slice((*byte)(unsafe.Pointer(&stale)), unsafe.Sizeof(stale))); err != nil {
		t.Fatal(err)
	}
	if uid, err := tcp.Owner(accepted); err != nil || int(uid) != os.Geteuid() {
		t.Errorf("uid %d, %v", uid, err)
	}
}

// TestOwnerAfterClose: a closed TCP does not use the descriptor of another one.
func TestOwnerAfterClose(t *testing.T) {
	tcp, accepted, _ := pair(t)
	fd := tcp.fd
	tcp.Close()
	for openTCP(t).fd != fd { // which gets the lowest number that is free
	}
	if uid, err := tcp.Owner(accepted); err == nil {
		t.Errorf("uid %d", uid)
	}
}

// TestOwnerOfNotAccepted: the other end of a connection in the accept queue has
// no owner, whatever uid the kernel reports.
func TestOwnerOfNotAccepted(t *testing.T) {
	tcp, l := openTCP(t), listenTCP(t)
	if uid, err := tcp.Owner(dial(t, l)); !errors.Is(err, ErrNotHeld) {
		t.Errorf("uid %d, %v", uid, err)
	}
}

// TestOwnerOfClosed: an end that is closing or closed has no owner.
func TestOwnerOfClosed(t *testing.T) {
	for name, end := range map[string]func(*net.TCPConn) error{
		"half-closed": func(c *net.TCPConn) error { return c.CloseWrite() },
		"closed":      func(c *net.TCPConn) error { return c.Close() },
		"reset": func(c *net.TCPConn) error {
			c.SetLinger(0)
			return c.Close()
		},
	} {
		tcp, accepted, dialled := pair(t)
		if err := end(dialled); err != nil {
			t.Fatal(err)
		}
		if uid, err := tcp.Owner(accepted); err == nil {
			t.Errorf("%s: uid %d", name, uid)
		}
	}
	tcp, accepted, _ := pair(t)
	accepted.Close()
	if uid, err := tcp.Owner(accepted); err == nil {
		t.Errorf("our own end is closed: uid %d", uid)
	}
}

// TestOwnerOfMapped: one end is an IPv6 socket with mapped IPv4 addresses.
func TestOwnerOfMapped(t *testing.T) {
	tcp := openTCP(t)
	l, err := net.ListenTCP("tcp", nil) // [::], for IPv4 too
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if !l.Addr().(*net.TCPAddr).IP.Equal(net.IPv6unspecified) {
		t.Skip("no IPv6 here")
	}
	dialled, err := net.DialTimeout("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(l.Addr().(*net.TCPAddr).Port)), timeout)
	if err != nil {
		t.Fatal(err)
	}
	defer dialled.Close()
	accepted := accept(t, l)
	for name, c := range map[string]*net.TCPConn{"accepted": accepted, "dialled": dialled.(*net.TCPConn)} {
		if uid, err := tcp.Owner(c); err != nil || int(uid) != os.Geteuid() {
			t.Errorf("%s: uid %d, %v", name, uid, err)
		}
	}
}

// TestOwnerBoundToInterface: the look-up works with systemd's BindToDevice=.
func TestOwnerBoundToInterface(t *testing.T) {
	proctest.NeedRoot(t, "be other users")
	tcp, l := openTCP(t), listenTCP(t)
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), "lo") })
	if err != nil {
		t.Fatal(err)
	}
	dial(t, l)
	if uid, err := tcp.Owner(accept(t, l)); err != nil || int(uid) != os.Geteuid() {
		t.Errorf("uid %d, %v", uid, err)
	}
}

// TestOwnerOfPortsUsedAgain: a client resets its connection before it is accepted, and another user's connection has
// the same port, which the kernel finds by the two addresses.
func TestOwnerOfPortsUsedAgain(t *testing.T) {
	tcp, l := openTCP(t), listenTCP(t)
	from := func(a net.Addr) net.Conn {
		c, err := (&net.Dialer{LocalAddr: a, Timeout: timeout}).Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := from(&net.TCPAddr{IP: net.IPv4(127, 1, 2, 3)}) // an address whose ports have no other use
	first.(*net.TCPConn).SetLinger(0)
	first.Close()
	second := from(first.LocalAddr())
	defer second.Close()
	dead, alive := accept(t, l), accept(t, l)
	if dead.RemoteAddr().String() != alive.RemoteAddr().String() {
		t.Fatalf("%v and %v are different", dead.RemoteAddr(), alive.RemoteAddr())
	}
	for range 2 {
		if uid, err := tcp.Owner(dead); !errors.Is(err, ErrUnknown) {
			t.Errorf("reset: uid %d, %v", uid, err)
		}
		if uid, err := tcp.Owner(alive); err != nil || int(uid) != os.Geteuid() {
			t.Errorf("alive: uid %d, %v", uid, err)
		}
	}
}

// TestOwnerInOtherNetwork: the connection belongs to another network namespace, and ours has one with the same
// addresses.
func TestOwnerInOtherNetwork(t *testing.T) {
	proctest.NeedRoot(t, "be other users")
	tcp, accepted, dialled := pair(t)
	other := pairInNetwork(t, addrPort(dialled.LocalAddr()), addrPort(dialled.RemoteAddr()))
	if other.RemoteAddr().String() != accepted.RemoteAddr().String() || other.LocalAddr().String() != accepted.LocalAddr().String() {
		t.Fatalf("%v, %v: not the ends that were asked for", other.RemoteAddr(), other.LocalAddr())
	}
	if uid, err := tcp.Owner(other); !errors.Is(err, ErrUnknown) {
		t.Errorf("uid %d, %v", uid, err)
	}
	if uid, err := tcp.Owner(accepted); err != nil || int(uid) != os.Geteuid() {
		t.Errorf("in our own: uid %d, %v", uid, err)
	}
}

// pairInNetwork makes a connection in a new network namespace and returns its accepted end.
func pairInNetwork(t *testing.T, client, server netip.AddrPort) *net.TCPConn {
	t.Helper()
	type result struct {
		fd  int
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd, err := connectInNetwork(client, server)
		done <- result{fd, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	f := os.NewFile(uintptr(r.fd), "")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// connectInNetwork moves the calling thread to a new network namespace. It leaves the client's end open.
func connectInNetwork(client, server netip.AddrPort) (accepted int, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return 0, err
	}
	l, err := bound(server)
	if err != nil {
		return 0, err
	}
	defer unix.Close(l)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return 0, err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(l, unix.SIOCSIFFLAGS, lo); err != nil {
		return 0, err
	}
	if err := unix.Listen(l, 1); err != nil {
		return 0, err
	}
	c, err := bound(client)
	if err != nil {
		return 0, err
	}
	if err := unix.Connect(c, sockaddr(server)); err != nil {
		return 0, err
	}
	accepted, _, err = unix.Accept(l)
	return accepted, err
}

func bound(a netip.AddrPort) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
		err = unix.Bind(fd, sockaddr(a))
	}
	return fd, err
}

func sockaddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

// TestForgedResponse: no other process can send to the netlink socket.
func TestForgedResponse(t *testing.T) {
	tcp, accepted, _ := pair(t)
	own, err := unix.Getsockname(tcp.fd)
	if err != nil {
		t.Fatal(err)
	}
	other, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(other)
	forged := newRequest(tcp.seq+2, addrPort(accepted.RemoteAddr()), addrPort(accepted.LocalAddr()))
	message := unsafe.Slice((*byte)(unsafe.Pointer(&forged)), unsafe.Sizeof(forged))
	if err := unix.Sendto(other, message, 0, own); err == nil {
		t.Error("a message from a process was accepted")
	}
	if uid, err := tcp.Owner(accepted); err != nil || int(uid) != os.Geteuid() {
		t.Errorf("uid %d, %v", uid, err)
	}
}
