package systemd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// timeout is for operations that must complete; no test measures it.
const timeout = 30 * time.Second

func TestMain(m *testing.M) {
	proctest.Main(m, map[string]proctest.Job{"sockets": service, "notify": notifyingService})
}

// service is the child. It takes its sockets, prints them, serves one client on each, and exits when its input ends.
func service([]string) error {
	responses, metrics, err := Sockets()
	if err != nil {
		fmt.Println("error:", err)
		if listening, err := unix.GetsockoptInt(firstFD, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listening != 1 {
			fmt.Println("the first socket was taken:", err)
		}
		fmt.Println("end")
		return nil
	}
	for _, name := range listenVars {
		if _, ok := os.LookupEnv(name); ok {
			fmt.Println("still there:", name)
		}
	}
	if again, more, err := Sockets(); len(again) > 0 || more != nil || err != nil {
		fmt.Println("a second time:", again, more, err)
	}
	sockets := responses
	if metrics != nil {
		sockets = append(sockets, metrics)
	}
	name := func(i int) string {
		if i < len(responses) {
			return Responses
		}
		return Metrics
	}
	for fd := firstFD; fd < firstFD+len(sockets); fd++ {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 {
			fmt.Println("not close on exec:", fd)
		}
	}
	for i, l := range sockets {
		fmt.Println(name(i), l.Addr().Network(), l.Addr())
	}
	fmt.Println("end")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		proctest.UntilInputEnds()
	}()
	go func() {
		<-ended
		for _, l := range sockets {
			l.Close()
		}
	}()
	for i, l := range sockets {
		if c, err := l.Accept(); err == nil {
			io.WriteString(c, "hello from "+name(i))
			c.Close()
		}
		l.Close()
	}
	<-ended
	return nil
}

// A manager takes the role of systemd: it holds the sockets and starts the child with them. Like systemd it sets
// LISTEN_PID between fork and exec, which needs a shell here.
type manager struct {
	pid     string // a shell word
	env     []string
	passed  []*os.File
	closing string // a descriptor to close in the child
}

// start returns the child's output, and a function that ends the child.
func (m manager) start(t *testing.T) (output string, end func()) {
	t.Helper()
	script := "LISTEN_PID=" + m.pid + "; export LISTEN_PID; "
	if m.closing != "" {
		script += "exec " + m.closing + ">&-; "
	}
	cmd := exec.Command("/bin/sh", "-c", script+`exec "$0"`, fmt.Sprintf("/proc/%d/exe", os.Getpid()))
	cmd.Env = slices.Concat(m.env, proctest.Env("sockets"), []string{"GOCOVERDIR=" + t.TempDir()})
	cmd.ExtraFiles = m.passed
	child, err := proctest.Start(t, cmd)
	if err != nil {
		t.Fatal(err)
	}
	for line := child.Line(); line != "end"; line = child.Line() {
		output += line + "\n"
		if strings.HasPrefix(line, "no line from the child") {
			break
		}
	}
	return output, child.End
}

// file returns a duplicate of a socket's descriptor for ExtraFiles, and closes both at the end of the test.
func file(t *testing.T, s any, err error) *os.File {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		s.(io.Closer).Close()
	})
	return f
}

// listener listens like systemd, by plain TCP.
func listener(t *testing.T, network, address string) *os.File {
	t.Helper()
	f, _ := listenerAt(t, network, address)
	return f
}

func listenerAt(t *testing.T, network, address string) (f *os.File, at string) {
	t.Helper()
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	return file(t, l, nil), l.Addr().String()
}

func fromFD(t *testing.T, fd int, err error) *os.File {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "raw")
	t.Cleanup(func() { f.Close() })
	return f
}

// ask connects as a client and returns what the service sends.
func ask(t *testing.T, network, address string) string {
	t.Helper()
	c, err := net.DialTimeout(network, address, timeout)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(timeout))
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Error(err)
	}
	return string(answer)
}

