package secret

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// terminal opens a pseudo-terminal and returns the user's side and the program's side (pty(7)).
func terminal(t *testing.T) (person, program int) {
	t.Helper()
	person, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		proctest.Cannot(t, "no pseudo-terminal: "+err.Error())
	}
	t.Cleanup(func() { unix.Close(person) })
	if err := unix.IoctlSetPointerInt(person, unix.TIOCSPTLCK, 0); err != nil {
		proctest.Cannot(t, "no pseudo-terminal: "+err.Error())
	}
	n, err := unix.IoctlGetInt(person, unix.TIOCGPTN)
	if err != nil {
		proctest.Cannot(t, "no pseudo-terminal: "+err.Error())
	}
	program, err = unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		proctest.Cannot(t, "no pseudo-terminal: "+err.Error())
	}
	t.Cleanup(func() { unix.Close(program) })
	return person, program
}

func termios(t *testing.T, fd int) unix.Termios {
	t.Helper()
	got, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *got
}

// screen returns the user's output up to and including marker. The kernel delivers echoes late, but in order.
func screen(t *testing.T, person int, marker string) string {
	t.Helper()
	seen := ""
	for end := time.Now().Add(deadline); !strings.Contains(seen, marker); {
		left := time.Until(end).Milliseconds()
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(person), Events: unix.POLLIN}}, int(max(left, 0)))
		if err == unix.EINTR {
			continue
		}
		if n < 1 {
			t.Fatalf("the screen shows %q, want %q: %v", seen, marker, err)
		}
		var p [4096]byte
		if n, err = unix.Read(person, p[:]); err != nil {
			t.Fatal(err)
		}
		seen += string(p[:n])
	}
	return seen
}

func TestTypedKeyIsNotEchoed(t *testing.T) {
	for _, end := range []string{"\n", "\x04\x04"} {
		person, program := terminal(t)
		before := termios(t, program)
		if before.Lflag&unix.ECHO == 0 {
			t.Fatal("the terminal does not echo to begin with")
		}
		restore, tty, err := NoEcho(program)
		if err != nil || !tty {
			t.Fatalf("tty %t, %v", tty, err)
		}
		if during := termios(t, program); during.Lflag&unix.ECHO != 0 || during.Lflag&unix.ICANON == 0 || during.Lflag&unix.ISIG == 0 {
			t.Errorf("local flags %x while the key is typed", during.Lflag)
		}
		writeAll(person, key16+end)
		k, err := readFrom(t, program)
		checkRead(t, k, err, key16, nil)
		writeAll(program, "thanks")
		if seen := screen(t, person, "thanks"); strings.Trim(seen, "\r\n") != "thanks" {
			t.Errorf("the screen shows %q", seen)
		}
		restore()
		if after := termios(t, program); after != before {
			t.Errorf("the terminal was %+v and is now %+v", before, after)
		}
		writeAll(person, "visible\n")
		screen(t, person, "visible")
	}
}

func TestNoEchoElsewhere(t *testing.T) {
	r, w := pipe(t, 0)
	defer unix.Close(w)
	const closed = 1 << 29
	for _, fd := range []int{r, closed} {
		if restore, tty, err := NoEcho(fd); restore != nil || tty || err != nil {
			t.Errorf("descriptor %d: restore given %t, tty %t, %v", fd, restore != nil, tty, err)
		}
	}
}
