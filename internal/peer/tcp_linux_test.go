package peer

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// pair returns both ends of a connection on loopback.
func pair(tb testing.TB) (tcp *TCP, accepted, dialled *net.TCPConn) {
	tb.Helper()
	tcp, l := openTCP(tb), listenTCP(tb)
	dialled = dial(tb, l)
	accepted, err := l.AcceptTCP()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { accepted.Close() })
	return tcp, accepted, dialled
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
	c, err := net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// TestOwner: either end of a connection can be asked about the other.
func TestOwner(t *testing.T) {
	tcp, accepted, dialled := pair(t)
	for name, c := range map[string]*net.TCPConn{"accepted": accepted, "dialled": dialled} {
		if uid, err := tcp.Owner(c); err != nil || int(uid) != os.Geteuid() {
			t.Errorf("%s: uid %d, %v", name, uid, err)
		}
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

// TestOwnerOfClosed: an end that is closing, or gone, has no owner.
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
