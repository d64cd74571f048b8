package policy

import (
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
)

// dialUnix returns the server's side of a connection of this process.
func dialUnix(t *testing.T) net.Conn {
	t.Helper()
	_, server := proctest.UnixPair(t)
	return server
}

// TestCallerOverUnix: the caller is who the kernel reports, with the name of its process if that is configured.
func TestCallerOverUnix(t *testing.T) {
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, commands := range []bool{false, true} {
		s := newPolicy(Config{Commands: commands}).Connect(dialUnix(t))
		want := ""
		if commands {
			want = strings.TrimSpace(string(comm))
		}
		who := s.Caller()
		if !who.Unix || !who.Known || who.UID != uint32(os.Geteuid()) || who.PID != os.Getpid() || !slices.Contains(who.Groups, uint32(os.Getegid())) || who.Command != want {
			t.Errorf("commands %t: %+v", commands, who)
		}
		s.Close()
	}
}

// TestNoPlaceLeft: who gets no place among the connections gets the reason.
func TestNoPlaceLeft(t *testing.T) {
	unknown, _ := net.Pipe()
	other := Users{UIDs: []uint32{uint32(os.Geteuid()) + 1}}
	for _, c := range []struct {
		cfg  Config
		nc   net.Conn
		code apierror.Code
		text string
	}{
		{Config{}, unknown, apierror.TooManyConnections, "Users whom the kernel does not report have"},
		{Config{}, dialUnix(t), apierror.TooManyConnections, "Uid "},
		{Config{Users: other}, dialUnix(t), apierror.UserNotAllowed, "--allow-user"},
	} {
		c.cfg.Limits.MaxConnections = 2
		g := newPolicy(c.cfg)
		first, second := g.Connect(c.nc), g.Connect(c.nc)
		if d := first.Denial(); d != nil {
			t.Errorf("the first connection: %+v", d)
		}
		if d := second.Denial(); codeOf(d) != c.code || !strings.Contains(d.Message, c.text) || second.Silent() {
			t.Errorf("the second connection: %+v, silent %t; want %s with %q", d, second.Silent(), c.code, c.text)
		}
		first.Close()
		second.Close()
	}
}
