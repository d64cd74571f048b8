package listen

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestTCPIsPlainTCP: Landlock's rules for TCP do not apply to a Multipath TCP socket.
func TestTCPIsPlainTCP(t *testing.T) {
	for _, godebug := range []string{"", "multipathtcp=1", "multipathtcp=3"} {
		t.Setenv("GODEBUG", godebug)
		for option, want := range map[int]int{unix.SO_PROTOCOL: unix.IPPROTO_TCP, unix.SO_DOMAIN: unix.AF_INET, unix.SO_TYPE: unix.SOCK_STREAM} {
			raw, err := tcp(t, 0).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			var got int
			var optErr error
			if err := raw.Control(func(fd uintptr) { got, optErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option) }); err != nil || optErr != nil {
				t.Fatal(err, optErr)
			}
			if got != want {
				t.Errorf("GODEBUG=%s: socket option %d is %d, want %d", godebug, option, got, want)
			}
		}
	}
}
