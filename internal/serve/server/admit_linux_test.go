package server_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/listen"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
)

const nobody, someUser = 65534, 4711

func TestMain(m *testing.M) {
	jobs := map[string]proctest.Job{
		"ask":  func(args []string) error { fmt.Print(ask(args[0])); return nil },
		"hold": hold,
	}
	for _, how := range []string{"close", "reset", "half", "exit"} {
		jobs[how] = func(args []string) error { return hitAndRun(how, args) }
	}
	proctest.Main(m, jobs)
}

// asUser runs a job as uid, n times, and returns what it prints.
func asUser(t *testing.T, uid uint32, job, address string, n int) string {
	t.Helper()
	cmd := proctest.Command(job, address, strconv.Itoa(n))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s as uid %d: %v\n%s", job, uid, err, out)
	}
	return string(out)
}

func network(address string) string {
	if strings.HasPrefix(address, "/") {
		return "unix"
	}
	return "tcp"
}

const attackRequest = "POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Fake: json\r\nContent-Length: 2\r\n\r\n{}"

// ask sends a request like any client and returns status and error code.
func ask(address string) string {
	c, err := net.Dial(network(address), address)
	if err != nil {
		return "dial: " + err.Error()
	}
	defer c.Close()
	io.WriteString(c, attackRequest)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "no answer: " + err.Error()
	}
	b, _ := io.ReadAll(res.Body)
	return fmt.Sprint(res.StatusCode, " ", string(b))
}

// hitAndRun sends requests and exits before the kernel can be queried for its user.
func hitAndRun(how string, args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	for range n {
		c, err := net.Dial(network(args[0]), args[0])
		if err != nil {
			continue
		}
		io.WriteString(c, attackRequest)
		switch how {
		case "reset":
			c.(*net.TCPConn).SetLinger(0)
		case "half":
			c.(interface{ CloseWrite() error }).CloseWrite()
			io.Copy(io.Discard, c)
		case "exit":
			os.Exit(0)
		}
		c.Close()
	}
	return nil
}

// hold opens connections and prints how many are left two seconds after the last one
// was closed.
func hold(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	var conns []net.Conn
	for range n {
		if c, err := net.Dial(network(args[0]), args[0]); err == nil {
			conns = append(conns, c)
		}
	}
	wait := func() {
		for _, c := range conns {
			c.SetReadDeadline(time.Now().Add(2 * time.Second))
		}
	}
	wait()
	var open atomic.Int64
	var all sync.WaitGroup
	for _, c := range conns {
		all.Go(func() {
			if _, err := c.Read(make([]byte, 1)); os.IsTimeout(err) {
				open.Add(1)
			} else {
				wait()
			}
		})
	}
	all.Wait()
	fmt.Print(open.Load())
	return nil
}

// withUsers is a stack that admits the given users, over TCP and a unix socket.
func withUsers(t *testing.T, limits policy.Limits, users ...string) (s *stack, addresses []string) {
	t.Helper()
	cfg := policy.Config{TCP: true, Limits: limits}
	for _, u := range users {
		if err := cfg.Users.AddUser(u); err != nil {
			t.Fatal(err)
		}
	}
	rules := newPolicy(t, cfg)
	s = start(t, func(s *setup) { s.server.Policy = rules })
	dir := proctest.Dir(t, 0o755)
	l := must(listen.Unix(listen.UnixConfig{Path: dir + "/socket", Everyone: true}))
	go s.server.Serve(l)
	t.Cleanup(func() { l.Close() })
	return s, []string{s.listener.Addr().String(), dir + "/socket"}
}

