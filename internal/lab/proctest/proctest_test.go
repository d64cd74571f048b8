package proctest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	Main(m, map[string]Job{
		"echo": func(args []string) error {
			fmt.Println(strings.Join(args, ","), len(os.Environ()))
			UntilInputEnds()
			return nil
		},
		"fail": func([]string) error { return errors.New("no") },
	})
}

// TestJob: a child has its arguments and nothing of the parent's environment.
func TestJob(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "of-the-parent")
	cmd := Command("echo", "-test.run=x", "two words")
	c, err := Start(t, cmd)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Line(), fmt.Sprintf("-test.run=x,two words %d", len(Env("echo"))); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	c.End()
	if !cmd.ProcessState.Success() {
		t.Error(cmd.ProcessState)
	}
	if got := c.Line(); !strings.HasPrefix(got, "no line from the child: ") {
		t.Errorf("after the end: %q", got)
	}
}

// TestFailedJob: a job that fails or does not exist is reported as an error.
func TestFailedJob(t *testing.T) {
	for job, want := range map[string]string{"fail": "no\n", "none": "no job \"none\"\n", "": "no job \"\"\n"} {
		cmd := Command(job)
		out, err := cmd.Output()
		if err == nil || cmd.ProcessState.ExitCode() != 1 || string(out) != want {
			t.Errorf("%q: %v, %q", job, err, out)
		}
	}
}

// A recorder is a testing.TB that records how a test would have ended.
type recorder struct {
	testing.TB
	ends []string
}

func (r *recorder) Helper()      {}
func (r *recorder) Fatal(...any) { r.ends = append(r.ends, "fatal") }
func (r *recorder) Skip(...any)  { r.ends = append(r.ends, "skip") }

// TestCannot: in CI no test is skipped.
func TestCannot(t *testing.T) {
	for ci, want := range map[string]string{"true": "fatal", "": "skip"} {
		t.Setenv("CI", ci)
		r := &recorder{}
		if Cannot(r, "why"); r.ends[0] != want {
			t.Errorf("CI=%q: %q", ci, r.ends)
		}
	}
	r := &recorder{}
	if NeedRoot(r, "be other users"); (len(r.ends) == 0) != (os.Geteuid() == 0) {
		t.Errorf("uid %d: %q", os.Geteuid(), r.ends)
	}
	if !slices.Contains(Env("x"), jobVar+"=x") {
		t.Error(Env("x"))
	}
}
