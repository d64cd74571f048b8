package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestUpstreamUser checks that the program, in its sandbox and as another user,
// sends the key only to an upstream of the users that may have it. The user that
// the program becomes is not one of them.
func TestUpstreamUser(t *testing.T) {
	if isRoot() != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("only root can be two users")
		}
		t.Skip("SECURITY TEST SKIPPED: only root can be two users")
	}
	l := freeListener(t)
	a := activate(t, []string{"responses"}, []net.Listener{l})
	named := []string{"--upstream-user", "4711", "--upstream-user", fmt.Sprint(stranger)}
	for _, c := range []struct {
		uid    int
		args   []string
		served bool
	}{{0, nil, true}, {stranger, nil, false}, {nobody, nil, false}, {stranger, named, true}, {nobody, named, false}} {
		t.Run(fmt.Sprintf("%d %q", c.uid, c.args), func(t *testing.T) {
			received := make(chan []byte, 1)
			up := upstreamOf(t, c.uid, received)
			a.args = append([]string{
				"--upstream-url", "http://localhost:" + upstreamPort(up), "--protection=strict", "--user", fmt.Sprint(nobody),
			}, c.args...)
			cmd := a.start()
			client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
			res, err := client.Post("http://"+l.Addr().String()+"/v1/responses", "application/json", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, _ := io.ReadAll(res.Body)
			a.stop(cmd)
			text, log := <-received, fmt.Sprint(cmd.Stderr)
			wantLog := fmt.Sprintf("reason=\"127.0.0.1:%s belongs to uid %d, which may not have the key\" "+
				"hint=\"if that is the upstream's user, add --upstream-user %d\"\n", upstreamPort(up), c.uid, c.uid)
			switch {
			case c.served && (res.StatusCode != 200 || !bytes.Contains(text, []byte("Bearer "+canary+"\r\n"))):
				t.Errorf("status %d; the upstream received %q\n%s", res.StatusCode, text, log)
			case !c.served && len(text) > 0:
				t.Errorf("a user who may not have the key received %q", text)
			case !c.served && (res.StatusCode != 502 || !bytes.Contains(body, []byte(`"upstream_not_trusted"`))):
				t.Errorf("status %d, body %s", res.StatusCode, body)
			case !c.served && bytes.Contains(body, []byte(fmt.Sprint(c.uid))):
				t.Errorf("the client learns the uid: %s", body)
			case !c.served && !(strings.Contains(log, "ERROR request failed code=upstream_not_trusted ") && strings.Contains(log, wantLog)):
				t.Errorf("log %q", log)
			}
		})
	}
}

func upstreamPort(l net.Listener) string {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// upstreamOf serves one connection on a thread of uid's: what counts is who has
// created and accepted a socket.
func upstreamOf(t *testing.T, uid int, received chan<- []byte) (l net.Listener) {
	t.Helper()
	listening := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var err error
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			err = errno
		} else {
			l, err = net.Listen("tcp4", "127.0.0.1:0")
		}
		listening <- err
		if err != nil {
			return
		}
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		var all []byte
		for p := make([]byte, 4<<10); err == nil && !bytes.HasSuffix(all, []byte("{}")); {
			var n int
			n, err = c.Read(p)
			all = append(all, p[:n]...)
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
		received <- all
	}()
	if err := <-listening; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestUpstreamUserNeedsPlainHTTP checks that the flag is refused over https, where it would be without effect.
func TestUpstreamUserNeedsPlainHTTP(t *testing.T) {
	l := freeListener(t)
	a := activate(t, []string{"responses"}, []net.Listener{l}, "--upstream-user", "self", "--upstream-url", "https://upstream.test/")
	if text := a.refused(); !strings.Contains(text, "--upstream-user is for a plain http --upstream-url") {
		t.Errorf("%q", text)
	}
}
