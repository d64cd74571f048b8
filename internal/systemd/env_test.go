package systemd

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

const self = 4711

func env(fds string, names ...string) listenEnv {
	return listenEnv{pid: strconv.Itoa(self), fds: fds, names: strings.Join(names, ":"), named: len(names) > 0}
}

// A kernel stands in for the real one: it notes which descriptors are touched.
type kernel struct {
	checked, taken []int
	bad            int // check refuses this descriptor
}

func (k *kernel) check(d descriptor) error {
	k.checked = append(k.checked, d.fd)
	if d.fd == k.bad {
		return errors.New("bad")
	}
	return nil
}

type fakeListener struct{ net.Listener }

func (k *kernel) take(d descriptor) (net.Listener, error) {
	k.taken = append(k.taken, d.fd)
	return fakeListener{}, nil
}

func TestListenEnv(t *testing.T) {
	for _, c := range []struct {
		what string
		env  listenEnv
		want string // names that are served, or the error
	}{
		{"no systemd", listenEnv{}, ""},
		{"one", env("1", "responses"), "responses"},
		{"several", env("3", "responses", "responses", "metrics"), "responses responses metrics"},
		{"none", env("0"), ""},
		{"no number", listenEnv{pid: "4711"}, ""},
		{"no process", listenEnv{fds: "1", names: "responses", named: true}, ""},
		{"another process", listenEnv{pid: "4712", fds: "1", names: "responses", named: true}, ""},
		{"process zero", listenEnv{pid: "0", fds: "1"}, ""},
		{"negative process", listenEnv{pid: "-4711", fds: "1"}, ""},
		{"odd process", listenEnv{pid: " 4711", fds: "1"}, ""},
		{"another's nonsense", listenEnv{pid: "1", fds: "nonsense"}, ""},

		{"negative", env("-1", "responses"), `LISTEN_FDS="-1" is not a number`},
		{"huge", env("99999999999999999999"), "is not a number"},
		{"INT_MAX", env("2147483647"), "too many sockets"},
		{"one too many", env("65"), "LISTEN_FDS=65 are too many sockets; pass 64 at most"},
		{"word", env("one"), "is not a number"},
		{"plus", env("+1", "responses"), "is not a number"},
		{"trailing", env("1 ", "responses"), "is not a number"},

		{"no names", env("1"), `socket "unknown" from systemd (descriptor 3) has no name`},
		{"empty names", env("1", ""), "0 names for the 1 sockets"},
		{"too few names", env("2", "responses"), "1 names for the 2 sockets"},
		{"too many names", env("1", "responses", "metrics"), "2 names for the 1 sockets"},
		{"default name", env("1", "responses-api-proxy.socket"), "set FileDescriptorName=responses or FileDescriptorName=metrics"},
		{"empty name", env("2", "responses", ""), `socket "" from systemd (descriptor 4) has no name`},
		{"case", env("1", "Responses"), "has no name that is known"},
		{"second metrics", env("3", "metrics", "responses", "metrics"), `socket "metrics" from systemd (descriptor 5) is the second`},
	} {
		t.Run(c.what, func(t *testing.T) {
			var k kernel
			sockets, err := c.env.sockets(self, k.check, k.take)
			if err != nil {
				if c.want == "" || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %q, want %q", err, c.want)
				}
				if len(sockets)+len(k.taken) > 0 {
					t.Errorf("an error, and %v were taken", k.taken)
				}
				return
			}
			var got []string
			for _, s := range sockets {
				got = append(got, s.Name)
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// Where one descriptor is not what it should be, the others may be anything.
func TestNothingIsTakenBeforeAllIsChecked(t *testing.T) {
	k := kernel{bad: 5}
	if sockets, err := env("3", "responses", "responses", "metrics").sockets(self, k.check, k.take); err == nil || sockets != nil {
		t.Errorf("%v, %v", sockets, err)
	}
	if len(k.taken) > 0 {
		t.Errorf("%v were taken", k.taken)
	}
}

func FuzzListenEnv(f *testing.F) {
	f.Add("4711", "1", "responses", true)
	f.Add("4711", "2", "responses:metrics", true)
	f.Add("4711", "-1", "", false)
	f.Add("4711", "99999999999999999999", "x", true)
	f.Add("1", "2147483647", ":::", true)
	f.Fuzz(func(t *testing.T, pid, fds, names string, named bool) {
		var k kernel
		e := listenEnv{pid: pid, fds: fds, names: names, named: named}
		sockets, err := e.sockets(self, k.check, k.take)
		for i, fd := range k.checked {
			if fd != firstFD+i || i >= maxSockets {
				t.Fatalf("descriptors %v were touched", k.checked)
			}
		}
		switch {
		case err != nil:
			if len(sockets) > 0 || len(k.taken) > 0 {
				t.Fatalf("%v, and %v were taken", err, k.taken)
			}
			if text := err.Error(); len(text) > 1000 || strings.ContainsFunc(text, unicode.IsControl) {
				t.Fatalf("an unfit message: %q", text)
			}
		case len(sockets) == 0:
			if len(k.checked) > 0 {
				t.Fatalf("no sockets, but %v were touched", k.checked)
			}
		default:
			checkFuzzed(t, e, k, sockets)
		}
	})
}

// checkFuzzed: who gets sockets gets as many as were announced.
func checkFuzzed(t *testing.T, e listenEnv, k kernel, sockets []Socket) {
	if e.pid != strconv.Itoa(self) || !slices.Equal(k.checked, k.taken) || len(sockets) != len(k.taken) {
		t.Fatalf("%+v: %d sockets, checked %v, taken %v", e, len(sockets), k.checked, k.taken)
	}
	if n, err := strconv.Atoi(e.fds); err != nil || n != len(sockets) {
		t.Fatalf("LISTEN_FDS=%q: %d sockets", e.fds, len(sockets))
	}
	metrics := 0
	for _, s := range sockets {
		if s.Listener == nil || s.Name != Responses && s.Name != Metrics {
			t.Fatalf("%+v", s)
		}
		if s.Name == Metrics {
			metrics++
		}
	}
	if metrics > 1 {
		t.Fatalf("%d named metrics", metrics)
	}
}

func TestWatchdogEnv(t *testing.T) {
	const bad = -1
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"", "", 0},
		{"", "4711", 0},
		{"30000000", "4711", 30 * time.Second},
		{"30000000", "", 30 * time.Second},
		{"1", "", time.Microsecond},
		{"30000000", "4712", 0},
		{"30000000", "nonsense", 0},
		{"nonsense", "4712", 0},
		{"9223372036854774", "", 9223372036854774 * time.Microsecond},

		{"0", "", bad},
		{"-1", "", bad},
		{"nonsense", "4711", bad},
		{"9223372036854776", "", bad}, // more than a time.Duration holds
		{"18446744073709551615", "", bad},
		{"99999999999999999999", "", bad},
	} {
		got, err := notifyEnv{usec: c.usec, pid: c.pid}.timeout(self)
		if c.want == bad {
			if err == nil || !strings.Contains(err.Error(), "WATCHDOG_USEC") {
				t.Errorf("%+v: %v, %v", c, got, err)
			}
		} else if err != nil || got != c.want {
			t.Errorf("%+v: %v, %v", c, got, err)
		}
	}
}

func FuzzWatchdogEnv(f *testing.F) {
	f.Add("30000000", "4711")
	f.Add("-1", "")
	f.Fuzz(func(t *testing.T, usec, pid string) {
		got, err := notifyEnv{usec: usec, pid: pid}.timeout(self)
		if got < 0 || err != nil && got != 0 {
			t.Fatalf("%v, %v", got, err)
		}
		if n, convErr := strconv.Atoi(usec); got > 0 && (convErr != nil || got != time.Duration(n)*time.Microsecond) {
			t.Fatalf("%q: %v", usec, got)
		}
	})
}

func TestOneLine(t *testing.T) {
	long := strings.Repeat("ä", maxStatus)
	for text, want := range map[string]string{
		"":                             "",
		"serving on 127.0.0.1:8080":    "serving on 127.0.0.1:8080",
		"a\nREADY=1\r\nSTOPPING=1\x00": "a READY=1  STOPPING=1 ",
		"\u2028\u0085\x1b[31m":         "   [31m",
		"caf\xe9":                      "caf\ufffd",
		long:                           long[:maxStatus],
		"x" + long:                     "x" + long[:maxStatus-2], // no half of a letter
	} {
		if got := oneLine(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

func FuzzOneLine(f *testing.F) {
	f.Add("a\nREADY=1")
	f.Add(strings.Repeat("ä", maxStatus))
	f.Add(strings.Repeat("\xff", maxStatus))
	f.Fuzz(func(t *testing.T, text string) {
		got := oneLine(text)
		if len(got) > maxStatus || !utf8.ValidString(got) || strings.ContainsFunc(got, unicode.IsControl) {
			t.Fatalf("%q", got)
		}
	})
}

func TestNilNotifier(t *testing.T) {
	var n *Notifier
	err := errors.Join(n.Ready("x"), n.Status("x"), n.Stopping("x"), n.Alive(), n.Close())
	if err != nil || n.Watchdog() != 0 {
		t.Error(err, n.Watchdog())
	}
}

func TestNoNotifySocket(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "nonsense") // of no interest then
	if n, err := NewNotifier(); n != nil || err != nil {
		t.Errorf("%v, %v", n, err)
	}
}

func ExampleNotifier() {
	n, err := NewNotifier()
	fmt.Println(n == nil, err, n.Ready("serving")) // nobody listens, and nobody need ask
	// Output: true <nil> <nil>
}
