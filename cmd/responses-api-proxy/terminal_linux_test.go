package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal opens a pseudo-terminal: what a user types goes into keyboard.
func terminal(t *testing.T) (keyboard, tty *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keyboard.Close() })
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return keyboard, tty
}

func echoes(t *testing.T, tty *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

// TestTerminal checks that a typed key is prompted for and not echoed, and that
// the terminal echoes again afterwards, whether a key came, nothing was typed but
// Enter or Ctrl-D, or the prompt was interrupted.
func TestTerminal(t *testing.T) {
	dir := t.TempDir()
	if err := build(dir); err != nil {
		t.Fatal(err)
	}
	for _, typed := range []string{"sk-typed\n", "\n", "\x04", ""} {
		keyboard, tty := terminal(t)
		cmd := exec.Command(dir + "/responses-api-proxy")
		cmd.Stdin = tty
		stderr, err := cmd.StderrPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(patience, func() { cmd.Process.Kill() }) // ends the reads below, too
		lines := bufio.NewReader(stderr)
		if prompt, err := lines.ReadString(':'); err != nil || !strings.Contains(prompt, "OpenAI API key") {
			cmd.Process.Kill()
			t.Fatalf("waited for the prompt: %q, %v", prompt, err)
		}
		if echoes(t, tty) {
			t.Error("what is typed now is echoed")
		}
		io.WriteString(keyboard, typed)
		if typed != "" {
			want := "nothing was typed; start the proxy again"
			if strings.HasPrefix(typed, "sk-") {
				want = "listening on"
			}
			if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, want) {
				t.Errorf("typed %q: %q, %v; want %q", typed, line, err, want)
			}
			if !echoes(t, tty) {
				t.Error("the terminal does not echo again")
			}
		}
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
		kill.Stop()
		if !echoes(t, tty) {
			t.Errorf("typed %q: the terminal does not echo after the end", typed)
		}
	}
}
