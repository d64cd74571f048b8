package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/sandbox"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// TestStandardOutput runs a program whose standard output has no reader: it does not block, and it ends.
func TestStandardOutput(t *testing.T) {
	const n = 6000
	if proctest.AgainDir() != "" {
		l, err := Open("-", -1, nil)
		if err != nil {
			t.Fatal(err)
		}
		write(l, 0, n)
		l.Reopen() // does nothing
		l.Close()
		fmt.Fprint(os.Stderr, l.Lost.Load())
		os.Exit(0) // or package testing would write to standard output
	}
	reader, writer := proctest.Pipe(t)
	var stderr bytes.Buffer
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$")
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), proctest.AgainVar+"=-"), writer, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	writer.Close()
	got, err := io.ReadAll(reader)
	if err != nil || !bytes.HasPrefix(got, []byte(`{"time":"2026`)) {
		t.Errorf("it wrote %.1000q, %v", got, err)
	}
	lost, err := strconv.Atoi(stderr.String())
	if arrived := bytes.Count(got, []byte("\n")); err != nil || arrived+lost != n || lost == 0 {
		t.Errorf("%d lines arrived, %d are lost, of %d; %v", arrived, lost, n, err)
	}
}

// TestMain lets proctest remove the binary of Static.
func TestMain(m *testing.M) { proctest.Main(m, nil) }

// TestRotationInSandbox rotates the file in the sandbox, which allows nothing else.
func TestRotationInSandbox(t *testing.T) {
	if proctest.AgainDir() == "" {
		dir := t.TempDir()
		proctest.Again(t, proctest.Static(t), dir, nil)
		proctest.CheckLines(t, 20, 0, filepath.Join(dir, "audit"), filepath.Join(dir, "audit.1"))
		return
	}
	dir := proctest.AgainDir()
	path, r := filepath.Join(dir, "audit"), proctest.NewReports()
	l := mustOpen(t, path, r)
	write(l, 0, 10)
	proctest.Eventually(t, "the lines are written", func() bool { seen, _ := proctest.Lines(t, path); return len(seen) == 10 })
	if err := os.Rename(path, path+".1"); err != nil { // the sandbox forbids it
		t.Fatal(err)
	}
	report, err := sandbox.Enforce(sandbox.Policy{Append: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range report {
		if (p.Name == "landlock" || p.Name == "seccomp") && p.State == "" {
			proctest.Cannot(t, fmt.Sprint("the sandbox is incomplete: ", report))
		}
	}
	l.Reopen()
	write(l, 10, 20)
	l.Close()
	if l.Lost.Load() != 0 {
		t.Errorf("%d lines lost", l.Lost.Load())
	}
	r.Silent(t)
	if f, err := os.Open(path); !errors.Is(err, os.ErrPermission) {
		f.Close()
		t.Error("the sandbox lets it read the file: this tests nothing")
	}
}
