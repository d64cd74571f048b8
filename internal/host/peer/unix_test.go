package peer

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// timeout is for what must happen at all.
const timeout = 30 * time.Second

func listenUnix(t *testing.T) (l *net.UnixListener, path string) {
	t.Helper()
	path = proctest.Dir(t, 0o755) + "/s"
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	return l, path
}

func acceptUnix(t *testing.T, l *net.UnixListener) *net.UnixConn {
	t.Helper()
	l.SetDeadline(time.Now().Add(timeout))
	c, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestOfUnixIsOurselves(t *testing.T) {
	l, path := listenUnix(t)
	client, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	cred, err := OfUnix(acceptUnix(t, l))
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("this system does not report it")
	}
	if err != nil || int(cred.UID) != os.Geteuid() || int(cred.GID) != os.Getegid() || int(cred.PID) != os.Getpid() {
		t.Errorf("%+v, %v", cred, err)
	}
}

// TestOfUnixWithoutPeer: with an error comes no number that could be taken for
// a user's.
func TestOfUnixWithoutPeer(t *testing.T) {
	gram, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: proctest.Dir(t, 0o755) + "/s", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	if cred, err := OfUnix(gram); err == nil {
		t.Errorf("a socket without a peer: %+v", cred)
	}
	gram.Close()
	if cred, err := OfUnix(gram); err == nil {
		t.Errorf("a closed socket: %+v", cred)
	}
}