func TestSocketsServe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	abstract := fmt.Sprintf("@systemd-test-%d", os.Getpid())
	tcpFile, at := listenerAt(t, "tcp", "127.0.0.1:0")
	output, end := manager{
		pid:    "$$",
		env:    []string{"LISTEN_FDS=4", "LISTEN_FDNAMES=responses:responses:metrics:responses", "LISTEN_PIDFDID=1"},
		passed: []*os.File{tcpFile, listener(t, "unix", path), listener(t, "tcp", "127.0.0.2:0"), listener(t, "unix", abstract)},
	}.start(t)
	lines := strings.Split(strings.TrimSpace(output), "\n")
	if len(lines) != 4 || lines[0] != "responses tcp "+at || lines[1] != "responses unix "+path ||
		lines[2] != "responses unix "+abstract || !strings.HasPrefix(lines[3], "metrics tcp 127.0.0.2:") {
		t.Fatalf("the service printed\n%s", output)
	}
	for _, c := range []struct{ network, address, want string }{
		{"tcp", at, "hello from responses"},
		{"unix", path, "hello from responses"},
		{"unix", abstract, "hello from responses"},
		{"tcp", strings.TrimPrefix(lines[3], "metrics tcp "), "hello from metrics"},
	} {
		if got := ask(t, c.network, c.address); got != c.want {
			t.Errorf("%s sent %q", c.address, got)
		}
	}
	end()
	// The service has closed its sockets and exited; systemd still listens.
	for _, c := range [][2]string{{"tcp", at}, {"unix", path}} {
		conn, err := net.DialTimeout(c[0], c[1], timeout)
		if err != nil {
			t.Errorf("the next client of %s: %v", c[1], err)
			continue
		}
		conn.Close()
	}
}

func TestSocketsIPv6(t *testing.T) {
	for _, address := range []string{"[::1]:0", "[::ffff:127.0.0.1]:0"} {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if errors.Is(err, unix.EAFNOSUPPORT) {
			proctest.Cannot(t, "this kernel has no IPv6")
		}
		f := fromFD(t, fd, err)
		ip := net.ParseIP(strings.Trim(strings.TrimSuffix(address, ":0"), "[]")).To16()
		err = unix.Bind(fd, &unix.SockaddrInet6{Addr: [16]byte(ip)})
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			proctest.Cannot(t, "this machine has no IPv6 loopback")
		}
		if err := errors.Join(err, unix.Listen(fd, 1)); err != nil {
			t.Fatal(err)
		}
		output, end := manager{pid: "$$", env: []string{"LISTEN_FDS=1", "LISTEN_FDNAMES=responses"}, passed: []*os.File{f}}.start(t)
		name, at, _ := strings.Cut(strings.TrimSpace(output), " tcp ")
		if name != "responses" {
			t.Fatalf("%s: the service printed %q", address, output)
		}
		if got := ask(t, "tcp", at); got != "hello from responses" {
			t.Errorf("%s sent %q", at, got)
		}
		end()
	}
}

// mptcp listens by Multipath TCP, or skips the test.
func mptcp(t *testing.T) *os.File {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		return nil
	}
	f := fromFD(t, fd, nil)
	here := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := errors.Join(unix.Bind(fd, here), unix.Listen(fd, 1)); err != nil {
		t.Fatal(err)
	}
	return f
}

// raw makes a socket that does not listen.
func raw(t *testing.T, family, kind int) *os.File {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	return fromFD(t, fd, err)
}

