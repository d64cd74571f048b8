package codexaction

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// action is what is read of an action.yml.
type action struct {
	dir             string
	inputs, outputs map[string]string // defaults, and expressions
	steps           []step
}

type step struct {
	id, run string
	env     map[string]string
}

// readAction reads the part of YAML that our files are written in: maps by indentation, one line a value, and texts behind >-.
func readAction(t *testing.T, dir string) *action {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "action.yml"))
	if err != nil {
		t.Fatal(err)
	}
	a := &action{dir: dir, inputs: map[string]string{}, outputs: map[string]string{}}
	var path []string // the keys above the line, one for each two spaces
	for line := range strings.Lines(string(text)) {
		content := strings.TrimLeft(line, " ")
		depth := (len(line) - len(content)) / 2
		key, value, ok := strings.Cut(strings.TrimSuffix(content, "\n"), ":")
		if len(path) > 0 && path[len(path)-1] == "description" && depth == len(path) {
			continue // the text behind >-
		}
		if !ok || depth > len(path) {
			t.Fatalf("%s: cannot read %q", dir, line)
		}
		path = path[:depth]
		if rest, item := strings.CutPrefix(key, "- "); item {
			a.steps = append(a.steps, step{env: map[string]string{}})
			key, path = rest, append(path, "-")
		}
		path = append(path, key)
		a.set(t, path, unquote(strings.TrimSpace(value)))
	}
	return a
}

func unquote(text string) string {
	if len(text) > 1 && text[0] == '"' {
		return strings.TrimSuffix(text[1:], `"`)
	}
	return text
}

func (a *action) set(t *testing.T, path []string, value string) {
	switch at := strings.Join(path, "/"); {
	case len(path) == 3 && path[0] == "inputs" && path[2] == "default":
		a.inputs[path[1]] = value
	case len(path) == 3 && path[0] == "outputs" && path[2] == "value":
		a.outputs[path[1]] = value
	case at == "runs/steps/-/id":
		a.steps[len(a.steps)-1].id = value
	case at == "runs/steps/-/run":
		if value == "" || strings.ContainsAny(value[:1], `|>"'`) {
			t.Fatalf("cannot read the step %q", value)
		}
		a.steps[len(a.steps)-1].run = value
	case strings.HasPrefix(at, "runs/steps/-/env/"):
		a.steps[len(a.steps)-1].env[path[4]] = value
	}
}

// job is one job of a runner.
type job struct {
	*testing.T
	uid     int
	dir     string   // of the job
	env     []string // of every step
	summary string   // file
}

// newJob returns a job whose steps run as uid, with tools and more on PATH, and nothing else.
func newJob(t *testing.T, uid int, more ...string) *job {
	t.Helper()
	j := &job{T: t, uid: uid, dir: newDir(t, uid)}
	bin := newDir(t, 0)
	for _, name := range append(slices.Clip(tools), more...) {
		path, err := exec.LookPath(name)
		if err != nil {
			proctest.Cannot(t, name+" is not installed")
		}
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	j.summary = filepath.Join(j.dir, "summary")
	j.env = []string{"PATH=" + bin, "HOME=" + j.dir, "RUNNER_TEMP=" + j.dir, "GITHUB_RUN_ID=7", "GITHUB_STEP_SUMMARY=" + j.summary}
	return j
}

// tools are what the steps may need: no sudo, no Node, no jq.
var tools = []string{"awk", "bash", "cat", "chmod", "gzip", "ln", "mkdir", "mktemp", "readlink", "rm", "sed", "setsid", "sha256sum", "sleep", "tar", "tr", "uname"}

// newDir returns a directory of uid that every user can reach.
func newDir(t *testing.T, uid int) string {
	t.Helper()
	dir := proctest.Dir(t, 0o755)
	if err := os.Chown(dir, uid, uid); err != nil {
		t.Fatal(err)
	}
	return dir
}

var expression = regexp.MustCompile(`\$\{\{ ([a-z0-9.-]+) \}\}`)

// use runs an action's steps in turn, each as `shell: bash` means, and returns the action's outputs, what the steps print,
// and the first error.
func (j *job) use(a *action, with map[string]string, env ...string) (outputs map[string]string, printed string, err error) {
	j.Helper()
	values := map[string]string{}
	for name, value := range a.inputs {
		values["inputs."+name] = value
	}
	for name, value := range with {
		values["inputs."+name] = value
	}
	expand := func(text string) string {
		return expression.ReplaceAllStringFunc(text, func(e string) string { return values[expression.FindStringSubmatch(e)[1]] })
	}
	for _, s := range a.steps {
		stepEnv := slices.Clone(env)
		for name, value := range s.env {
			stepEnv = append(stepEnv, name+"="+expand(value))
		}
		set, text, stepErr := j.step(a, s, stepEnv)
		printed += text
		for name, value := range set {
			values["steps."+s.id+".outputs."+name] = value
		}
		if err = stepErr; err != nil {
			break
		}
	}
	outputs = map[string]string{}
	for name, value := range a.outputs {
		outputs[name] = expand(value)
	}
	j.Logf("%s %q: %v, outputs %q\n%s", filepath.Base(a.dir), with, err, outputs, printed)
	return outputs, printed, err
}

// step runs one step. It fails if anything holds the step's standard output or error after its end, as a runner waits then.
func (j *job) step(a *action, s step, env []string) (outputs map[string]string, printed string, err error) {
	j.Helper()
	dir := newDir(j.T, j.uid)
	script, output := filepath.Join(dir, "step.sh"), filepath.Join(dir, "output")
	if err := os.WriteFile(script, []byte(s.run), 0o644); err != nil {
		j.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // also when the test is over
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/bash", "--noprofile", "--norc", "-e", "-o", "pipefail", script)
	cmd.Dir = j.dir
	cmd.Env = slices.Concat(j.env, []string{"GITHUB_ACTION_PATH=" + a.dir, "GITHUB_OUTPUT=" + output}, env)
	cmd.SysProcAttr = credential(j.uid)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, 5*time.Second
	if err = cmd.Run(); err == exec.ErrWaitDelay {
		j.Fatalf("a process holds the standard output of step %q", s.run)
	}
	text, _ := os.ReadFile(output)
	outputs = map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		outputs[name] = value
	}
	return outputs, out.String(), err
}

func credential(uid int) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
}

// call sends a request as uid, and returns its status.
func (j *job) call(uid int, port string) string {
	j.Helper()
	cmd := exec.Command("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", "20", "-d", `{"input":"hello"}`, fmt.Sprintf("http://127.0.0.1:%s/v1/responses", port))
	cmd.SysProcAttr, cmd.Dir = credential(uid), "/"
	status, err := cmd.Output() // 000 if nothing listens
	if errors.Is(err, exec.ErrNotFound) {
		proctest.Cannot(j.T, "curl is not installed")
	}
	return string(status)
}

// can reports whether uid can run a command of a shell.
func (j *job) can(uid int, command string) bool {
	cmd := exec.Command("/bin/bash", "-c", command)
	cmd.SysProcAttr, cmd.Dir = credential(uid), "/"
	return cmd.Run() == nil
}
