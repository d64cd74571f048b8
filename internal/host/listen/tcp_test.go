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

// TestParseAddress: what other hosts may reach, and what a resolver would have to find, is refused with a hint.
func TestParseAddress(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1:9464":        "tcp 127.0.0.1:9464",
		"LocalHost:0":           "tcp 127.0.0.1:0",
		"[::1]:9464":            "tcp [::1]:9464",
		"[::ffff:127.0.0.1]:80": "tcp 127.0.0.1:80",
		"unix:/run/m.sock":      "unix /run/m.sock",
		"0.0.0.0:9464":          "no loopback address",
		":9464":                 "no loopback address",
		"[::]:9464":             "no loopback address",
		"10.1.2.3:9464":         "no loopback address",
		"example.com:9464":      "no loopback address",
		"localhost.evil:1":      "no loopback address",
		"[::1%lo]:9464":         "no loopback address",
		"127.1:9464":            "no loopback address",
		"9464":                  "no address with a port",
		"127.0.0.1":             "no address with a port",
		"127.0.0.1:":            "no address with a port",
		"127.0.0.1:http":        "no address with a port",
		"127.0.0.1:70000":       "no address with a port",
		"127.0.0.1:-1":          "no address with a port",
		"":                      "no address with a port",
		"/run/m.sock":           "no address with a port",
		"http://127.0.0.1:80":   "no address with a port",
		"unix:":                 "the path is empty",
	} {
		a, err := ParseAddress(text)
		network, address := a.Network()
		if err == nil && network+" "+address != want || err != nil && !(strings.Contains(err.Error(), want) && strings.Contains(err.Error(), "; ")) {
			t.Errorf("%q: %s %s, %v; want %q", text, network, address, err, want)
		}
	}
}
