// Package proctest is the test kit for what a test cannot do in its own process: child processes, other users, and
// binaries without cgo.
package proctest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
)

// lineTimeout is how long Line waits.
const lineTimeout = 2 * time.Minute

// jobVar is the variable that names the job of a child.
const jobVar = "PROCTEST_JOB"

// A Job runs in a child process, in place of the tests, with the arguments of Command. Its error is printed to standard
// output.
type Job func(args []string) error

// Main is the body of TestMain: it runs the tests, or the job for which Env or Command started the test binary, and
// exits. The exit code of a job is 0, or 1 if it fails.
func Main(m *testing.M, jobs map[string]Job) {
	name, child := os.LookupEnv(jobVar)
	if !child {
		code := m.Run()
		if binaries.dir != "" {
			os.RemoveAll(binaries.dir)
		}
		os.Exit(code)
	}
	job := jobs[name]
	if job == nil {
		fmt.Printf("no job %q\n", name)
		os.Exit(1)
	}
	if err := job(os.Args[1:]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Env returns the environment that makes the test binary run a job. The race detector does not sleep at the child's
// exit.
func Env(job string) []string { return []string{jobVar + "=" + job, "GORACE=atexit_sleep_ms=0"} }

// Command returns a command that runs a job in the test binary. Its environment is Env's only; its standard error is
// the parent's.
func Command(job string, args ...string) *exec.Cmd {
	return CommandOf(self(), job, args...)
}

// CommandOf is Command for a test binary built by Static.
func CommandOf(binary, job string, args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env, cmd.Stderr = Env(job), os.Stderr
	return cmd
}

// A Child is a running command that prints lines and exits when its standard input is closed.
type Child struct {
	Cmd *exec.Cmd
	In  io.Writer // the standard input
	End func()    // closes In and waits; may be called more than once

	pipe *os.File
	out  *bufio.Scanner
}

// Start starts cmd. The child ends at the end of the test, if not by End. The error is cmd.Start's: not every machine
// has the namespaces that cmd may need.
func Start(t testing.TB, cmd *exec.Cmd) (*Child, error) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &Child{Cmd: cmd, In: in, pipe: out.(*os.File), out: bufio.NewScanner(out)}
	c.End = sync.OnceFunc(func() {
		in.Close()
		cmd.Wait()
	})
	t.Cleanup(c.End)
	return c, nil
}

// Line returns the next line of the child's standard output, or a description of the error.
func (c *Child) Line() string {
	c.pipe.SetReadDeadline(time.Now().Add(lineTimeout))
	if !c.out.Scan() {
		return fmt.Sprintf("no line from the child: %v", c.out.Err())
	}
	return c.out.Text()
}

// Input returns the reading end of a pipe that contains only text, less than 64 KiB. It is closed at the end of the
// test.
func Input(t testing.TB, text string) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return r
}

// Within returns a context with a time-out. It outlives the test's own context, until after its clean-up.
func Within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// UntilInputEnds blocks until the parent ends the child.
func UntilInputEnds() { io.Copy(io.Discard, os.Stdin) }

func self() string {
	if runtime.GOOS == "linux" {
		return "/proc/self/exe" // also for a user who cannot reach the file by its path
	}
	file, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return file
}

// Static returns a copy of this test binary without cgo, as the proxy is built: a binary with cgo, which the race
// detector needs, cannot be sandboxed. Every user can execute it. It is built once; Main removes it.
func Static(t testing.TB) string {
	t.Helper()
	return once(t, "static.test", func(file string) error {
		if linkedWithCgo {
			return goCommand("test", "-c", "-o", file, ".")
		}
		text, err := os.ReadFile(self()) // without a go command, this binary is tested as it is
		return errors.Join(err, os.WriteFile(file, text, 0o755))
	})
}

// Program returns a program built without cgo from a package, an import path or a directory. It has the package's name;
// all programs are in one directory, and every user can execute them. Each is built once; Main removes it.
func Program(t testing.TB, pkg string) string {
	t.Helper()
	return once(t, path.Base(pkg), func(file string) error {
		return goCommand("build", "-trimpath", "-buildvcs=false", "-o", file, pkg)
	})
}

// binaries is the directory with built programs; "" until the first.
var binaries struct {
	mu  sync.Mutex
	dir string
}

// once returns the file with a name, which build creates on the first call.
func once(t testing.TB, name string, build func(file string) error) string {
	t.Helper()
	binaries.mu.Lock()
	defer binaries.mu.Unlock()
	if binaries.dir == "" {
		dir, err := os.MkdirTemp("", "proctest-")
		if err := errors.Join(err, os.Chmod(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
		binaries.dir = dir
	}
	file := filepath.Join(binaries.dir, name)
	if _, err := os.Stat(file); err == nil {
		return file
	}
	if err := build(file); err != nil {
		t.Fatal(err)
	}
	return file
}

// goCommand runs the go command with cgo off.
func goCommand(args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %q: %w: %s", args, err, out)
	}
	return nil
}

// Cannot ends a test that needs what this machine lacks: it skips the test, or fails it if CI is true.
func Cannot(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal("this must be tested in CI, but cannot be: ", why)
	}
	t.Skip("SECURITY TEST SKIPPED: ", why)
}

// NeedRoot ends a test, as Cannot does, unless root runs it.
func NeedRoot(t testing.TB, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		Cannot(t, "only root can "+why)
	}
}

// Dir returns a new directory with a mode. It is removed at the end of the test. Other users can reach it, unlike those of
// t.TempDir, and its path is short enough for a socket's.
func Dir(t testing.TB, mode fs.FileMode) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "test-")
	if err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err := errors.Join(err, os.Chmod(dir, mode)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// UnixAddr returns the address, as flags take it, of a unix socket in a directory of its own.
func UnixAddr(t testing.TB) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no unix sockets here")
	}
	return "unix:" + filepath.Join(Dir(t, 0o700), "s")
}

// UnixPair returns both sides of a connection of this process over a unix socket. They are closed when the test ends.
func UnixPair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(Dir(t, 0o700), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}
