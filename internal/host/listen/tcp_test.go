//go:build unix

package listen

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

func tcp(t *testing.T, port uint16) *net.TCPListener {
	t.Helper()
	l, err := TCP(Loopback(port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func portOf(l *net.TCPListener) int { return l.Addr().(*net.TCPAddr).Port }

func TestTCPIsLoopbackIPv4Only(t *testing.T) {
	l := tcp(t, 0)
	addr := l.Addr().(*net.TCPAddr)
	if !addr.IP.Equal(net.IPv4(127, 0, 0, 1)) || addr.Port == 0 {
		t.Fatalf("listens on %v", addr)
	}
	// All of 127.0.0.0/8 is loopback; the listener must use 127.0.0.1 only.
	for _, other := range []string{"127.0.0.2", "::1"} {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(other, fmt.Sprint(portOf(l))), 10*time.Second)
		if err == nil {
			c.Close()
			t.Errorf("%s accepts on port %d as well", other, portOf(l))
		}
	}
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestTCPPortInUse(t *testing.T) {
	l := tcp(t, 0)
	_, err := TCP(Loopback(uint16(portOf(l))))
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("%v, want EADDRINUSE", err)
	}
	for _, want := range []string{fmt.Sprintf("127.0.0.1:%d", portOf(l)), "--port", "in use"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not contain %s", err, want)
		}
	}
}

// TestTCPRebind: a restart gets its port back at once, even with connections of the last run in TIME-WAIT.
func TestTCPRebind(t *testing.T) {
	l := tcp(t, 0)
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	server.Close() // first, so that this side is left in TIME-WAIT
	l.Close()
	if again := tcp(t, uint16(portOf(l))); portOf(again) != portOf(l) {
		t.Errorf("port %d, want %d", portOf(again), portOf(l))
	}
}
