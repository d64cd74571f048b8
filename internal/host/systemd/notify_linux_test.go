package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// notifyingService is the child. It sends one message of each kind.
func notifyingService([]string) error {
	n, err := NewNotifier()
	if err != nil {
		fmt.Println("error:", err)
		return nil
	}
	for _, name := range notifyVars {
		if _, ok := os.LookupEnv(name); ok {
			fmt.Println("still there:", name)
		}
	}
	err = errors.Join(n.Notify(Ready, "serving\non 127.0.0.1:8080"), n.Notify(Ready, ""), n.Notify(Alive, "idle\nMAINPID=1"),
		n.Notify(Alive, strings.Repeat("ä", maxStatus)), n.Notify(Alive, ""), n.Notify(Stopping, "draining"), n.Notify(Stopping, ""), n.Close())
	fmt.Println(n == nil, n.Watchdog(), err)
	fmt.Println(n.Notify(Alive, ""))
	return nil
}

var messages = []string{
	"READY=1\nSTATUS=serving\\non 127.0.0.1:8080",
	"READY=1",
	"WATCHDOG=1\nSTATUS=idle\\nMAINPID=1",
	"WATCHDOG=1\nSTATUS=" + strings.Repeat("ä", maxStatus/2) + "... (200 more bytes)",
	"WATCHDOG=1",
	"STOPPING=1\nSTATUS=draining",
	"STOPPING=1",
}

// runNotifying runs the child until it exits.
func runNotifying(t *testing.T, env ...string) (output string, pid int) {
	t.Helper()
	cmd := proctest.Command("notify")
	cmd.Env = slices.Concat(env, cmd.Env, []string{"GOCOVERDIR=" + t.TempDir()})
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out), cmd.Process.Pid
}

// receiver is systemd's end, with SO_PASSCRED to identify the sender.
func receiver(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var setErr error
	err = raw.Control(func(fd uintptr) { setErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	if err := errors.Join(err, setErr); err != nil {
		t.Fatal(err)
	}
	return l
}

// receive returns the next datagram and the sender's pid.
func receive(t *testing.T, l *net.UnixConn) (text string, pid int) {
	t.Helper()
	l.SetReadDeadline(time.Now().Add(timeout))
	b, oob := make([]byte, 4097), make([]byte, 1000)
	n, oobn, _, _, err := l.ReadMsgUnix(b, oob)
	if err != nil {
		t.Fatal(err)
	}
	control, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(control) != 1 {
		t.Fatalf("no credentials: %v, %v", control, err)
	}
	cred, err := unix.ParseUnixCredentials(&control[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n]), int(cred.Pid)
}

// nothingMore fails if there is another datagram.
func nothingMore(t *testing.T, l *net.UnixConn) {
	t.Helper()
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		var b [100]byte
		if n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_DONTWAIT); err == nil {
			t.Errorf("another message: %q", b[:n])
		}
	})
}

func TestNotifications(t *testing.T) {
	for what, name := range map[string]string{
		"path":     filepath.Join(t.TempDir(), "notify"),
		"abstract": fmt.Sprintf("@systemd-test-notify-%d", os.Getpid()),
	} {
		t.Run(what, func(t *testing.T) {
			l := receiver(t, name)
			output, pid := runNotifying(t, "NOTIFY_SOCKET="+name, "WATCHDOG_USEC=30000000")
			if !strings.HasPrefix(output, "false 30s <nil>\n") || !strings.Contains(output, "use of closed network connection") {
				t.Errorf("the service printed %q", output)
			}
			var got []string
			for range messages {
				text, sender := receive(t, l)
				got = append(got, text)
				if sender != pid { // NotifyAccess=main
					t.Errorf("%q comes from process %d, not %d", text, sender, pid)
				}
			}
			if !slices.Equal(got, messages) {
				t.Errorf("got %q", got)
			}
			nothingMore(t, l)
		})
	}
}