func TestOnlyNamedUsers(t *testing.T) {
	proctest.NeedRoot(t, "play several users")
	for _, c := range []struct {
		admitted        string
		admits, refuses []uint32
	}{
		{"nobody", []uint32{nobody}, []uint32{0, someUser}},
		{"self", []uint32{0}, []uint32{nobody, someUser}},
		{"4711", []uint32{someUser}, []uint32{0, nobody}},
	} {
		s, addresses := withUsers(t, policy.Limits{}, c.admitted)
		for _, address := range addresses {
			for _, uid := range c.admits {
				if got := asUser(t, uid, "ask", address, 0); !strings.HasPrefix(got, "200 ") {
					t.Errorf("--allow-user %s, uid %d, %s: %s", c.admitted, uid, address, got)
				}
			}
			before := s.up.Count()
			for _, uid := range c.refuses {
				if got := asUser(t, uid, "ask", address, 0); !strings.HasPrefix(got, "403 ") || !strings.Contains(got, `"user_not_allowed"`) || !strings.Contains(got, fmt.Sprint(uid)) {
					t.Errorf("--allow-user %s, uid %d, %s: %s", c.admitted, uid, address, got)
				}
			}
			if s.up.Count() != before {
				t.Errorf("--allow-user %s: a refused request reached the upstream", c.admitted)
			}
		}
	}
}

// TestHitAndRun checks that no request of a refused user reaches the upstream when the user closes the socket at once,
// which makes the kernel report it as root's, who is admitted.
func TestHitAndRun(t *testing.T) {
	proctest.NeedRoot(t, "play several users")
	n := 2500
	if testing.Short() || raceEnabled {
		n = 500
	}
	s, addresses := withUsers(t, policy.Limits{}, "0")
	for _, address := range addresses {
		for _, how := range []string{"close", "reset", "half"} {
			if how == "reset" && network(address) == "unix" {
				continue
			}
			asUser(t, nobody, how, address, n)
		}
		for range 50 {
			asUser(t, nobody, "exit", address, 1)
		}
	}
	// An admitted user is still served, after all of them.
	for _, address := range addresses {
		if got := asUser(t, 0, "ask", address, 0); !strings.HasPrefix(got, "200 ") {
			t.Errorf("root: %s", got)
		}
	}
	if got := s.up.Count(); got != len(addresses) {
		t.Errorf("%d requests of a refused user reached the upstream", got-len(addresses))
	}
}

// TestPassedDescriptor checks that a connection belongs to the user who made it, whichever process writes to it.
func TestPassedDescriptor(t *testing.T) {
	proctest.NeedRoot(t, "play several users")
	s, addresses := withUsers(t, policy.Limits{}, "0")
	for _, address := range addresses {
		c := connectAs(t, nobody, address)
		io.WriteString(c, attackRequest)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || res.StatusCode != 403 {
			t.Errorf("%s: %v, %v", address, res, err)
		}
		c.Close()
	}
	if n := s.up.Count(); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
}

// connectAs makes a connection with the file system uid of another user, on a
// thread of its own, which is what counts for the owner of a socket.
func connectAs(t *testing.T, uid int, address string) net.Conn {
	t.Helper()
	conns := make(chan net.Conn, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			conns <- nil
			return
		}
		conns <- connectRaw(address)
	}()
	c := <-conns
	if c == nil {
		t.Fatal("cannot connect as another user")
	}
	return c
}

// connectRaw connects on the calling thread.
func connectRaw(address string) net.Conn {
	family, sa := unix.AF_UNIX, unix.Sockaddr(&unix.SockaddrUnix{Name: address})
	if host, port, err := net.SplitHostPort(address); err == nil {
		n, _ := strconv.Atoi(port)
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: n, Addr: [4]byte(net.ParseIP(host).To4())}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil || unix.Connect(fd, sa) != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil
	}
	return c
}

// TestConnectionsPerUser checks that other users are served while one user holds all connections that it can get: half
// of them.
func TestConnectionsPerUser(t *testing.T) {
	proctest.NeedRoot(t, "play several users")
	_, addresses := withUsers(t, policy.Limits{MaxConnections: 10})
	for _, address := range addresses {
		done := make(chan string)
		go func() { done <- asUser(t, nobody, "hold", address, 50) }()
		if got := asUser(t, someUser, "ask", address, 0); !strings.HasPrefix(got, "200 ") {
			t.Errorf("%s: another user: %s", address, got)
		}
		if got := <-done; got != "5" {
			t.Errorf("%s: %s connections of one user stayed open, want 5", address, got)
		}
	}
}

