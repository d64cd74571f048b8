package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

// TestPortsUsedAgain checks that a request whose connection was reset does not
// pass for that of the user who connects from the same port next, neither on the
// route that spends the key nor on /shutdown. The user who resets the connection
// is not admitted, and can predict the port of the other, who is.
//
// Half of the connections wait in the queue before the proxy starts, so that
// each reset one is accepted when the other has its port; the rest come while it
// serves.
func TestPortsUsedAgain(t *testing.T) {
	if isRoot() != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("only root can be two users")
		}
		t.Skip("SECURITY TEST SKIPPED: only root can be two users")
	}
	for name, attack := range map[string]string{
		"post":     "POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nX-Sender: attacker\r\nContent-Length: 2\r\n\r\n{}",
		"shutdown": "GET /shutdown HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) { portsUsedAgain(t, attack) })
	}
}

func portsUsedAgain(t *testing.T, attack string) {
	const queued, live = 50, 500
	up, err := openaitest.Start(openaitest.Options{Key: canary})
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	l := freeListener(t)
	port := l.Addr().(*net.TCPAddr).Port
	a := activate(t, []string{"responses"}, []net.Listener{l}, "--upstream-url", up.URL(), "--protection=strict", "--user", "daemon",
		"--allow-user", fmt.Sprint(nobody), "--http-shutdown")
	attack = fmt.Sprintf(attack, port)
	// pair returns a connection of the named user from a port that the other
	// has just used.
	pair := func() net.Conn {
		from := resetAs(t, stranger, port, attack)
		return connectAs(t, nobody, from, port)
	}
	var named []net.Conn
	for range queued {
		named = append(named, pair())
	}
	cmd := a.start()
	for i, c := range named {
		if err := servedOn(c); err != nil {
			t.Fatalf("named user, queued connection %d: %v\n%s", i, err, cmd.Stderr)
		}
	}
	for i := range live {
		if err := servedOn(pair()); err != nil {
			t.Fatalf("named user, connection %d: %v\n%s", i, err, cmd.Stderr)
		}
	}
	a.stop(cmd)
	ofAttacker := 0
	for _, r := range up.Requests() {
		if r.Get("X-Sender") == "attacker" {
			ofAttacker++
		}
	}
	if got := up.Count() - ofAttacker; ofAttacker != 0 || got != queued+live {
		t.Errorf("%d requests of the user who is not named were served, and %d of the one who is; want 0 and %d", ofAttacker, got, queued+live)
	}
	if n := refusals(fmt.Sprint(cmd.Stderr)); n < 8 || n > queued+live {
		// Of those whose user is unknown, 8 a second are noted.
		t.Errorf("%d of %d connections that were reset were refused", n, queued+live)
	}
}

var suppressed = regexp.MustCompile(` more failed requests suppressed within a second count=(\d+)[ \n]`)

// refusals counts the refusals of users in a log, those included of
// which it has only the number.
func refusals(log string) int {
	n := strings.Count(log, " code=user_not_allowed ")
	for _, m := range suppressed.FindAllStringSubmatch(log, -1) {
		more, _ := strconv.Atoi(m[1])
		n += more
	}
	return n
}

// resetAs sends text over a connection of uid's, resets it and returns the port
// that it had.
func resetAs(t *testing.T, uid uint32, to int, text string) (from int) {
	t.Helper()
	fd, err := socketAs(uid, 0, to)
	if err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err == nil {
		_, err = unix.Write(fd, []byte(text))
	}
	if err == nil {
		err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	if err == nil {
		err = unix.Close(fd)
	}
	if err != nil {
		t.Fatal(err)
	}
	return sa.(*unix.SockaddrInet4).Port
}

// connectAs returns a connection that uid has made.
func connectAs(t *testing.T, uid uint32, from, to int) net.Conn {
	t.Helper()
	fd, err := socketAs(uid, from, to)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// socketAs connects on a thread that has uid for its file system uid, which is
// what counts for the owner of a socket. Port 0 stands for any.
func socketAs(uid uint32, from, to int) (fd int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			err = errno
			return
		}
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		// An address whose ports are in no other use.
		if err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 1, 2, 4}, Port: from}); err == nil {
			err = unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: to})
		}
	}()
	<-done
	return fd, err
}

// servedOn sends a request on c and closes it.
func servedOn(c net.Conn) error {
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	_, err := fmt.Fprintf(c, "POST /v1/responses HTTP/1.1\r\nHost: %v\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", c.RemoteAddr())
	if err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err == nil && res.StatusCode != 200 {
		err = fmt.Errorf("status %d", res.StatusCode)
	}
	return err
}