func TestNotifierRefused(t *testing.T) {
	dir := t.TempDir()
	receiver(t, dir+"/notify")
	stream, err := net.Listen("unix", dir+"/stream")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stream.Close() })
	for _, c := range []struct {
		socket, usec, want string
	}{
		{dir + "/none", "", "error: cannot connect to systemd's NOTIFY_SOCKET: "},
		{dir + "/stream", "", "error: cannot connect"},
		{"/" + strings.Repeat("x", 200), "", "error: cannot connect"},
		{"@none-" + filepath.Base(dir), "", "error: cannot connect"},
		{"relative", "", `error: NOTIFY_SOCKET="relative" is neither a path nor`},
		{"vsock:2:1234", "", "is neither a path nor"},
		{dir + "/notify", "0", `error: WATCHDOG_USEC="0"`},
		{dir + "/notify", "-1", `error: WATCHDOG_USEC="-1"`},
	} {
		if output, _ := runNotifying(t, "NOTIFY_SOCKET="+c.socket, "WATCHDOG_USEC="+c.usec); !strings.Contains(output, c.want) {
			t.Errorf("%.40s, %q: the service printed %q, want %q", c.socket, c.usec, output, c.want)
		}
	}
	if output, _ := runNotifying(t, "WATCHDOG_USEC=nonsense", "WATCHDOG_PID=1"); !strings.HasPrefix(output, "true 0s <nil>\n<nil>\n") {
		t.Errorf("without systemd: %q", output)
	}
	if output, _ := runNotifying(t, "NOTIFY_SOCKET="+dir+"/notify", "WATCHDOG_USEC=5", "WATCHDOG_PID=1"); !strings.HasPrefix(output, "false 0s <nil>\n") {
		t.Errorf("another process's watchdog: %q", output)
	}
}

// connected returns a Notifier and its receiver.
func connected(t *testing.T) (*Notifier, *net.UnixConn) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "notify")
	l := receiver(t, name)
	t.Setenv("NOTIFY_SOCKET", name)
	n, err := NewNotifier()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n, l
}

// fill sends until the receiver's queue is full.
func fill(t *testing.T, n *Notifier) (sent int) {
	t.Helper()
	for deadline := time.Now().Add(timeout); time.Now().Before(deadline); sent++ {
		if err := n.Notify(Alive, ""); errors.Is(err, os.ErrDeadlineExceeded) {
			return sent
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("the queue never fills")
	return 0
}

// TestNotifierDoesNotBlock: a systemd that does not read blocks no message for longer than a second.
func TestNotifierDoesNotBlock(t *testing.T) {
	n, l := connected(t)
	sent := fill(t, n)
	done := make(chan error, 3)
	go func() {
		for _, state := range []string{Alive, Stopping, Ready} {
			done <- n.Notify(state, "")
		}
	}()
	for range cap(done) {
		select {
		case err := <-done:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
		case <-time.After(timeout):
			t.Fatal("a message blocks")
		}
	}
	for range sent {
		if text, _ := receive(t, l); text != "WATCHDOG=1" {
			t.Errorf("got %q", text)
		}
	}
	nothingMore(t, l)
	// The deadline was reset.
	if err := errors.Join(n.Notify(Alive, ""), n.Notify(Alive, "y")); err != nil {
		t.Error(err)
	}
}

// TestReadyWaitsForRoom: Ready is delivered if the queue gets space in time.
func TestReadyWaitsForRoom(t *testing.T) {
	n, l := connected(t)
	// Ready must be delivered, whether or not it finds the queue full.
	for sent := fill(t, n); ; {
		done := make(chan error, 1)
		go func() { done <- n.Notify(Ready, "") }()
		for range sent {
			receive(t, l)
		}
		err := <-done
		if errors.Is(err, os.ErrDeadlineExceeded) { // a slow machine
			sent = fill(t, n)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, _ := receive(t, l); text != "READY=1" {
			t.Errorf("got %q", text)
		}
		return
	}
}

func TestReceiverGone(t *testing.T) {
	n, l := connected(t)
	l.Close()
	if err := n.Notify(Alive, ""); !errors.Is(err, unix.ECONNREFUSED) {
		t.Error(err)
	}
	if err := n.Notify(Ready, ""); !errors.Is(err, unix.ENOTCONN) { // the kernel has disconnected it
		t.Error(err)
	}
}