func TestSocketsRefused(t *testing.T) {
	good := func(t *testing.T) *os.File { return listener(t, "tcp", "127.0.0.1:0") }
	for _, c := range []struct {
		what string
		pass func(t *testing.T) *os.File
		want string
	}{
		{"UDP", func(t *testing.T) *os.File {
			u, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			return file(t, u, err)
		}, "is not a stream socket; use ListenStream="},
		{"unix datagrams", func(t *testing.T) *os.File {
			u, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s")})
			return file(t, u, err)
		}, "is not a stream socket"},
		{"unix packets", func(t *testing.T) *os.File {
			return listener(t, "unixpacket", filepath.Join(t.TempDir(), "s"))
		}, "is not a stream socket"},
		{"netlink", func(t *testing.T) *os.File { return raw(t, unix.AF_NETLINK, unix.SOCK_RAW) }, "is not a stream socket"},
		{"not listening", func(t *testing.T) *os.File { return raw(t, unix.AF_INET, unix.SOCK_STREAM) }, "does not listen"},
		{"a connection", func(t *testing.T) *os.File {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			fromFD(t, pair[1], err)
			return fromFD(t, pair[0], err)
		}, "does not listen; use ListenStream= and Accept=no"},
		{"any address", func(t *testing.T) *os.File { return listener(t, "tcp4", "0.0.0.0:0") }, "listens on 0.0.0.0:"},
		{"any address of IPv6", func(t *testing.T) *os.File { return listener(t, "tcp", ":0") }, "which other hosts may reach; set ListenStream=127.0.0.1:"},
		{"Multipath TCP", mptcp, "uses another protocol than TCP"},
		{"a pipe", func(t *testing.T) *os.File {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { r.Close(); w.Close() })
			return r
		}, "is not a socket"},
		{"a folder", func(t *testing.T) *os.File {
			f, err := os.Open("/")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			return f
		}, "is not a socket"},
	} {
		t.Run(c.what, func(t *testing.T) {
			bad := c.pass(t)
			if bad == nil {
				proctest.Cannot(t, "not supported by this kernel")
			}
			output, _ := manager{pid: "$$", env: []string{"LISTEN_FDS=2", "LISTEN_FDNAMES=responses:metrics"}, passed: []*os.File{good(t), bad}}.start(t)
			if !strings.HasPrefix(output, `error: socket "metrics" from systemd (descriptor 4) `) || !strings.Contains(output, c.want) {
				t.Errorf("the service printed %q, want %q", output, c.want)
			}
			// If one descriptor is wrong, the others may belong to something else, and must stay open.
			if strings.Contains(output, "was taken") {
				t.Errorf("the service printed %q", output)
			}
		})
	}
}

func TestSocketsEnvironment(t *testing.T) {
	const one = "LISTEN_FDS=1"
	for _, c := range []struct {
		what    string
		manager manager
		want    string // a part of the error; "" for no sockets and no error
	}{
		{"another process", manager{pid: "1", env: []string{one, "LISTEN_FDNAMES=responses"}}, ""},
		{"the parent", manager{pid: "$PPID", env: []string{one, "LISTEN_FDNAMES=responses"}}, ""},
		{"no number", manager{pid: "$$"}, ""},
		{"nothing passed", manager{pid: "$$", env: []string{"LISTEN_FDS=0"}}, ""},
		{"no names", manager{pid: "$$", env: []string{one}}, "0 names for the 1 sockets of LISTEN_FDS"},
		{"default name", manager{pid: "$$", env: []string{one, "LISTEN_FDNAMES=proxy.socket"}}, "set FileDescriptorName=responses"},
		{"negative", manager{pid: "$$", env: []string{"LISTEN_FDS=-3"}}, "is not a number of sockets"},
		{"huge", manager{pid: "$$", env: []string{"LISTEN_FDS=2147483647"}}, "too many"},
		{"more names than sockets", manager{pid: "$$", env: []string{one, "LISTEN_FDNAMES=responses:responses"}}, "2 names for the 1 sockets"},
		// The next descriptor is closed, or belongs to the Go runtime.
		{"more than was passed", manager{pid: "$$", env: []string{"LISTEN_FDS=2", "LISTEN_FDNAMES=responses:responses"}}, `(descriptor 4) is no`},
		{"closed", manager{pid: "$$", env: []string{one, "LISTEN_FDNAMES=responses"}, closing: "3"}, `(descriptor 3) is no`},
	} {
		t.Run(c.what, func(t *testing.T) {
			c.manager.passed = []*os.File{listener(t, "tcp", "127.0.0.1:0")}
			output, _ := c.manager.start(t)
			if c.want == "" && output != "" || c.want != "" && (!strings.HasPrefix(output, "error: ") || !strings.Contains(output, c.want)) {
				t.Errorf("the service printed %q, want %q", output, c.want)
			}
		})
	}
}
