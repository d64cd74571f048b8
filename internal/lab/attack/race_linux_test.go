package attack

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// TestRace: a process of the proxy's user wins the race against a program that this user can read, which --protection strict does
// not start. It opens none whose file only root can read, and that serves.
func TestRace(t *testing.T) {
	needsRoot(t)
	scope, _ := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	if len(scope) > 0 && scope[0] != '0' {
		proctest.Cannot(t, "kernel.yama.ptrace_scope keeps a user from attaching to another process of the user")
	}
	up, err := startFakeUpstream([]byte(canary))
	if err != nil {
		t.Fatal(err)
	}
	defer up.close()
	installed := program(t, "responses-api-proxy")
	readable := filepath.Join(publicDir(t), "readable")
	text, err := os.ReadFile(installed)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(readable, text, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		proxy, text string
		want        result
	}{
		{readable, "opened at ", fail},
		{readable + " --protection strict", "a proxy as uid 65534 does not serve: responses-api-proxy: --protection strict: start-window=open: ", skipped},
		{installed + " --protection strict", "refused at ", pass},
	} {
		tgt := &target{options: &options{proxy: c.proxy}, key: []byte(canary), up: up}
		if got, text := tgt.race(); got != c.want || !strings.HasPrefix(text, c.text) {
			t.Errorf("%s: %s, %s; want %s, %s", c.proxy, got, text, c.want, c.text)
		}
	}
	r := start(t, "ours", "--protection=strict") // as an ordinary user
	if r.uid == 0 {
		t.Fatal("this is root's")
	}
	r.ask(t)
}

// TestRaceVerdict: a single opened process is a fail, and no process found proves nothing.
func TestRaceVerdict(t *testing.T) {
	for _, c := range []struct {
		open, refused, missed int
		want                  result
	}{{1, 9, 0, fail}, {10, 0, 0, fail}, {1, 0, 9, fail}, {0, 10, 0, pass}, {0, 1, 9, pass}, {0, 0, 10, skipped}} {
		if got, _ := raceVerdict(map[string]int{raceOpen: c.open, raceRefused: c.refused, raceMissed: c.missed}); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}
