package systemd

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
)

const self = 4711

func env(fds string, names ...string) map[string]string {
	e := map[string]string{"LISTEN_PID": strconv.Itoa(self), "LISTEN_FDS": fds}
	if len(names) > 0 {
		e["LISTEN_FDNAMES"] = strings.Join(names, ":")
	}
	return e
}

// envOf returns an environment for another process; unset omits a variable.
func envOf(pid, fds, names string) map[string]string {
	e := map[string]string{}
	for name, value := range map[string]string{"LISTEN_PID": pid, "LISTEN_FDS": fds, "LISTEN_FDNAMES": names} {
		if value != unset {
			e[name] = value
		}
	}
	return e
}

const unset = "(unset)"

func TestListenEnv(t *testing.T) {
	for _, c := range []struct {
		what string
		env  map[string]string
		want string // the names of the sockets, or the error
	}{
		{"no systemd", nil, ""},
		{"one", env("1", "responses"), "responses"},
		{"several", env("3", "responses", "responses", "metrics"), "responses responses metrics"},
		{"none", env("0"), ""},
		{"no number", envOf("4711", unset, unset), ""},
		{"no process", envOf(unset, "1", "responses"), ""},
		{"another process", envOf("4712", "1", "responses"), ""},
		{"process zero", envOf("0", "1", unset), ""},
		{"negative process", envOf("-4711", "1", unset), ""},
		{"odd process", envOf(" 4711", "1", unset), ""},
		{"another's nonsense", envOf("1", "invalid", unset), ""},

		{"negative", env("-1", "responses"), `LISTEN_FDS="-1" is not a number`},
		{"huge", env("99999999999999999999"), "is not a number"},
		{"INT_MAX", env("2147483647"), "too many sockets"},
		{"one too many", env("65"), "LISTEN_FDS=65 is too many sockets; pass at most 64"},
		{"word", env("one"), "is not a number"},
		{"plus", env("+1", "responses"), "is not a number"},
		{"trailing", env("1 ", "responses"), "is not a number"},

		{"no names", env("1"), "0 names for the 1 sockets of LISTEN_FDS; only systemd should set them, from FileDescriptorName="},
		{"empty names", env("1", ""), "0 names for the 1 sockets"},
		{"too few names", env("2", "responses"), "1 names for the 2 sockets"},
		{"too many names", env("1", "responses", "metrics"), "2 names for the 1 sockets"},
		{"default name", env("1", "responses-api-proxy.socket"), "set FileDescriptorName=responses or FileDescriptorName=metrics"},
		{"empty name", env("2", "responses", ""), `socket "" from systemd (descriptor 4) has an unknown name`},
		{"case", env("1", "Responses"), "has an unknown name"},
		{"second metrics", env("3", "metrics", "responses", "metrics"), `socket "metrics" from systemd (descriptor 5) is the second`},
	} {
		t.Run(c.what, func(t *testing.T) {
			got, err := socketNames(c.env, self)
			if err != nil {
				if c.want == "" || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %q, want %q", err, c.want)
				}
				if got != nil {
					t.Errorf("an error, and %v", got)
				}
				return
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func FuzzListenEnv(f *testing.F) {
	f.Add("4711", "1", "responses", true)
	f.Add("4711", "2", "responses:metrics", true)
	f.Add("4711", "-1", "", false)
	f.Add("4711", "99999999999999999999", "x", true)
	f.Add("1", "2147483647", ":::", true)
	f.Fuzz(func(t *testing.T, pid, fds, joined string, named bool) {
		if !named {
			joined = unset
		}
		names, err := socketNames(envOf(pid, fds, joined), self)
		if err != nil {
			if names != nil {
				t.Fatalf("%v, and %v", err, names)
			}
			if text := err.Error(); len(text) > 1000 || strings.ContainsFunc(text, unicode.IsControl) {
				t.Fatalf("an unsuitable message: %q", text)
			}
			return
		}
		if len(names) > 0 {
			checkFuzzed(t, pid, fds, names)
		}
	})
}

// checkFuzzed checks that as many sockets are returned as were announced.
func checkFuzzed(t *testing.T, pid, fds string, names []string) {
	if pid != strconv.Itoa(self) || len(names) > maxSockets {
		t.Fatalf("process %q: %q", pid, names)
	}
	if n, err := strconv.Atoi(fds); err != nil || n != len(names) {
		t.Fatalf("LISTEN_FDS=%q: %d sockets", fds, len(names))
	}
	metrics := 0
	for _, name := range names {
		if name != Responses && name != Metrics {
			t.Fatalf("%q", name)
		}
		if name == Metrics {
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
		{"30000000", "invalid", 0},
		{"invalid", "4712", 0},
		{"9223372036854774", "", 9223372036854774 * time.Microsecond},

		{"0", "", bad},
		{"-1", "", bad},
		{"invalid", "4711", bad},
		{"9223372036854776", "", bad}, // more than a time.Duration can represent
		{"18446744073709551615", "", bad},
		{"99999999999999999999", "", bad},
	} {
		got, err := watchdogTime(map[string]string{"WATCHDOG_USEC": c.usec, "WATCHDOG_PID": c.pid}, self)
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
		got, err := watchdogTime(map[string]string{"WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}, self)
		if got < 0 || err != nil && got != 0 {
			t.Fatalf("%v, %v", got, err)
		}
		if n, convErr := strconv.Atoi(usec); got > 0 && (convErr != nil || got != time.Duration(n)*time.Microsecond) {
			t.Fatalf("%q: %v", usec, got)
		}
	})
}

func TestNilNotifier(t *testing.T) {
	var n *Notifier
	err := errors.Join(n.Notify(Ready, "x"), n.Notify(Stopping, "x"), n.Notify(Alive, ""), n.Close())
	if err != nil || n.Watchdog() != 0 {
		t.Error(err, n.Watchdog())
	}
}

func TestNoNotifySocket(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "invalid") // ignored without a socket
	if n, err := NewNotifier(); n != nil || err != nil {
		t.Errorf("%v, %v", n, err)
	}
}

func ExampleNotifier() {
	n, err := NewNotifier()
	fmt.Println(n == nil, err, n.Notify(Ready, "serving")) // a nil Notifier needs no check
	// Output: true <nil> <nil>
}
