// Package npm holds the npm packages, and no code but the tests of their launcher.
package npm

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/launch"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// key is another one in each run: Node.js has alphabets and digits in its own memory.
var key = []byte("sk-" + rand.Text() + rand.Text())

func TestMain(m *testing.M) {
	proctest.Main(m, map[string]proctest.Job{"interrupts": countInterrupts})
}

// countInterrupts prints how many SIGINT came before SIGTERM.
func countInterrupts([]string) error {
	signals := make(chan os.Signal, 10)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	fmt.Println("ready")
	n := 0
	for s := range signals {
		if s == syscall.SIGTERM {
			break
		}
		n++
		fmt.Println("\ninterrupt") // after the terminal's echo
	}
	fmt.Println("interrupts:", n)
	os.Stdin.Read(make([]byte, 1)) // the terminal loses what is unread when its session's leader ends
	return nil
}

// installed lays out the packages as npm does, with program as the system's, and
// returns the command line that starts the launcher.
func installed(t *testing.T, program string) []string {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		proctest.Cannot(t, "run Node.js: "+err.Error())
	}
	scope := filepath.Join(t.TempDir(), "node_modules", "@responses-api-proxy")
	system := filepath.Join(scope, "linux-"+strings.Replace(runtime.GOARCH, "amd64", "x64", 1))
	launcher, err := os.ReadFile("cli/launcher.js")
	for _, err := range []error{
		err,
		os.MkdirAll(scope+"/cli", 0o755),
		os.MkdirAll(system, 0o755),
		os.WriteFile(scope+"/cli/launcher.js", launcher, 0o644),
		os.WriteFile(system+"/package.json", []byte("{}"), 0o644),
		os.Symlink(program, system+"/responses-api-proxy"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return []string{node, scope + "/cli/launcher.js"}
}

// start starts the launcher, and through it the proxy before a fake upstream.
func start(t *testing.T, line []string) (*exec.Cmd, *launch.Proxy) {
	t.Helper()
	up, err := openaitest.Start(openaitest.Options{Key: string(key)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(up.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	info := filepath.Join(t.TempDir(), "info")
	cmd := exec.Command(line[0], append(line[1:], "--server-info", info, "--upstream-url", up.URL())...)
	proxy, err := launch.Start(ctx, cmd, key, info, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	resp, err := http.Post(fmt.Sprintf("http://127.0.0.1:%d/v1/responses", proxy.Port), "application/json", strings.NewReader(`{"input":"hello"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d", resp.StatusCode)
	}
	return cmd, proxy
}

// TestLauncherNeverHasTheKey: the launcher's memory has no part of a key that went
// through its descriptor 0. A script that reads its standard input shows that it
// would be found.
func TestLauncherNeverHasTheKey(t *testing.T) {
	proctest.NeedRoot(t, "read another process's memory")
	line := installed(t, proctest.Program(t, "../../cmd/responses-api-proxy"))
	cmd, proxy := start(t, line)
	if cmd.Process.Pid == proxy.PID {
		t.Log("the program has replaced the launcher: there is no memory of Node.js")
	} else if r, err := memscan.Process(cmd.Process.Pid, key); err != nil || r.Full+r.Fragments > 0 || r.Bytes < 1<<20 {
		t.Errorf("the launcher's memory: %+v, %v", r, err)
	}

	reads := exec.Command(line[0], "-e", `process.stdin.on("data", (d) => { globalThis.kept = d; console.log("read"); });`)
	child, err := proctest.Start(t, reads)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(child.In, "%s\n", key)
	if got := child.Line(); got != "read" {
		t.Fatalf("the script prints %q", got)
	}
	if r, err := memscan.Process(reads.Process.Pid, key); err != nil || r.Full == 0 {
		t.Errorf("a script that has read the key: %+v, %v", r, err)
	}
}

// TestLauncherEndsAsTheProgram: with its exit code, or by its signal.
func TestLauncherEndsAsTheProgram(t *testing.T) {
	line := installed(t, proctest.Program(t, "../../cmd/responses-api-proxy"))
	var exit *exec.ExitError
	if out, err := exec.Command(line[0], append(line[1:], "--no-such-flag")...).CombinedOutput(); !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("a wrong flag: %v\n%s", err, out)
	}
	for _, c := range []struct {
		name   string
		signal func(launcher, program int) error
		ends   func(syscall.WaitStatus) bool
	}{
		{"SIGTERM to the launcher", func(launcher, _ int) error { return syscall.Kill(launcher, syscall.SIGTERM) },
			func(s syscall.WaitStatus) bool { return s.Exited() && s.ExitStatus() == 0 }},
		{"SIGKILL to the program", func(_, program int) error { return syscall.Kill(program, syscall.SIGKILL) },
			func(s syscall.WaitStatus) bool { return s.Signaled() && s.Signal() == syscall.SIGKILL }},
	} {
		cmd, proxy := start(t, line)
		if err := c.signal(cmd.Process.Pid, proxy.PID); err != nil {
			t.Fatal(err)
		}
		select {
		case <-proxy.Ended:
		case <-time.After(time.Minute):
			t.Fatalf("%s: timed out waiting for the launcher to end", c.name)
		}
		if status := cmd.ProcessState.Sys().(syscall.WaitStatus); !c.ends(status) {
			t.Errorf("%s: it ends with %v", c.name, cmd.ProcessState)
		}
	}
}

// TestLauncherInterruptsOnce: a terminal sends SIGINT to the launcher and to the
// program. Forwarded as well, it would cut the requests that run.
func TestLauncherInterruptsOnce(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	line := installed(t, self)
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append(proctest.Env("interrupts"), "PATH="+os.Getenv("PATH"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	tty.Close()
	stop := time.AfterFunc(time.Minute, func() { master.Close() })
	defer stop.Stop()

	until(t, master, "ready")
	if _, err := master.Write([]byte{3}); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	until(t, master, "interrupt")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := until(t, master, "interrupts: "); got != "interrupts: 1" {
		t.Errorf("the program prints %q", got)
	}
	if _, err := master.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
}

// until reads from a terminal until a line begins with text, and returns that line.
func until(t *testing.T, terminal *os.File, text string) string {
	t.Helper()
	var seen []byte
	for b := make([]byte, 1); ; {
		if _, err := terminal.Read(b); err != nil {
			t.Fatalf("waiting for %q: %v\n%s", text, err, seen)
		}
		seen = append(seen, b...)
		if last := seen[bytes.LastIndexByte(bytes.TrimRight(seen, "\r\n"), '\n')+1:]; b[0] == '\n' && bytes.HasPrefix(last, []byte(text)) {
			return strings.TrimSpace(string(last))
		}
	}
}
