package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// other is a user who does not run the tests.
const other = 64001

// A taker is a server of the user uid. It responds to every request with 200.
type taker struct {
	net.Listener
	accepts  chan struct{} // closed to make it accept
	received chan string   // the bytes of each connection, when it has ended
}

// take listens on addr as uid. The owner of a socket is the uid of the thread that creates or accepts it.
func take(t *testing.T, uid int, addr string) *taker {
	t.Helper()
	s := &taker{accepts: make(chan struct{}), received: make(chan string, 10)}
	listening := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var err error
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			err = errno
		} else {
			s.Listener, err = net.Listen("tcp", addr)
		}
		listening <- err
		for <-s.accepts; err == nil; {
			var c net.Conn
			if c, err = s.Accept(); err == nil {
				go s.serve(c)
			}
		}
	}()
	if err := <-listening; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// taken is take for a server that accepts at once.
func taken(t *testing.T, uid int, addr string) *taker {
	t.Helper()
	s := take(t, uid, addr)
	close(s.accepts)
	return s
}

func (s *taker) serve(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(soon))
	var all []byte
	for p := make([]byte, 4<<10); ; {
		n, err := c.Read(p)
		all = append(all, p[:n]...)
		if err != nil {
			s.received <- string(all)
			return
		}
		if bytes.HasSuffix(all, []byte("{}")) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\ntaken")
		}
	}
}

// gotNothing checks that one connection was made and no byte was received.
func (s *taker) gotNothing(t *testing.T) {
	t.Helper()
	select {
	case text := <-s.received:
		if text != "" {
			t.Errorf("the other user received %q", text)
		}
	case <-within(t, soon).Done():
		t.Error("the other user's connection does not end")
	}
}

func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}

func clientOf(t *testing.T, url string, users ...uint32) *Client {
	t.Helper()
	c := must(New(Config{Target: must(ParseTarget(url, false)), Key: keyOf(t, canary), Users: users}))
	t.Cleanup(c.Close)
	return c
}

// refused sends a request, which must not be sent, and returns the error's text.
func refused(t *testing.T, c *Client) string {
	t.Helper()
	res, err := c.Do(within(t, soon), post("json", "{}"))
	var e *Error
	if !errors.As(err, &e) || e.Kind != Untrusted {
		if err == nil {
			res.Close()
		}
		t.Fatalf("error %v, want one of kind Untrusted", err)
	}
	return err.Error() + "; " + e.Hint
}

// TestPortTakenByAnotherUser: while the upstream restarts, another user listens
// on its port.
func TestPortTakenByAnotherUser(t *testing.T) {
	proctest.NeedRoot(t, "be two users")
	for _, host := range []string{"127.0.0.1", "[::1]", "localhost"} {
		t.Run(host, func(t *testing.T) {
			listen := strings.Replace(host, "localhost", "127.0.0.1", 1)
			up := must(openaitest.Start(openaitest.Options{Key: canary, Addr: listen + ":0"}))
			addr := up.Addr()
			c := clientOf(t, "http://"+host+":"+port(addr)+"/v1/responses")
			do(t, c, post("json", "{}"))
			up.Close()
			s := taken(t, other, addr)
			text := refused(t, c)
			holder, flag := fmt.Sprintf("%s belongs to uid %d,", addr, other), fmt.Sprintf("--upstream-user %d", other)
			if !strings.Contains(text, holder) || !strings.HasSuffix(text, flag) {
				t.Errorf("error %q", text)
			}
			s.gotNothing(t)
			s.Close()
			up = must(openaitest.Start(openaitest.Options{Key: canary, Addr: addr}))
			defer up.Close()
			do(t, c, post("json", "{}"))
		})
	}
}

// TestOtherAddressOfLocalhost: another user listens on the address of localhost
// that the upstream has left free.
func TestOtherAddressOfLocalhost(t *testing.T) {
	proctest.NeedRoot(t, "be two users")
	for _, a := range []struct {
		upstream, taker string
		tries           int // of two requests, at the taker's address
	}{{"127.0.0.1", "::1", 1}, {"::1", "127.0.0.1", 2}} {
		t.Run(a.taker, func(t *testing.T) {
			up := must(openaitest.Start(openaitest.Options{Key: canary, Addr: net.JoinHostPort(a.upstream, "0")}))
			defer up.Close()
			s := taken(t, other, net.JoinHostPort(a.taker, port(up.Addr())))
			c := clientOf(t, "http://localhost:"+port(up.Addr())+"/v1/responses")
			do(t, c, post("json", "{}"))
			up.Close()
			text := refused(t, c) // rather than a refused connection to the other address
			if !strings.Contains(text, fmt.Sprint("uid ", other)) {
				t.Errorf("error %q", text)
			}
			for range a.tries {
				s.gotNothing(t)
			}
			if n := up.Count(); n != 1 {
				t.Errorf("%d requests reached the upstream, want 1", n)
			}
		})
	}
}