// TestUnnamedUsersHoldFewConnections checks that a user who is not named may open few connections, and a named user as
// many as the limits allow.
func TestUnnamedUsersHoldFewConnections(t *testing.T) {
	proctest.NeedRoot(t, "play several users")
	_, addresses := withUsers(t, policy.Limits{}, "4711")
	for _, address := range addresses {
		if got := asUser(t, nobody, "hold", address, 100); got != "64" {
			t.Errorf("%s: %s connections of an unnamed user stayed open, want 64", address, got)
		}
		if got := asUser(t, someUser, "hold", address, 100); got != "100" {
			t.Errorf("%s: %s connections of a named user stayed open, want 100", address, got)
		}
	}
}

// TestManyUnnamedUsers checks that the unnamed users together get no more connections than one does: a process can be
// many users, such as those that /etc/subuid assigns to it.
func TestManyUnnamedUsers(t *testing.T) {
	proctest.NeedRoot(t, "play several users")
	s, addresses := withUsers(t, policy.Limits{}, strconv.Itoa(someUser))
	for _, address := range addresses {
		var conns []net.Conn
		for uid := range 8 {
			for range 20 {
				conns = append(conns, connectAs(t, 100_000+uid, address))
			}
		}
		proctest.Eventually(t, fmt.Sprintf("%s: eight unnamed users have 64 connections open", address), func() bool {
			return s.server.Connections() == 64
		})
		if got := asUser(t, someUser, "ask", address, 0); !strings.HasPrefix(got, "200 ") {
			t.Errorf("%s: a named user: %s", address, got)
		}
		for _, c := range conns {
			c.Close()
		}
		proctest.Eventually(t, fmt.Sprintf("%s: no connection is open", address), func() bool { return s.server.Connections() == 0 })
	}
}

// TestMappedAddress checks that the user of an IPv6 socket with a mapped IPv4 address is identified.
func TestMappedAddress(t *testing.T) {
	s, _ := withUsers(t, policy.Limits{}, "self")
	fd := must(unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	sa := &unix.SockaddrInet6{Port: s.listener.Addr().(*net.TCPAddr).Port, Addr: [16]byte(net.ParseIP("127.0.0.1").To16())}
	if err := unix.Connect(fd, sa); err != nil {
		t.Skip("no IPv6 here: ", err)
	}
	f := os.NewFile(uintptr(fd), "")
	c := must(net.FileConn(f))
	f.Close()
	defer c.Close()
	io.WriteString(c, attackRequest)
	if res := must(http.ReadResponse(bufio.NewReader(c), nil)); res.StatusCode != 200 {
		t.Errorf("status %d", res.StatusCode)
	}
}

// TestUnknownIsNobody checks that, where only limits depend on the user, an unidentified peer is refused as well, and
// is not counted as root, whose uid is 0.
func TestUnknownIsNobody(t *testing.T) {
	p := newPurse(t, 1<<40)
	rules := newPolicy(t, policy.Config{TCP: true, Budget: p.Ledger, Limits: policy.Limits{MaxConnections: 2}})
	client, server := net.Pipe() // neither TCP nor unix: not a connection of the kernel
	defer client.Close()
	defer server.Close()
	for range 3 {
		if d := rules.Connect(server).Denial(); d == nil || d.Code != apierror.UserNotAllowed {
			t.Errorf("denial %+v", d)
		}
	}
	s := start(t, func(s *setup) { s.server.Policy = rules })
	if got := ask(s.listener.Addr().String()); !strings.HasPrefix(got, "200 ") {
		t.Errorf("one who is known: %s", got)
	}
	if p.total() == 0 {
		t.Error("nothing was counted for one who is known")
	}
}
