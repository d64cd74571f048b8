package server

import (
	"io"
	"net"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// TestUnwatchedIsNotServed checks that a connection whose end the kernel would not report is closed, with a line in the
// log, and leaves nothing.
func TestUnwatchedIsNotServed(t *testing.T) {
	var lines []string
	s := newHanging(t, func(line string) { lines = append(lines, line) })
	defer s.Close()
	s.watcher.fd = -1
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client := dial(t, l.Addr().String(), get)
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s.admit(accepted)
	if got, err := io.ReadAll(client); len(got) > 0 || isTimeout(err) {
		t.Errorf("it is served: %q, %v", got, err)
	}
	proctest.Eventually(t, "no connection is open", func() bool { return s.Connections() == 0 })
	if len(lines) != 1 || !strings.HasPrefix(lines[0], "cannot watch a connection, which is closed: bad file descriptor") {
		t.Errorf("logged %q", lines)
	}
}