// TestUpstreamUser: the key is sent to a named user, after one look-up for each connection.
func TestUpstreamUser(t *testing.T) {
	proctest.NeedRoot(t, "be two users")
	s := taken(t, other, "127.0.0.1:0")
	url := "http://" + s.Addr().String() + "/v1/responses"
	if body := do(t, clientOf(t, url, 1, other), post("json", "{}")); body != "taken" {
		t.Errorf("body %q", body)
	}
	if text := <-s.received; !strings.Contains(text, "Bearer "+canary+"\r\n") {
		t.Errorf("the upstream received %q", text)
	}
	refused(t, clientOf(t, url, 1, other+1))
	s.gotNothing(t)
}

// TestNotYetAccepted: the kernel reports a socket that is not accepted as root's. The other user accepts after a while.
func TestNotYetAccepted(t *testing.T) {
	proctest.NeedRoot(t, "be two users")
	for _, uid := range []int{other, 0} {
		s := take(t, uid, "127.0.0.1:0")
		c := clientOf(t, "http://"+s.Addr().String()+"/v1/responses")
		failed := make(chan error, 1)
		go func() {
			res, err := c.Do(within(t, soon), post("json", "{}"))
			if err == nil {
				finish(t, res, nil)
			}
			failed <- err
		}()
		awaitReadable(t, s.Listener.(*net.TCPListener), "connection")
		select {
		case err := <-failed:
			t.Errorf("uid %d: the client does not wait: %v", uid, err)
		case <-time.After(50 * time.Millisecond): // many look-ups
		}
		close(s.accepts)
		if err := <-failed; uid == other && !isKind(err, Untrusted) || uid == 0 && err != nil {
			t.Errorf("uid %d: error %v", uid, err)
		}
		if uid == other {
			s.gotNothing(t)
		}
	}
}

// awaitReadable waits for something to read or accept, which remains there.
func awaitReadable(t *testing.T, socket syscall.Conn, what string) {
	t.Helper()
	must(socket.SyscallConn()).Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(p, int(soon.Milliseconds())); n != 1 {
			t.Errorf("no %s comes: %v", what, err)
		}
	})
}

// TestNeverAccepted: the wait ends with the request.
func TestNeverAccepted(t *testing.T) {
	l := must(net.Listen("tcp4", "127.0.0.1:0"))
	defer l.Close()
	c := clientOf(t, "http://"+l.Addr().String()+"/v1/responses")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Do(ctx, post("json", "{}")); !isKind(err, Cancelled) {
		t.Errorf("error %v", err)
	}
	l.(*net.TCPListener).SetDeadline(time.Now().Add(soon))
	if in, err := l.Accept(); err != nil {
		t.Error(err)
	} else if b, err := io.ReadAll(in); err != nil || len(b) > 0 {
		t.Errorf("received %q, %v", b, err)
	}
}

// TestDeferredAccept: the kernel reports no established socket until data has arrived, so that nothing may be sent.
func TestDeferredAccept(t *testing.T) {
	l := must(net.Listen("tcp4", "127.0.0.1:0"))
	defer l.Close()
	raw := must(l.(*net.TCPListener).SyscallConn())
	raw.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 30); err != nil {
			t.Fatal(err)
		}
	})
	c := clientOf(t, "http://"+l.Addr().String()+"/v1/responses")
	_, err := c.Do(within(t, soon), post("json", "{}"))
	if !isKind(err, Unreachable) || !strings.Contains(err.Error(), "TCP_DEFER_ACCEPT") {
		t.Errorf("error %v", err)
	}
}

// TestNoLookUps: where the kernel cannot be asked, nothing is sent to a process of this host.
func TestNoLookUps(t *testing.T) {
	key := keyOf(t, canary)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	_, err := New(Config{Target: must(ParseTarget("http://127.0.0.1/", false)), Key: key})
	named, errNamed := newGuard(must(ParseTarget("http://upstream.test/", true)), nil)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, unix.EMFILE) || !strings.Contains(err.Error(), "cannot determine which user") {
		t.Errorf("a client without look-ups: %v", err)
	}
	if errNamed != nil { // the name may be that of another host
		t.Fatal(errNamed)
	}
	s := taken(t, os.Getuid(), "127.0.0.1:0")
	c := must(net.Dial("tcp", s.Addr().String()))
	defer c.Close()
	if err := named.check(t.Context(), c.(*net.TCPConn)); !isKind(err, Untrusted) || !errors.Is(err, unix.EMFILE) {
		t.Errorf("a connection to this host: %v", err)
	}
}

