package main

import (
	"strings"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
)

var (
	clean  = find{Report: memscan.Report{Bytes: 13_300_000, Unreadable: 9}}
	denied = find{denied: true}
)

func copies(full, fragments int) find {
	return find{Report: memscan.Report{Full: full, Fragments: fragments, Bytes: 20_900_000}}
}

func memory(f find) findings { return findings{mem: f} }

const warning = "the key lies in locked memory"

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name        string
		ours, naive findings
		host        host
		want        string   // part of the error; "" for none
		notes       []string // parts of the note; nil for none
	}{
		{"root finds nothing", memory(clean), memory(copies(57, 2)), host{root: true}, "", nil},
		{"user is denied", memory(denied), memory(copies(57, 2)), host{}, "", []string{"As root"}},
		{"user is denied, Yama 1", memory(denied), memory(copies(57, 2)), host{yama: 1}, "", []string{"As root"}},
		{"weak root", memory(denied), memory(copies(1, 0)), host{root: true}, "", []string{"CAP_SYS_PTRACE"}},
		{"Yama denies all", memory(denied), memory(denied), host{yama: 2}, "", []string{"ptrace_scope=2"}},
		{"Yama, fallback", memory(denied), memory(denied), host{yama: 3, noSecretMemory: warning}, "", []string{"ptrace_scope=3", "root could read the key"}},
		{"user is denied, fallback", memory(denied), memory(copies(1, 0)), host{noSecretMemory: warning}, "", []string{"root could read the key"}},
		{"copy", memory(copies(1, 0)), memory(copies(57, 2)), host{root: true}, "read from the proxy's memory", nil},
		{"fragment", memory(copies(0, 1)), memory(copies(57, 2)), host{root: true}, "read from the proxy's memory", nil},
		{"fallback", memory(copies(1, 0)), memory(copies(57, 2)), host{noSecretMemory: warning}, warning, nil},
		{"in the environment", findings{environ: copies(1, 0), mem: clean}, memory(copies(57, 2)), host{}, "environment", nil},
		{"in the arguments", findings{cmdline: copies(1, 0), mem: clean}, memory(copies(57, 2)), host{}, "command line", nil},
		{"broken search", memory(clean), memory(clean), host{root: true}, "broken", nil},
		{"broken search, fragments", memory(clean), memory(copies(0, 3)), host{root: true}, "broken", nil},
		{"sandbox", memory(denied), memory(denied), host{yama: 1}, "sandbox", nil},
	} {
		note, err := c.host.judge(c.ours, c.naive)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if len(c.notes) == 0 && note != "" {
			t.Errorf("%s: %q", c.name, note)
		}
		checkContains(t, note, c.notes...)
		checkScreen(t, note)
		if c.host.noSecretMemory != "" && strings.Contains(note, "finds no key") {
			t.Errorf("%s: a promise that this system cannot keep: %s", c.name, note)
		}
	}
}

func TestCheckStream(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond) }
	stream := func(late func(i int) int) (seen []arrival) {
		for i := range deltas {
			seen = append(seen, arrival{sent: at(80 * i), at: at(80*i + late(i))})
		}
		return seen
	}
	allow := func(name string, seen []arrival) {
		if err := checkStream(seen); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	deny := func(name string, seen []arrival) {
		if checkStream(seen) == nil {
			t.Errorf("%s: no error", name)
		}
	}
	allow("at once", stream(func(int) int { return 1 }))
	allow("late, as on a busy machine", stream(func(int) int { return 200 }))
	deny("collected", stream(func(i int) int { return 80*(deltas-i) + 1 }))
	deny("cut", stream(func(int) int { return 1 })[:deltas-1])
	deny("nothing", nil)
}

func TestReadEvents(t *testing.T) {
	st := &stage{key: newKey()}
	const whole = "data: {\"type\":\"response.completed\"}\n\n"
	for _, c := range []struct{ name, body, want string }{
		{"whole", "event: x\n" + whole, ""},
		{"cut", "data: {\"type\":\"response.created\"}\n\n", "incomplete"},
		{"key in an event", "data: {\"type\":\"" + st.key + "\"}\n\n" + whole, "contains the key"},
		{"key in a comment", ": " + st.key + "\n" + whole, "contains the key"},
		{"not JSON", "data: x\n\n" + whole, "not JSON"},
	} {
		err := st.readEvents(strings.NewReader(c.body), func(arrival) { t.Errorf("%s: text", c.name) })
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), st.key) {
			t.Errorf("%s: the error contains the key", c.name)
		}
	}
}