// TestOverflowUser: in a user namespace, 65534 stands for every unmapped user.
func TestOverflowUser(t *testing.T) {
	proctest.NeedRoot(t, "be two users")
	inside := inNamespaces(t, unix.CLONE_NEWUSER)
	g := must(newGuard(must(ParseTarget("http://127.0.0.1/", false)), []uint32{7, 65534}))
	for _, uid := range []uint32{7, 0, uint32(os.Getuid())} {
		if !slices.Contains(g.uids, uid) {
			t.Errorf("uid %d is not among %d", uid, g.uids)
		}
	}
	if slices.Contains(g.uids, 65534) == inside {
		t.Errorf("in a user namespace: %v; trusted: %d", inside, g.uids)
	}
}

// inNamespaces runs the test again in new namespaces, and reports whether it runs there. In its own network and mount
// namespaces it may change addresses and /etc/hosts; in its own user namespace, 0 is the only uid.
func inNamespaces(t *testing.T, flags uintptr) bool {
	t.Helper()
	const env = "UPSTREAM_TEST_NAMESPACES"
	if os.Getenv(env) != "" {
		return true
	}
	cmd := exec.CommandContext(within(t, soon), "/proc/self/exe", "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), env+"=1")
	if flags == unix.CLONE_NEWUSER {
		ids := []syscall.SysProcIDMap{{Size: 1}}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, UidMappings: ids, GidMappings: ids}
	} else {
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: flags} // makes all mounts private
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, fs.ErrPermission) {
		proctest.Cannot(t, "no namespaces: "+err.Error())
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()+" ") {
		t.Errorf("in namespaces of its own: %v\n%s", err, out)
	}
	return false
}

// setHosts replaces /etc/hosts.
func setHosts(t *testing.T, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(file, "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount("/etc/hosts", unix.MNT_DETACH) })
}

// elsewhere is an address of the namespace that is not loopback.
const elsewhere = "10.9.8.7"

func setAddresses(t *testing.T) {
	t.Helper()
	fd := must(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))
	defer unix.Close(fd)
	up := must(unix.NewIfreq("lo"))
	up.SetUint16(unix.IFF_UP)
	more := must(unix.NewIfreq("lo:1"))
	if err := more.SetInet4Addr(net.ParseIP(elsewhere).To4()); err != nil {
		t.Fatal(err)
	}
	err := errors.Join(unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, up), unix.IoctlIfreq(fd, unix.SIOCSIFADDR, more))
	if err != nil {
		t.Fatal(err)
	}
}

// TestLocalhostIsNotResolved: localhost is 127.0.0.1, whatever the hosts file contains.
func TestLocalhostIsNotResolved(t *testing.T) {
	proctest.NeedRoot(t, "be two users")
	if !inNamespaces(t, unix.CLONE_NEWNET|unix.CLONE_NEWNS) {
		return
	}
	setAddresses(t)
	for _, addr := range []string{"::1", elsewhere} {
		setHosts(t, addr+" localhost\n127.0.0.1 localhost\n")
		up := must(openaitest.Start(openaitest.Options{Key: canary}))
		defer up.Close()
		s := taken(t, other, net.JoinHostPort(addr, port(up.Addr())))
		do(t, clientOf(t, "http://localhost:"+port(up.Addr())+"/v1/responses"), post("json", "{}"))
		if n := up.Count(); n != 1 {
			t.Errorf("%s: %d requests reached the upstream", addr, n)
		}
		if len(s.received) > 0 {
			t.Errorf("%s: the other user received %q", addr, <-s.received)
		}
	}
}

// TestNameOfAnotherHost: a name that is wrongly considered this host's does not send the key to another host.
func TestNameOfAnotherHost(t *testing.T) {
	proctest.NeedRoot(t, "be two users")
	if !inNamespaces(t, unix.CLONE_NEWNET|unix.CLONE_NEWNS) {
		return
	}
	setAddresses(t)
	setHosts(t, elsewhere+" upstream.test\n")
	s := taken(t, 0, elsewhere+":0")
	url := "http://upstream.test:" + port(s.Addr().String()) + "/v1/responses"
	target := must(ParseTarget(url, true))
	insecure := must(New(Config{Target: target, Key: keyOf(t, canary)}))
	if body := do(t, insecure, post("json", "{}")); body != "taken" {
		t.Errorf("--upstream-tls off: body %q", body)
	}
	<-s.received
	secure := *target
	secure.Insecure = false
	text := refused(t, must(New(Config{Target: &secure, Key: keyOf(t, canary)})))
	if !strings.Contains(text, elsewhere) || !strings.HasSuffix(text, "--upstream-tls off") {
		t.Errorf("error %q", text)
	}
	s.gotNothing(t)
}
